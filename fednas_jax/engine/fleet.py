"""Candidates x clients in one compiled program: tasks are cut into lanes, and lanes lie across devices and hosts.

The fleet keeps data on the devices and compiled programs; `training.py` and `scoring.py` have what they do. Letters: K
slots for candidates in a stack, C clients, T tasks. A stack is a tree of variables [K, ...].
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding

from fednas_jax.data import normalise
from fednas_jax.engine import ahead, augment, lane_plan, lane_tuning, local, losses, optimizers, scoring
from fednas_jax.engine.aggregation import aggregation_of, bytes_kept
from fednas_jax.engine.attacks import malicious_clients
from fednas_jax.engine.compiling import Compiled, Size
from fednas_jax.engine.feed import Feed, Share
from fednas_jax.engine.fleet_spec import FleetSpec, choice_of, form_of
from fednas_jax.engine.loading import Parts
from fednas_jax.engine.mesh import (
    EACH,
    everywhere,
    layout_of,
    least_memory,
    placed_each,
    placed_host,
)
from fednas_jax.engine.metrics import metric_of, scores
from fednas_jax.engine.programs import Columns, Counts, Lanes, Recipe, Room, ScoreInputs, Table, TrainInputs, lane_table
from fednas_jax.engine.tasks import Effort, Tally, Tasks
from fednas_jax.errors import ConfigError
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Variables, Widths

WHOLE = {"train": "round", "score": "scored"}  # what one program does where all tasks go into one part

MEMORY = 0.5  # share of a device's memory that kept updates may take; data, the stack and lanes need the rest

__all__ = ["Effort", "Fleet", "FleetSpec", "Tally", "Tasks", "Trained"]


class Trained(NamedTuple):
    """What is there after a round."""

    stack: Variables  # [K, ...] on every device
    server: Any  # the server optimiser's state, [K, ...] on every device
    left_out: np.ndarray  # [K] int64 updates that were no finite numbers, or beyond `train.update_bound`
    effort: Effort


class OfRound(NamedTuple):
    """What a round's tasks have in common, or [K, ...] each slot of its own; see `TrainInputs`."""

    key: Any
    candidate_ids: Any
    learning_rate: Any
    own: dict[str, Any]


Cut = list[list[np.ndarray]]  # [P][D] of task numbers [n]


class Fleet:
    """The clients of one packed data set, ready to train and to score any stack of candidates of a network.

    Raises:
      ConfigError: an optimiser, loss, metric or aggregation that the spec names is none, or does not work.
    """

    def __init__(self, spec: FleetSpec):
        self.spec, data = spec, spec.data
        optimizers.check(spec.train)
        losses.check(spec.train.loss, spec.classes)
        attack = spec.participation
        drawn = malicious_clients(attack, data.clients, spec.seed) if spec.malicious is None else spec.malicious
        self.malicious = drawn  # [C] bool
        self._client_ids = np.arange(data.clients) if spec.client_ids is None else spec.client_ids
        self._layout = layout_of(spec.devices or jax.devices())
        self.train_count = np.asarray(data.train_count)
        self.val_count = np.asarray(data.val_count)
        self.steps = local.local_steps(self.train_count, spec.train)
        most = -(-(spec.tasks or spec.slots * data.clients) // self._layout.mesh.size)
        usual = np.resize(self.steps, most)  # tasks of a device in a round
        self.lanes, self.lowering = choice_of(spec, self._layout, usual)
        memory = int(spec.engine.data_share * least_memory(self._layout))
        self._feed = Feed(data, self._layout.hosts, self._layout.host, memory, self.lanes)
        recipe = Recipe(
            spec.network,
            spec.train,
            self._layout.mesh,
            spec.slots,
            self.lanes,
            eval_batch=int(min(spec.engine.eval_batch, max(1, self.val_count.max()))),
            capacity=local.stream_capacity(self.train_count, spec.train) if self.train_count.all() else 0,
            streams=self.streams,
            prepare=augment.preparation(
                spec.train.augment, spec.mean, spec.std, data.inputs.shape[1:], data.inputs.dtype
            ),
            normalise=functools.partial(normalise, mean=spec.mean, std=spec.std),
            classes=spec.classes,
            aggregation=aggregation_of(
                spec.train.aggregation, spec.network.abstract(tuple(spec.network.widths.values()))
            ),
            metric=metric_of(spec.metric, spec.classes),
            attack=attack if self.malicious.any() else None,
        )
        self.compiled = Compiled(recipe, form_of(spec, recipe), self.lowering)
        # Small rounds are one program each. Where some take several parts none are: all would be compiled twice.
        room = lane_plan.TASKS_PER_LANE * self.lanes * self._layout.mesh.size
        fits = self._feed.resident and spec.slots * data.clients <= room
        self._at_once = fits and lane_tuning.is_small(spec.network, spec.train, usual)
        self._resident: Columns | None = None
        if self._feed.resident:
            self._resident = Columns(*(placed_host(self._layout, column) for column in self._feed.columns()))

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Hosts x devices of each."""
        return self._layout.mesh

    @property
    def streams(self) -> bool:
        """Whether clients' data is sent part by part instead of lying on the devices."""
        return not self._feed.resident

    def init_server(self, stack: Variables) -> Any:
        """The server optimiser's state for a stack, [K, ...]."""
        return optimizers.server_state(self.spec.train, stack)

    def train(self, *args: Any) -> Trained:
        """One round, to its end; arguments and errors are those of `begin`."""
        return self.begin(*args)()

    def begin(
        self,
        physical_widths: Widths,
        stack: Variables,
        server: Any,
        tasks: Tasks,
        moment: tuple[int, int, int],
        candidate_ids: Sequence[int],
        learning_rate: float,
    ) -> Callable[[], Trained]:
        """One round: every task trains its client, the server brings each candidate's updates together.

        It is handed to the devices, and what is returned waits for them. The caller may work meanwhile.

        An update that is no finite number, or whose norm is above `train.update_bound`, is left out. A candidate all of
        whose updates were left out, or that has no tasks, stays as it was, and its server's state too.

        Args:
          physical_widths: of the stack.
          stack: [K, ...] start of the round; any number of slots.
          server: `init_server`'s state.
          tasks: who trains what.
          moment: purpose, iteration and round, which the round's random numbers come from.
          candidate_ids: [K]; random numbers belong to the id, not to the slot in the stack.
          learning_rate: of the clients.

        Raises:
          ConfigError: the aggregation would keep more updates than a device has memory for.
        """
        key = round_key(self.spec.seed, moment)
        of_round = OfRound(key, np.asarray(candidate_ids, np.int32), np.float32(learning_rate), {})
        return self.begin_round(physical_widths, stack, server, tasks, self.cut_to_train(tasks), of_round)

    def begin_round(
        self, physical_widths: Widths, stack: Variables, server: Any, tasks: Tasks, cut: Cut, of_round: OfRound
    ) -> Callable[[], Trained]:
        """`begin`, with the tasks cut already, and what the round's tasks have in common or each slot of its own.

        Args:
          physical_widths: as for `begin`, and so are `stack`, `server` and `tasks`.
          stack: [K, ...].
          server: [K, ...].
          tasks: who trains what.
          cut: the round's program calls, and each device's tasks in them.
          of_round: keys, candidates' ids and rates.

        Raises:
          ConfigError: as `train`.
        """
        began = time.perf_counter()
        stack, server, of_round = everywhere(self._layout, (stack, server, of_round))
        steps = self.steps[tasks.client]
        examples = int(steps.sum()) * self.spec.train.batch_size
        effort = Effort(steps=int(steps.sum()), examples=examples)
        room, place, of = self._keep(tasks, cut, stack)
        size = Size(physical_widths, _slots(stack), room)
        of = everywhere(self._layout, of)
        with self._parts(tasks, steps, self._feed.train, cut, place) as parts:
            if self._at_once and len(cut) == 1:
                ((columns, table),) = parts
                inputs = TrainInputs(stack, columns, *of_round)
                done, effort = self.compiled.call("round", size, effort, server, of, table, inputs)
            else:
                totals, effort = self.compiled.call("zeros", size, effort, stack)
                for columns, table in parts:
                    inputs = TrainInputs(stack, columns, *of_round)
                    (totals, parts.done), effort = self.compiled.call("train", size, effort, totals, table, inputs)
                done, effort = self.compiled.call("serve", size, effort, stack, totals, server, of)
        stack, server, left_out = done
        effort += Effort(lane_steps=parts.lane_steps)

        def collect() -> Trained:
            jax.block_until_ready(stack)
            seconds = time.perf_counter() - began - effort.compile_seconds
            return Trained(stack, server, np.asarray(left_out, np.int64), effort + Effort(train_seconds=seconds))

        return collect

    def evaluate(self, physical_widths: Widths, stack: Variables, tasks: Tasks) -> Tally:
        """Scores candidates on their tasks' clients' validation examples.

        Args:
          physical_widths: of the stack.
          stack: [K, ...].
          tasks: who scores what.
        """
        return self.score_round(physical_widths, stack, tasks, self.cut_to_score(tasks))

    def score_round(self, physical_widths: Widths, stack: Variables, tasks: Tasks, cut: Cut) -> Tally:
        """`evaluate`, with the tasks cut already: the program calls, and each device's tasks in them."""
        stack, effort = everywhere(self._layout, stack), Effort()
        batches = self._batches(tasks)
        size = Size(physical_widths, _slots(stack))
        with self._parts(tasks, batches, self._feed.validation, cut, np.zeros(len(batches), int)) as parts:
            if self._at_once and len(cut) == 1:
                ((columns, table),) = parts
                counted, effort = self.compiled.call("scored", size, effort, table, ScoreInputs(stack, columns))
            else:
                counts = self._no_counts(size.slots)
                for columns, table in parts:
                    inputs = ScoreInputs(stack, columns)
                    (counts, parts.done), effort = self.compiled.call("score", size, effort, counts, table, inputs)
                counted, effort = self.compiled.call("count", size, effort, counts)
        correct, total, nonfinite = np.asarray(counted.examples, np.int64)
        finite = (nonfinite == 0) & (total > 0)
        value = scores(self.spec.metric, self.compiled.recipe.metric, np.asarray(counted.metric))
        return Tally(np.where(finite, value, np.nan), correct, total, finite, effort)

    def compiling(self, kind: str, shapes: Sequence[tuple[Widths, int]]) -> contextlib.AbstractContextManager[None]:
        """While it is open, what several stacks need is compiled in threads, each while those before it run.

        Args:
          kind: 'train' or 'score'.
          shapes: physical widths and slots of each stack, in the order of their turns.
        """
        kind, trains = WHOLE[kind] if self._at_once else kind, kind == "train"

        def arguments(size: Size) -> tuple[Any, ...]:
            one = self.spec.network.abstract(size.physical_widths)
            return ahead.arguments(kind, self.compiled.of_slots(size.slots), self._layout, self._columns_form(), one)

        # What keeps its updates has a size that only its tasks say; a lone stack has nothing to run meanwhile.
        if len(shapes) < 2 or (trains and self.compiled.recipe.aggregation.together is not None):
            return contextlib.nullcontext()
        return self.compiled.in_threads(kind, [Size(*shape) for shape in shapes], arguments)

    def _no_counts(self, slots: int) -> Counts:
        """The counts of a stack before anything was scored, on the devices."""
        recipe, devices = self.compiled.of_slots(slots), self._layout.devices
        forms = jax.eval_shape(functools.partial(scoring.no_counts, recipe))
        return Counts(*(placed_each(self._layout, [np.zeros(a.shape[1:], a.dtype)] * devices) for a in forms))

    def _columns_form(self) -> Columns:
        """The examples on the devices, or what forms they have when they are sent."""
        if self._resident is not None:
            return self._resident
        inputs, labels = self.spec.data.inputs, self.spec.data.labels
        sharding = NamedSharding(self._layout.mesh, EACH)
        first = (self._layout.mesh.size, self._feed.capacity)
        return Columns(
            jax.ShapeDtypeStruct((*first, *inputs.shape[1:]), inputs.dtype, sharding=sharding),
            jax.ShapeDtypeStruct((*first, *labels.shape[1:]), labels.dtype, sharding=sharding),
        )

    def cut_to_train(self, tasks: Tasks) -> Cut:
        """The program calls that a list of tasks takes to train, and each device's tasks in them."""
        return self._cut(tasks, self.steps[tasks.client], self._feed.train)

    def cut_to_score(self, tasks: Tasks) -> Cut:
        """The program calls that a list of tasks takes to score, and each device's tasks in them."""
        return self._cut(tasks, self._batches(tasks), self._feed.validation)

    def _batches(self, tasks: Tasks) -> np.ndarray:
        """[T] steps that each task takes to score."""
        batches: np.ndarray = -(-self.val_count[tasks.client] // self.compiled.recipe.eval_batch)
        return batches

    def _cut(self, tasks: Tasks, steps: np.ndarray, share: Share) -> Cut:
        feed, layout = self._feed, self._layout
        client, sizes = np.asarray(tasks.client), (layout.hosts, layout.devices, self.lanes)
        return lane_plan.parts(steps, client, share.size, feed.owner, *sizes, feed.capacity)

    def _keep(self, tasks: Tasks, cut: Cut, stack: Variables) -> tuple[Room, np.ndarray, np.ndarray]:
        """Where updates are kept until the round's end, if they are: the room, each task's place [T], and `of` [K, n].

        It depends on the round alone, not on those before it: so a run that was resumed adds in the same order.
        """
        slots, number = _slots(stack), len(tasks.client)
        if self.compiled.recipe.aggregation.together is None:
            return Room(), np.zeros(number, int), np.zeros((slots, 0), np.int32)
        device, place = lane_plan.places(cut, number)
        own = [np.flatnonzero((tasks.candidate == slot) & (device >= 0)) for slot in range(slots)]
        room = Room(_power_of_two(place.max(initial=0) + 1), _power_of_two(max(map(len, own))))
        one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), stack)
        wanted, there = bytes_kept(one, *room), int(MEMORY * least_memory(self._layout))
        if wanted > there:
            raise ConfigError(
                f"train.aggregation: got {self.spec.train.aggregation!r}, which keeps the updates of {number:,} tasks: "
                f"{wanted / 2**20:,.0f} MiB of a device, want at most {there / 2**20:,.0f} MiB: fewer clients in a "
                "round, more devices, or mean or clipped_mean, which keep none"
            )
        of = np.full((slots, room.most), -1, np.int32)
        for slot, mine in enumerate(own):
            of[slot, : len(mine)] = device[mine] * room.places + place[mine]
        return room, place, of

    def _parts(self, tasks: Tasks, steps: np.ndarray, share: Share, cut: Cut, place: np.ndarray) -> Parts:
        """The program calls of a cut, each with its data and its table on the devices."""
        feed, layout, client = self._feed, self._layout, np.asarray(tasks.client)
        first_rows = feed.first_rows(share) if feed.resident else None

        def load(part: list[np.ndarray]) -> tuple[Columns, Table, int]:
            gathered, tables, lane_steps = [], [], 0
            for device, mine in enumerate(part):
                plan = lane_plan.segments(steps[mine], self.lanes)
                lane_steps += int(plan.length.sum()) * self.lanes
                if device not in layout.local:
                    continue
                if first_rows is None:
                    inputs, labels, first = feed.gather(share, client[mine])
                    gathered.append(Columns(inputs, labels))
                else:
                    first = first_rows[client[mine]]
                who = client[mine]
                facts = Lanes(
                    candidate=tasks.candidate[mine],
                    client=self._client_ids[who],
                    first=first,
                    rows=share.size[who],
                    steps=steps[mine],
                    malicious=self.malicious[who],
                    place=place[mine],
                    begun=None,
                )
                tables.append(Table(lane_table(plan, facts), plan.length, np.int32(plan.number)))
            columns = self._resident or Columns(*(placed_each(layout, c) for c in zip(*gathered, strict=True)))
            table = Table(*(placed_each(layout, field) for field in zip(*tables, strict=True)))
            return columns, table, lane_steps

        return Parts(cut, load)


def round_key(seed: int, moment: tuple[int, int, int]) -> Any:
    """Data of the key that a round's random numbers come from.

    Args:
      seed: the run's.
      moment: purpose, iteration and round.
    """
    return _key_of(np.uint32(seed), *map(np.uint32, moment))


@jax.jit
def _key_of(seed: jax.Array, *parts: jax.Array) -> jax.Array:
    key = jax.random.key(seed, impl=KEYS)
    for part in parts:
        key = jax.random.fold_in(key, part)
    return jax.random.key_data(key)


def _slots(stack: Variables) -> int:
    return len(jax.tree.leaves(stack.params)[0])


def _power_of_two(least: int) -> int:
    """The smallest that is at least this."""
    return 1 << max(0, int(least) - 1).bit_length()
