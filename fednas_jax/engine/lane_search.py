"""Which lanes and lowerings an accelerator is asked about, and which of them a round takes. Host code, no jax.

Speeds are lane-steps a second. They rise with lanes until the device is full, and may fall where memory ends. Letters:
L lanes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.engine import lane_plan

LADDER = tuple(2**n for n in range(11))
MIDDLE = 64  # lanes at which lowerings are compared: enough to fill a device, few enough to compile and fit
ENOUGH = 0.9  # of the fastest rung's speed: fewer lanes with as much are taken, since more cost memory
MOST_UNMEASURED = 256  # lanes, where nothing is measured
SECONDS = 10.0  # after which no more is measured
AS_FAST = 1.05  # a round's estimated time, beside the least, at which fewer lanes are as fast
THREADS = 4  # that compile


class Rung(NamedTuple):
    """What is measured."""

    lanes: int
    lowering: str


class Speeds(NamedTuple):
    """What was found out about a network on a device."""

    lowering: str
    """The fastest."""
    of: dict[int, float]
    """Lanes -> lane-steps a second with it."""


def ladder(most: int) -> tuple[int, ...]:
    """The numbers of lanes to choose from where there is work in `most`."""
    return tuple(number for number in LADDER if number <= most) or LADDER[:1]


def search(
    rungs: Sequence[int],
    lowerings: Sequence[str],
    prepare: Callable[[Rung], Any],
    speed: Callable[[Any], float],
    clock: Callable[[], float] = time.monotonic,
    seconds: float = SECONDS,
) -> Speeds:
    """Measures lowerings at one number of lanes, then bisects the lanes with the fastest.

    Args:
      rungs: numbers of lanes, rising.
      lowerings: names; the first is the one that is taken if time is out before anything is measured.
      prepare: compiles a rung, in threads, several at once; None where it does not fit the memory.
      speed: measures what is prepared, alone.
      clock: seconds.
      seconds: after which nothing else is begun, except that one rung is always measured.

    Returns:
      The fastest lowering, and its speeds: those measured, 0 where it does not fit.
    """
    begun, futures, found = clock(), dict[Rung, Future[Any]](), dict[Rung, float]()
    pool = ThreadPoolExecutor(THREADS, "fednas-compile")

    def start(rung: Rung) -> Future[Any]:
        if rung not in futures:
            futures[rung] = pool.submit(prepare, rung)
        return futures[rung]

    def measured(rung: Rung) -> float | None:
        """Its speed; None where time is out."""
        if rung not in found:
            future = start(rung)
            if found:
                # All that compiles, since compilers try out kernels on the device too.
                wait(futures.values(), max(0.0, seconds - (clock() - begun)))
                if not future.done() or clock() - begun >= seconds:
                    return None
            program = future.result()
            found[rung] = 0.0 if program is None else speed(program)
        return found[rung]

    try:
        middle = max(number for number in rungs if number <= max(MIDDLE, rungs[0]))
        wait([start(Rung(middle, name)) for name in lowerings], seconds)
        by_name = {name: measured(Rung(middle, name)) or 0.0 for name in lowerings}
        best = max(lowerings, key=lambda name: by_name[name])

        def rate(at: int) -> float | None:
            return measured(Rung(rungs[at], best))

        low, high = -1, len(rungs) - 1  # too few lanes; enough
        start(Rung(rungs[high], best))
        while rate(high) == 0.0 and high > 0:  # more than the memory takes
            high -= 1
        while high - low > 1:
            half = (low + high) // 2
            for soon in (half, (low + half) // 2, (half + high) // 2):
                if soon >= 0:
                    start(Rung(rungs[soon], best))
            there = rate(half)
            if there is None:
                break
            fastest = max(value for rung, value in found.items() if rung.lowering == best)
            low, high = (low, half) if there >= ENOUGH * fastest else (half, high)
        return Speeds(best, {r.lanes: value for r, value in sorted(found.items()) if r.lowering == best})
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def side_by_side(steps: np.ndarray) -> int:
    """The lanes of a round that is too small to measure: the fewest that end it in about as few steps as any.

    So little work leaves an accelerator waiting for the host to start it, and a step takes as long with any number.

    Args:
      steps: [T] of each task of a round on one device.
    """
    return fewest_lanes(steps, {number: float(number) for number in ladder(min(len(steps), MOST_UNMEASURED))})


def fewest_lanes(steps: np.ndarray, speeds: Mapping[int, float]) -> int:
    """The fewest lanes with which a round is about as fast as with any.

    A round of few tasks leaves many lanes without work: its time is estimated from its plan, lane-steps without work
    included, at the speeds measured. Between two numbers of lanes that were measured, the time of a step is taken to
    follow a power of them.

    Args:
      steps: [T] of each task of a round on one device.
      speeds: L -> lane-steps a second; 0 for those that do not fit the memory.

    Returns:
      A power of two between the fewest and the most lanes measured, or one of these.
    """
    known = sorted(number for number, speed in speeds.items() if speed > 0)
    if not known:
        return min(speeds)
    rungs = sorted({*known, *(n for n in LADDER if known[0] <= n <= known[-1])})
    seconds = np.exp(np.interp(np.log(rungs), np.log(known), [np.log(n / speeds[n]) for n in known]))  # of a step
    times = []
    for lanes, step in zip(rungs, seconds, strict=True):
        part = steps[: lane_plan.TASKS_PER_LANE * lanes]  # more than that are cut into calls as long as this
        plan = lane_plan.segments(part, lanes)
        times.append(step * (plan.length.sum() + lane_plan.BOUNDARY * plan.number) / part.sum())
    return next(n for n, seconds in zip(rungs, times, strict=True) if seconds <= AS_FAST * min(times))
