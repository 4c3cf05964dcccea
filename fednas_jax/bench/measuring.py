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
from fednas_jax.bench.peers import Peer, Peers, compared
from fednas_jax.bench.roofline import Roofline, score_bytes, train_bytes
from fednas_jax.bench.rounds import Federation, FleetRounds, SequentialRounds, in_turns
from fednas_jax.config.schema import EngineConfig
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
    f, work = federation, FleetRounds(federation, engine, devices)
    fleet = work.fleet
    first = work()  # compiles, and fills every cache there is
    before = work.effort
    works: list[Callable[[], float]] = [work]
    if sequential:
        works.append(SequentialRounds(f))
        works[1]()
    others: list[Peer] = []
    left_out: dict[str, str] = {}
    if peers is not None:
        others, left_out = peers.of(work)
    works += [peer.work for peer in others]
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
    pixel, tasks = f.data.inputs.dtype.itemsize, len(f.tasks.client) * f.workload.rounds
    step_bytes = train_bytes(f.network, f.widths, f.workload.train, pixel)
    training = roof.judge(examples * cost.trained, steps * step_bytes, best - scoring)
    score = None
    if scored:
        score = roof.judge(scored * cost.scored, score_bytes(f.network, f.widths, tasks, scored, pixel), scoring)
    trained = np.asarray(times[0]) - scoring_seconds
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
        "sequential": compared(trained, examples, times[1], examples, None) if sequential else None,
        "peers": {
            peer.name: compared(trained, examples, theirs, peer.examples, peer.difference)
            for peer, theirs in zip(others, times[len(times) - len(others) :], strict=True)
        },
        "peers_left_out": left_out,
    }
    if profile is not None:
        with jax.profiler.trace(str(profile)):
            for _ in range(_TRACED):
                work()
    return row
