"""Candidates x clients in one compiled program: tasks are cut into lanes, and lanes lie across devices and hosts.

The fleet keeps data on the devices and compiled programs; `programs.py` has what they do. Letters: K slots for
candidates in a stack, C clients, T tasks. A stack is a tree of variables [K, ...].
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from fednas_jax.config.schema import EngineConfig, TrainConfig
from fednas_jax.data import PackedClients, normalise
from fednas_jax.engine import augment, lane_plan, lane_tuning, local, programs
from fednas_jax.engine.feed import Feed, Share
from fednas_jax.engine.loading import Parts
from fednas_jax.engine.mesh import Layout, everywhere, layout_of, least_memory, memory_of, placed_each, placed_host
from fednas_jax.engine.programs import Columns, Lanes, Recipe, ScoreInputs, Table, TrainInputs
from fednas_jax.engine.tasks import Effort, Tally, Tasks
from fednas_jax.runtime import cache, hosts
from fednas_jax.space.network import Network, Variables, Widths

__all__ = ["Effort", "Fleet", "FleetSpec", "Tally", "Tasks", "Trained"]


@dataclass(frozen=True)
class FleetSpec:
    """What a fleet is made of."""

    network: Network
    """The family of networks."""
    data: PackedClients
    """The clients. Where it is on disk, or larger than its share of a device's memory, it is sent part by part."""
    mean: tuple[float, ...]
    """Of each channel, of images scaled to [0, 1]."""
    std: tuple[float, ...]
    """Likewise."""
    classes: int
    """Number of labels."""
    train: TrainConfig
    """The clients' and the server's optimisers."""
    engine: EngineConfig
    """Lanes, evaluation batch and the data's share of the memory."""
    seed: int
    """The run's seed."""
    slots: int
    """K."""
    devices: Sequence[jax.Device] | None = None
    """Those to use; all devices of all hosts by default, as many on each host."""
    metric: str = "accuracy"
    """Shim."""
    participation: Any = None
    """Shim."""
    tasks: int = 0
    """Of a round, so that no more lanes are taken than have work; 0: every candidate on every client."""


class Trained(NamedTuple):
    """What is there after a round."""

    stack: Variables  # [K, ...] on every device
    server: Any  # the server optimiser's state, [K, ...] on every device
    effort: Effort
    left_out: Any = 0


class Fleet:
    """The clients of one packed data set, ready to train and to score any stack of K candidates of a network."""

    def __init__(self, spec: FleetSpec):
        self.spec, data = spec, spec.data
        self._layout = layout_of(spec.devices or jax.devices())
        self.train_count = np.asarray(data.train_count)
        self.val_count = np.asarray(data.val_count)
        self.steps = local.local_steps(self.train_count, spec.train)
        self.lanes = spec.engine.lanes or _measured_lanes(spec, self._layout)
        memory = int(spec.engine.data_share * least_memory(self._layout))
        self._feed = Feed(data, self._layout.hosts, self._layout.host, memory, self.lanes)
        self._recipe = Recipe(
            spec.network,
            spec.train,
            self._layout.mesh,
            spec.slots,
            self.lanes,
            eval_batch=int(min(spec.engine.eval_batch, max(1, self.val_count.max()))),
            capacity=local.stream_capacity(self.train_count, spec.train) if self.train_count.all() else 0,
            streams=self.streams,
            prepare=augment.preparation(spec.train.augment, spec.mean, spec.std, data.images.shape[1:]),
            normalise=functools.partial(normalise, mean=spec.mean, std=spec.std),
        )
        self._root = jax.random.key(spec.seed)
        self._programs: dict[tuple[str, Widths], Callable[..., Any]] = {}
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
        return jax.vmap(local.server_optimizer(self.spec.train).init)(stack.params)

    def train(
        self,
        physical_widths: Widths,
        stack: Variables,
        server: Any,
        tasks: Tasks,
        moment: tuple[int, int, int],
        candidate_ids: Sequence[int],
        learning_rate: float,
    ) -> Trained:
        """One round: every task trains its client, the server averages each candidate's updates by examples.

        Args:
          physical_widths: of the stack.
          stack: [K, ...] start of the round.
          server: `init_server`'s state.
          tasks: who trains what; a candidate without tasks is left as it is.
          moment: purpose, iteration and round, which the round's random numbers come from.
          candidate_ids: [K]; random numbers belong to the id, not to the slot in the stack.
          learning_rate: of the clients.
        """
        began = time.perf_counter()
        stack, server = everywhere(self._layout, (stack, server))
        key = self._root
        for part in moment:
            key = jax.random.fold_in(key, part)
        of_round = (jax.random.key_data(key), np.asarray(candidate_ids, np.int32), np.float32(learning_rate))
        of_round = everywhere(self._layout, of_round)
        steps = self.steps[tasks.client]
        examples = int(steps.sum()) * self.spec.train.batch_size
        effort = Effort(steps=int(steps.sum()), examples=examples)
        sums, effort = self._call("zeros", physical_widths, effort, stack)
        with self._parts(tasks, steps, self._feed.train) as parts:
            for columns, table in parts:
                inputs = TrainInputs(stack, columns, *of_round)
                (sums, parts.done), effort = self._call("train", physical_widths, effort, sums, table, inputs)
        (stack, server), effort = self._call("serve", physical_widths, effort, stack, sums, server)
        jax.block_until_ready(stack)
        seconds = time.perf_counter() - began - effort.compile_seconds
        return Trained(
            stack,
            server,
            effort + Effort(lane_steps=parts.lane_steps, train_seconds=seconds),
            np.zeros(self.spec.slots, int),
        )

    def evaluate(self, physical_widths: Widths, stack: Variables, tasks: Tasks) -> Tally:
        """Scores candidates on their tasks' clients' validation examples.

        Args:
          physical_widths: of the stack.
          stack: [K, ...].
          tasks: who scores what.
        """
        stack, effort = everywhere(self._layout, stack), Effort()
        batches = -(-self.val_count[tasks.client] // self._recipe.eval_batch)
        counts = placed_each(self._layout, [np.zeros((3, self.spec.slots), np.int32)] * self._layout.devices)
        with self._parts(tasks, batches, self._feed.validation) as parts:
            for columns, table in parts:
                inputs = ScoreInputs(stack, columns)
                (counts, parts.done), effort = self._call("score", physical_widths, effort, counts, table, inputs)
        counted, effort = self._call("count", physical_widths, effort, counts)
        correct, total, nonfinite = np.asarray(counted, np.int64)
        return Tally(correct, total, (nonfinite == 0) & (total > 0), effort)

    def _parts(self, tasks: Tasks, steps: np.ndarray, share: Share) -> Parts:
        """The program calls that a task list takes, each with its data and its table on the devices."""
        feed, layout, client = self._feed, self._layout, np.asarray(tasks.client)
        first_rows = feed.first_rows(share) if feed.resident else None
        cut = lane_plan.parts(
            steps, client, share.size, feed.owner, layout.hosts, layout.devices, self.lanes, feed.capacity
        )

        def load(part: list[np.ndarray]) -> tuple[Columns, Table, int]:
            gathered, tables, lane_steps = [], [], 0
            for device, mine in enumerate(part):
                plan = lane_plan.segments(steps[mine], self.lanes)
                lane_steps += int(plan.length.sum()) * self.lanes
                if device not in layout.local:
                    continue
                if first_rows is None:
                    images, labels, first = feed.gather(share, client[mine])
                    gathered.append(Columns(images, labels))
                else:
                    first = first_rows[client[mine]]
                facts = Lanes(tasks.candidate[mine], client[mine], first, share.size[client[mine]], steps[mine], None)
                tables.append(Table(programs.lane_table(plan, facts), plan.length, np.int32(plan.number)))
            columns = self._resident or Columns(*(placed_each(layout, c) for c in zip(*gathered, strict=True)))
            table = Table(*(placed_each(layout, field) for field in zip(*tables, strict=True)))
            return columns, table, lane_steps

        return Parts(cut, load)

    def _call(self, kind: str, physical_widths: Widths, effort: Effort, *args: Any) -> tuple[Any, Effort]:
        """Calls a kind of program, compiled once for these widths; returns what it does, and the effort so far."""
        if (kind, physical_widths) not in self._programs:
            recipe = self._recipe
            kinds: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
                "zeros": (functools.partial(programs.zeros, recipe), ()),
                "train": (functools.partial(programs.train, recipe, physical_widths), (0,)),
                "serve": (functools.partial(programs.serve, recipe), ()),
                "score": (functools.partial(programs.score, recipe, physical_widths), (0,)),
                "count": (functools.partial(programs.count, recipe), ()),
            }
            function, donated = kinds[kind]
            began = time.perf_counter()
            with jax.default_matmul_precision(self.spec.train.matmul_precision):
                lowered = jax.jit(function, donate_argnums=donated).lower(*args)
            self._programs[kind, physical_widths] = lowered.compile()
            effort += Effort(compilations=int(kind == "train"), compile_seconds=time.perf_counter() - began)
        return self._programs[kind, physical_widths](*args), effort


def _measured_lanes(spec: FleetSpec, layout: Layout) -> int:
    """The lanes at which a device is fastest; the first host's answer is everyone's."""
    if not np.all(spec.data.train_count):  # a test split trains nowhere
        return 1
    device = layout.mesh.local_devices[0]
    most = -(-(spec.tasks or spec.slots * spec.data.clients) // layout.mesh.size)

    def measure() -> int:
        return lane_tuning.lanes(spec.network, spec.train, device, memory_of(device), most, cache.folder())

    return measure() if layout.hosts == 1 else hosts.from_first_host(measure)
