"""One workload at one setting of the engine: steady rounds, timed apart from compilation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fednas_jax import nets
from fednas_jax.bench.machine import peak_device_mib, peak_host_mib
from fednas_jax.bench.roofline import Roofline, score_bytes, train_bytes
from fednas_jax.bench.sequential import Sequential
from fednas_jax.bench.workloads import CLASSES, Workload, make_clients
from fednas_jax.config.schema import EngineConfig
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.tasks import Effort, Tasks
from fednas_jax.seeds import KeyPurpose, Purpose, generator
from fednas_jax.space import jaxprs
from fednas_jax.space.network import Network, Variables, Widths

_TRACED = 2  # pieces of work in a profile


@dataclass(frozen=True)
class Flop:
    """Floating-point operations of one example; a multiply-accumulate is two.

    Training is counted as the field does, 6 x MACs: forward, the gradient by the weights and that by the input, 2 x
    MACs each. Nobody computes the first layer's gradient by the images, so `trained`, which speeds are told in, leaves
    it out.
    """

    counted: int  # 6 x MACs
    trained: int  # 6 x MACs - 2 x the first layer's
    scored: int  # 2 x MACs


def flop(network: Network, widths: Widths) -> Flop:
    """The operations of a network; normalisation, activations, pooling and the optimiser's are left out."""
    layers = jaxprs.layer_macs(network, widths)
    return Flop(6 * sum(layers), 6 * sum(layers) - 2 * layers[0], 2 * sum(layers))


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

    def start(self) -> Variables:
        """Fresh weights [K, ...], each candidate's its own."""
        key = jax.random.fold_in(jax.random.key(self.seed), KeyPurpose.INIT)
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


def measure(
    federation: Federation,
    engine: EngineConfig,
    devices: Sequence[jax.Device],
    roof: Roofline,
    seconds: float,
    repeats: int,
    sequential: bool = False,
    profile: Path | None = None,
) -> dict[str, Any]:
    """One row of the report, as JSON values.

    Args:
      federation: what to train.
      engine: lanes and the like.
      devices: those to train on.
      roof: what products and copies reach on them.
      seconds: as for `in_turns`.
      repeats: as for `in_turns`.
      sequential: also measure the baseline, in turns with the fleet; it does not score, so scoring is not compared.
      profile: folder for a trace of a few steady pieces of work.
    """
    f, work = federation, FleetRounds(federation, engine, devices)
    fleet = work.fleet
    first = work()  # compiles, and fills every cache there is
    before = work.effort
    works: list[Callable[[], float]] = [work]
    if sequential:
        works.append(SequentialRounds(f))
        works[1]()
    times = in_turns(works, seconds, repeats)
    turns = len(times[0])
    effort = work.effort
    steps, lane_steps, examples = (
        (getattr(effort, name) - getattr(before, name)) // turns for name in ("steps", "lane_steps", "examples")
    )
    scored = int(fleet.val_count[f.tasks.client].sum()) * f.workload.rounds if f.workload.scored else 0
    cost = flop(f.network, f.widths)
    best, median = min(times[0]), statistics.median(times[0])
    rate = (examples * cost.trained + scored * cost.scored) / best
    scoring_seconds = work.scoring[-turns:]
    scoring = scoring_seconds[times[0].index(best)]  # of the best piece of work
    pixel, tasks = f.data.images.dtype.itemsize, len(f.tasks.client) * f.workload.rounds
    step_bytes = train_bytes(f.network, f.widths, f.workload.train, pixel)
    training = roof.judge(examples * cost.trained, steps * step_bytes, best - scoring)
    score = None
    if scored:
        score = roof.judge(scored * cost.scored, score_bytes(f.network, f.widths, tasks, scored, pixel), scoring)
    least = training["least_seconds"] + (score["least_seconds"] if score else 0)
    row = {
        "clients": f.data.clients,
        "candidates": f.workload.candidates,
        "rounds": f.workload.rounds,
        "lanes": fleet.lanes,
        "devices": len(devices),
        "steps": steps,
        "examples": examples,
        "scored_examples": scored,
        "first_seconds": first,
        "seconds": times[0],
        "scoring_seconds": scoring_seconds,
        "examples_per_second": examples / best,
        "examples_per_second_median": examples / median,
        "seconds_per_client": median / len(f.tasks.client) / f.workload.rounds,
        "padding": 1 - steps / lane_steps,
        "flop_per_example": cost.counted,
        "flop_per_example_done": cost.trained,
        "flop_per_second": rate,
        "share_of_product_limit": rate / roof.flop_per_second,
        "bytes_per_step": step_bytes,
        "share_of_roofline": least / best,
        "training": training,
        "scoring": score,
        "compilations": effort.compilations,
        "compile_seconds": effort.compile_seconds,
        "peak_host_mib": peak_host_mib(),
        "peak_device_mib": peak_device_mib(devices),
        "sequential": _compared(times, scoring_seconds, examples) if sequential else None,
    }
    if profile is not None:
        with jax.profiler.trace(str(profile)):
            for _ in range(_TRACED):
                work()
    return row


def _compared(times: list[list[float]], scoring: list[float], examples: int) -> dict[str, Any]:
    """How many times the fleet is as fast as the baseline at training, turn by turn."""
    ratios = [theirs / (ours - scored) for ours, theirs, scored in zip(*times, scoring, strict=True)]
    return {
        "seconds": times[1],
        "examples_per_second": examples / min(times[1]),
        "ratio": statistics.median(ratios),
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
    }
