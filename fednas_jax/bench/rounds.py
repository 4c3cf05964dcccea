"""A federation in rounds: the workload's clients, its training by the fleet and one client after another, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from fednas_jax import nets
from fednas_jax.bench.sequential import Sequential
from fednas_jax.bench.workloads import CLASSES, Workload, make_clients
from fednas_jax.config.schema import EngineConfig
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.tasks import Effort, Tasks
from fednas_jax.seeds import KEYS, KeyPurpose, Purpose, generator
from fednas_jax.space.network import Variables, Widths


class Federation:
    """A workload's clients, network and first weights: what the fleet and the baselines all start from."""

    def __init__(self, workload: Workload, clients: int, seed: int):
        self.workload, self.seed = workload, seed
        self.data, self.mean, self.std = make_clients(workload, clients, seed)
        self.network = nets.build(workload.net, workload.shape, CLASSES)
        self.widths: Widths = tuple(self.network.widths.values())
        self.names = range(workload.candidates)
        self.cohort = min(workload.cohort, clients) or clients
        self.tasks = self.tasks_of(0)

    def tasks_of(self, number: int) -> Tasks:
        """Every candidate on every client of a round's cohort."""
        cohort, slots = np.arange(self.data.clients), self.workload.candidates
        if self.cohort < self.data.clients:
            rng = generator(self.seed, Purpose.COHORT, number)
            cohort = np.sort(rng.choice(self.data.clients, self.cohort, replace=False))
        return Tasks(np.repeat(np.arange(slots), self.cohort), np.tile(cohort, slots))

    def first(self, clients: int) -> Tasks:
        """Every candidate on the first clients."""
        slots = self.workload.candidates
        return Tasks(np.repeat(np.arange(slots), clients), np.tile(np.arange(clients), slots))

    def start(self) -> Variables:
        """Fresh weights [K, ...], each candidate's its own."""
        key = jax.random.fold_in(jax.random.key(self.seed, impl=KEYS), KeyPurpose.INIT)
        made = [self.network.init(self.widths, jax.random.fold_in(key, k)) for k in self.names]
        return jax.tree.map(lambda *a: np.stack(a), *jax.device_get(made))

    def moment(self, number: int) -> tuple[int, int, int]:
        """What the random numbers of a round come from."""
        return int(KeyPurpose.SEARCH), 0, number


class FleetRounds:
    """The workload on the fleet; each call does one piece of work, and compilation is not counted."""

    def __init__(self, federation: Federation, engine: EngineConfig, devices: Sequence[jax.Device]):
        f = self.federation = federation
        train, slots = f.workload.train, f.workload.candidates
        tasks = len(f.tasks.client)
        self.fleet = Fleet(
            FleetSpec(f.network, f.data, f.mean, f.std, CLASSES, train, engine, f.seed, slots, devices, tasks)
        )
        self.effort = Effort()
        self.stack = f.start()
        self.server = self.fleet.init_server(self.stack)
        self.round = 0
        self.scoring: list[float] = []  # seconds of each call that went into scoring

    def __call__(self) -> float:
        """Seconds of the next piece of work."""
        f, fleet = self.federation, self.fleet
        began, compiled = time.perf_counter(), self.effort.compile_seconds
        scoring = 0.0
        for _ in range(f.workload.rounds):
            self.round += 1
            moment, rate, tasks = f.moment(self.round), f.workload.train.learning_rate, f.tasks_of(self.round)
            done = fleet.train(f.widths, self.stack, self.server, tasks, moment, f.names, rate)
            self.stack, self.server = done.stack, done.server
            self.effort += done.effort
            jax.block_until_ready(self.stack)
            if f.workload.scored:
                trained = time.perf_counter()
                self.effort += fleet.evaluate(f.widths, self.stack, tasks).effort
                scoring += time.perf_counter() - trained
        self.scoring.append(scoring)
        return time.perf_counter() - began - (self.effort.compile_seconds - compiled)


class SequentialRounds:
    """The workload's training, one client after another; each call does one piece of work."""

    def __init__(self, federation: Federation):
        f = self.federation = federation
        self.sequential = Sequential(f.network, f.widths, f.data, f.mean, f.std, f.workload.train, f.seed)
        self.stack = jax.device_put(f.start())
        self.round = 0

    def __call__(self) -> float:
        """Seconds of the next piece of work."""
        f = self.federation
        began = time.perf_counter()
        for _ in range(f.workload.rounds):
            self.round += 1
            moment, rate, tasks = f.moment(self.round), f.workload.train.learning_rate, f.tasks_of(self.round)
            self.stack = self.sequential.train(self.stack, tasks, moment, f.names, rate)
        return time.perf_counter() - began


def in_turns(works: Sequence[Callable[[], float]], seconds: float, repeats: int) -> list[list[float]]:
    """Lets works take turns, so that whatever else the machine does meets all of them.

    Args:
      works: each does one piece of work and returns its seconds.
      seconds: no new turn is begun after these; one turn is always done.
      repeats: most turns.

    Returns:
      [works][turns] seconds.
    """
    found: list[list[float]] = [[] for _ in works]
    began = time.perf_counter()
    while len(found[0]) < repeats and (not found[0] or time.perf_counter() - began < seconds):
        for work, times in zip(works, found, strict=True):
            times.append(work())
    return found
