"""One workload at one setting of the engine: steady rounds, timed apart from compilation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fednas_jax.bench.machine import peak_device_mib, peak_host_mib
from fednas_jax.bench.peers import Peers, compared
from fednas_jax.bench.roofline import Roofline, score_bytes, train_bytes
from fednas_jax.bench.rounds import Federation, FleetRounds, SequentialRounds, in_turns
from fednas_jax.config.schema import EngineConfig
from fednas_jax.engine.tasks import Effort
from fednas_jax.space import jaxprs
from fednas_jax.space.network import Network, Widths

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


def measure(
    federation: Federation,
    engine: EngineConfig,
    devices: Sequence[jax.Device],
    roof: Roofline,
    seconds: float,
    repeats: int,
    sequential: bool = False,
    profile: Path | None = None,
    peers: Peers | None = None,
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
      peers: others to measure in the same turns, on the first of the devices; they do not score either.
    """
    work = FleetRounds(federation, engine, devices)
    first = work()  # compiles, and fills every cache there is
    before = work.effort
    works: list[Callable[[], float]] = [work]
    if sequential:
        works.append(SequentialRounds(federation))
        works[1]()
    others, left_out = peers.of(work) if peers is not None else ([], {})
    times = in_turns([*works, *(peer.work for peer in others)], seconds, repeats)
    done = _done(work, before, times[0])
    trained = np.asarray(done.seconds) - done.scoring_seconds
    row = {
        "clients": federation.data.clients,
        "candidates": federation.workload.candidates,
        "rounds": federation.workload.rounds,
        "lanes": work.fleet.lanes,
        "devices": len(devices),
        "first_seconds": first,
        **_speed(federation, done),
        **_share(federation, roof, done),
        "compilations": work.effort.compilations,
        "compile_seconds": work.effort.compile_seconds,
        "peak_host_mib": peak_host_mib(),
        "peak_device_mib": peak_device_mib(devices),
        "sequential": compared(trained, done.examples, times[1], done.examples, None) if sequential else None,
        "peers": {
            peer.name: compared(trained, done.examples, theirs, peer.examples, peer.difference)
            for peer, theirs in zip(others, times[len(works) :], strict=True)
        },
        "peers_left_out": left_out,
    }
    if profile is not None:
        with jax.profiler.trace(str(profile)):
            for _ in range(_TRACED):
                work()
    return row


@dataclass(frozen=True)
class _Done:
    """What each steady piece of work did, and how long each took."""

    steps: int
    lane_steps: int
    examples: int
    scored: int  # examples
    seconds: list[float]
    scoring_seconds: list[float]  # of the same pieces

    @property
    def best(self) -> int:
        """The quickest piece."""
        return self.seconds.index(min(self.seconds))


def _done(work: FleetRounds, before: Effort, seconds: list[float]) -> _Done:
    """All pieces are alike, so what one did is the sum since `before`, over their number."""
    f, turns = work.federation, len(seconds)
    scored = int(work.fleet.val_count[f.tasks.client].sum()) * f.workload.rounds if f.workload.scored else 0
    steps, lane_steps, examples = (
        (getattr(work.effort, name) - getattr(before, name)) // turns for name in ("steps", "lane_steps", "examples")
    )
    return _Done(steps, lane_steps, examples, scored, seconds, work.scoring[-turns:])


def _speed(f: Federation, done: _Done) -> dict[str, Any]:
    """Fields of the row that say how fast it was."""
    best, median = done.seconds[done.best], statistics.median(done.seconds)
    return {
        "steps": done.steps,
        "examples": done.examples,
        "scored_examples": done.scored,
        "seconds": done.seconds,
        "scoring_seconds": done.scoring_seconds,
        "examples_per_second": done.examples / best,
        "examples_per_second_median": done.examples / median,
        "seconds_per_client": median / len(f.tasks.client) / f.workload.rounds,
        "padding": 1 - done.steps / done.lane_steps,
    }


def _share(f: Federation, roof: Roofline, done: _Done) -> dict[str, Any]:
    """Fields of the row that say how close the best piece of work came to what the devices can do."""
    cost, best, scoring = flop(f.network, f.widths), done.seconds[done.best], done.scoring_seconds[done.best]
    pixel, tasks = f.data.inputs.dtype.itemsize, len(f.tasks.client) * f.workload.rounds
    step_bytes = train_bytes(f.network, f.widths, f.workload.train, pixel)
    training = roof.judge(done.examples * cost.trained, done.steps * step_bytes, best - scoring)
    score = None
    if done.scored:
        moved = score_bytes(f.network, f.widths, tasks, done.scored, pixel)
        score = roof.judge(done.scored * cost.scored, moved, scoring)
    rate = (done.examples * cost.trained + done.scored * cost.scored) / best
    least = training["least_seconds"] + (score["least_seconds"] if score else 0)
    return {
        "flop_per_example": cost.counted,
        "flop_per_example_done": cost.trained,
        "flop_per_second": rate,
        "share_of_product_limit": rate / roof.flop_per_second,
        "bytes_per_step": step_bytes,
        "share_of_roofline": least / best,
        "training": training,
        "scoring": score,
    }
