"""One fleet for several runs: their tasks train side by side, whatever numbers each run trains with.

A run that shares a fleet has a `Partner` in its place, which hands in what is asked of it and waits; whoever drives the
runs gives what is waiting to `Shared`. Letters: K slots of a run's stack, T tasks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from fednas_jax.config import needs
from fednas_jax.config.schema import LoweringName, ParticipationConfig, TrainConfig
from fednas_jax.engine import local, merging, optimizers
from fednas_jax.engine.attacks import malicious_clients
from fednas_jax.engine.fleet import Fleet, FleetSpec, OfRound, Trained, round_key
from fednas_jax.engine.tasks import Effort, Tally, Tasks
from fednas_jax.nets import lowerings
from fednas_jax.space.network import Variables, Widths

OWN = ("momentum", "weight_decay", "proximal")  # of the clients' optimiser: a program takes them as data
RATES = ("learning_rate", "learning_rate_decay", "schedule")  # the host's, which gives each round its rate
LADDER = 4  # sizes of merged stacks differ by this factor, so that programs are few


class AnyFleet(Protocol):
    """What a run asks of its fleet."""

    lanes: int
    lowering: LoweringName
    train_count: np.ndarray
    val_count: np.ndarray
    steps: np.ndarray

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Hosts x devices of each."""

    @property
    def streams(self) -> bool:
        """Whether clients' data is sent part by part."""

    def compiling(self, kind: str, shapes: Sequence[tuple[Widths, int]]) -> contextlib.AbstractContextManager[None]:
        """Compiles in threads while it is open."""

    def init_server(self, stack: Variables) -> Any:
        """The server optimiser's state for a stack."""

    @property
    def begin(self) -> Callable[..., Callable[[], Trained]]:
        """`Fleet.begin`: hands a round to the devices, and returns what waits for them."""

    def evaluate(self, physical_widths: Widths, stack: Variables, tasks: Tasks) -> Tally:
        """Scores candidates."""


class ToTrain(NamedTuple):
    """A round that a run asks for; the arguments of `Fleet.begin`."""

    physical_widths: Widths
    stack: Variables
    server: Any
    tasks: Tasks
    moment: tuple[int, int, int]
    candidate_ids: Sequence[int]
    learning_rate: float


class ToScore(NamedTuple):
    """A scoring that a run asks for; the arguments of `Fleet.evaluate`."""

    physical_widths: Widths
    stack: Variables
    tasks: Tasks


def kind_of(spec: FleetSpec, lanes: int) -> Hashable:
    """What must be the same for runs to share a fleet; None for a run that cannot share one.

    Args:
      spec: of the fleet that the run would have alone.
      lanes: that its config asks for; 0: none.
    """
    if spec.data.on_disk:
        return None
    participation, inputs = spec.participation, spec.data.inputs
    return (
        spec.network,
        _common(spec.train),
        dataclasses.replace(spec.engine, lanes=lanes, lowering=_lowering(spec)),
        inputs.shape[1:],
        str(inputs.dtype),
        spec.data.labels.shape[1:],
        tuple(spec.mean),
        tuple(spec.std),
        spec.classes,
        spec.metric,
        None if spec.devices is None else tuple(spec.devices),
        (participation.attack, participation.attack_scale),
        bool(np.all(spec.data.train_count)),
    )


def bytes_of(spec: FleetSpec) -> int:
    """Bytes of a device's memory that a run takes in a shared fleet: its clients' data, and its stack some times."""
    one = spec.network.abstract(tuple(spec.network.widths.values()))
    network = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(one))
    return needs.pack_bytes(network, spec.slots, spec.data.nbytes)


class Shared:
    """A fleet of several runs of one kind.

    Args:
      specs: of the fleets that they would have alone.
      lanes: that their configs ask for; 0: measured.

    Raises:
      ConfigError: as `Fleet`.
    """

    def __init__(self, specs: Sequence[FleetSpec], lanes: int):
        one = specs[0]
        attacks = [malicious_clients(s.participation, s.data.clients, s.seed) for s in specs]
        self._union = merging.union([s.data for s in specs], attacks)
        self._train = [s.train for s in specs]
        self._seeds = [s.seed for s in specs]
        self._own = [name for name in OWN if len({getattr(s.train, name) for s in specs}) > 1]
        common = _common(one.train, self._own)
        attack = ParticipationConfig(attack=one.participation.attack, attack_scale=one.participation.attack_scale)
        engine = dataclasses.replace(one.engine, lanes=lanes, lowering=_lowering(one))
        slots = sum(s.slots for s in specs)
        self.fleet = Fleet(
            dataclasses.replace(
                one,
                data=self._union.data,
                train=common,
                engine=engine,
                slots=slots,
                tasks=sum(s.tasks or s.slots * s.data.clients for s in specs),
                participation=attack,
                malicious=self._union.malicious,
                client_ids=self._union.client_ids,
            )
        )
        self._slots = max(s.slots for s in specs)
        self._sizes: dict[tuple[str, Widths], list[int]] = {}

    def train(self, runs: Sequence[int], asked: Sequence[ToTrain]) -> list[Trained]:
        """A round of several runs whose stacks have the same physical widths.

        Args:
          runs: numbers of the runs, as in `specs`.
          asked: by each.
        """
        began = time.perf_counter()
        both = merging.merged([a.tasks for a in asked], [self._union.first[r] for r in runs])
        cuts = [self.fleet.cut_to_train(self._moved(run, a.tasks)) for run, a in zip(runs, asked, strict=True)]
        cut = merging.merged_cut(cuts, both.first_task, self.fleet.lanes)
        widths = asked[0].physical_widths
        size = self._size("train", widths, both.number)
        stack = merging.picked([a.stack for a in asked], both.slots, size)
        server = merging.picked([a.server for a in asked], both.slots, size)
        of_round = self._of_round(runs, asked, both, size)
        done = self.fleet.begin_round(widths, stack, server, both.tasks, cut, of_round)()
        stack, server = jax.device_get((done.stack, done.server))
        seconds = time.perf_counter() - began - done.effort.compile_seconds
        found = []
        for n, (a, slots, first) in enumerate(zip(asked, both.slots, both.first_slot, strict=True)):
            left_out = np.zeros(len(a.candidate_ids), np.int64)
            left_out[slots] = done.left_out[first : first + len(slots)]
            share = int(self.fleet.steps[both.tasks.client[both.first_task[n] : both.first_task[n + 1]]].sum())
            found.append(
                Trained(
                    merging.put_back(a.stack, slots, stack, first),
                    merging.put_back(a.server, slots, server, first),
                    left_out,
                    _part_of(done.effort, share, seconds, first=n == 0),
                )
            )
        return found

    def evaluate(self, runs: Sequence[int], asked: Sequence[ToScore]) -> list[Tally]:
        """Scores of several runs whose stacks have the same physical widths.

        Args:
          runs: numbers of the runs, as in `specs`.
          asked: by each.
        """
        both = merging.merged([a.tasks for a in asked], [self._union.first[r] for r in runs])
        cuts = [self.fleet.cut_to_score(self._moved(run, a.tasks)) for run, a in zip(runs, asked, strict=True)]
        cut = merging.merged_cut(cuts, both.first_task, self.fleet.lanes)
        widths = asked[0].physical_widths
        stack = merging.picked([a.stack for a in asked], both.slots, self._size("score", widths, both.number))
        tally = self.fleet.score_round(widths, stack, both.tasks, cut)
        found = []
        for n, (a, slots, first) in enumerate(zip(asked, both.slots, both.first_slot, strict=True)):
            number, mine = len(jax.tree.leaves(a.stack.params)[0]), slice(first, first + len(slots))
            score, finite = np.full(number, np.nan), np.zeros(number, bool)
            correct, total = np.zeros(number, np.int64), np.zeros(number, np.int64)
            score[slots], finite[slots] = tally.score[mine], tally.finite[mine]
            correct[slots], total[slots] = tally.correct[mine], tally.total[mine]
            found.append(Tally(score, correct, total, finite, tally.effort if n == 0 else Effort()))
        return found

    def _moved(self, run: int, tasks: Tasks) -> Tasks:
        return tasks._replace(client=tasks.client + self._union.first[run])

    def _of_round(self, runs: Sequence[int], asked: Sequence[ToTrain], both: merging.Merged, size: int) -> OfRound:
        """What each slot trains with."""
        keys, ids, rates = [], [], []
        own: dict[str, list[np.ndarray]] = {name: [] for name in self._own}
        for run, a, slots in zip(runs, asked, both.slots, strict=True):
            key = np.asarray(round_key(self._seeds[run], a.moment))
            keys.append(np.repeat(key[None], len(slots), 0))
            ids.append(np.asarray(a.candidate_ids, np.int32)[slots])
            rates.append(np.full(len(slots), a.learning_rate, np.float32))
            for name, values in own.items():
                values.append(np.full(len(slots), getattr(self._train[run], name), np.float32))
        every = [np.arange(len(slots)) for slots in both.slots]
        columns = (keys, ids, rates, *own.values())
        key, candidate_ids, rate, *others = (merging.picked(column, every, size) for column in columns)
        return OfRound(key, candidate_ids, rate, dict(zip(own, others, strict=True)))

    def _size(self, kind: str, physical_widths: Widths, needed: int) -> int:
        """Slots of a merged stack: as many as a program has that is there already, if one is large enough."""
        known = self._sizes.setdefault((kind, physical_widths), [])
        large = [size for size in known if size >= needed]
        if large:
            return min(large)
        size = self._slots
        while size < needed:
            size *= LADDER
        known.append(min(size, max(needed, self.fleet.spec.slots)))
        return known[-1]


class Partner:
    """A run's place in a shared fleet; an `AnyFleet`.

    Args:
      shared: the fleet.
      run: the run's number in it.
      spec: of the fleet that it would have alone.
      ask: hands in a ToTrain or a ToScore and returns what became of it.
    """

    def __init__(self, shared: Shared, run: int, spec: FleetSpec, ask: Callable[[Partner, Any], Any]):
        self.shared, self.run, self._spec, self._ask = shared, run, spec, ask
        fleet = shared.fleet
        self.train_count, self.val_count = np.asarray(spec.data.train_count), np.asarray(spec.data.val_count)
        self.steps = local.local_steps(self.train_count, spec.train)
        self.lowering: LoweringName = fleet.lowering
        # A run that goes on alone takes as many lanes as have work then.
        most = -(-(spec.tasks or spec.slots * spec.data.clients) // fleet.mesh.size)
        self.lanes = spec.engine.lanes or max(1, min(fleet.lanes, most))
        self.streams = False

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Hosts x devices of each."""
        return self.shared.fleet.mesh

    def compiling(self, kind: str, shapes: Sequence[tuple[Widths, int]]) -> contextlib.AbstractContextManager[None]:
        """Nothing is compiled ahead: the shared fleet's stacks are larger."""
        del kind, shapes
        return contextlib.nullcontext()

    def init_server(self, stack: Variables) -> Any:
        """The server optimiser's state for a stack."""
        return optimizers.server_state(self._spec.train, stack)

    def begin(self, *args: Any) -> Callable[[], Trained]:
        """A round, which is over when this returns; the arguments of `Fleet.begin`."""
        found: Trained = self._ask(self, ToTrain(*args))
        return lambda: found

    def evaluate(self, *args: Any) -> Tally:
        """Scores candidates; the arguments of `Fleet.evaluate`."""
        found: Tally = self._ask(self, ToScore(*args))
        return found


def _common(train: TrainConfig, own: Sequence[str] = OWN) -> TrainConfig:
    """What of the training's config runs must have in common; an optimiser of the user's own may look at all of it."""
    if optimizers.any_own(train):
        return train
    plain = TrainConfig()
    return dataclasses.replace(train, **{name: getattr(plain, name) for name in (*RATES, *own)})


def _lowering(spec: FleetSpec) -> LoweringName:
    """The lowering that is asked for; a CPU's is known."""
    devices = spec.devices or jax.devices()
    if spec.engine.lowering == "auto" and devices[0].platform == "cpu":
        return lowerings.DEFAULT
    return spec.engine.lowering


def _part_of(effort: Effort, steps: int, seconds: float, first: bool) -> Effort:
    """A run's part of a merged round: in proportion to its steps; what was compiled is the first one's."""
    share = steps / max(1, effort.steps)
    return Effort(
        compilations=effort.compilations if first else 0,
        compile_seconds=effort.compile_seconds if first else 0.0,
        steps=steps,
        lane_steps=round(effort.lane_steps * share),
        examples=round(effort.examples * share),
        train_seconds=seconds * share,
    )
