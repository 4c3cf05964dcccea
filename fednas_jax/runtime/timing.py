"""Times functions on this machine, many of them turn by turn, so that what else it does disturbs all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

MOST_BYTES = 2**29  # of arguments that are held at once; functions with more are timed in several lots


class Timed(NamedTuple):
    """A function to be timed."""

    name: str  # what is said of it
    function: Callable[..., Any]
    shapes: Sequence[Any]  # of its arguments: trees with a shape and dtype at each leaf


# Seconds that one call of each function takes.
Timer = Callable[[Sequence[Timed]], list[float]]


def stopwatch(
    repeats: int = 21,
    pick: Callable[[Sequence[float]], float] = statistics.median,
    observe: Callable[[str], None] = lambda line: None,
    least_seconds: float = 1e-4,
) -> Timer:
    """A timer that compiles all functions, warms them up, and then runs them in turns.

    A function's runs lie far apart in time: a second in which the machine does something else costs each of them one
    run, which the median leaves out, instead of one of them all its runs.

    Args:
      repeats: runs of each.
      pick: what is made of a function's seconds. The median is what a user of a quiet machine meets; `min` is what is
        left to take on a machine that others use, where most runs wait for them.
      observe: told what is done.
      least_seconds: a run calls the function so often that it takes about this long: much above the clock's step, much
        below the slice of time that the system gives a program.
    """

    def timed(functions: Sequence[Timed]) -> list[float]:
        found: list[float] = []
        for lot in _lots(functions):
            ready = []
            for number, one in enumerate(lot, len(found) + 1):
                observe(f"compiling {number} of {len(functions)}: {one.name}")
                ready.append(_prepared(one, least_seconds))
            seconds: list[list[float]] = [[] for _ in lot]
            for turn in range(repeats):
                observe(f"timing {len(found) + 1} to {len(found) + len(lot)} of {len(functions)}, turn {turn + 1}")
                for mine, (compiled, arguments, calls) in zip(seconds, ready, strict=True):
                    _run(compiled, 1, arguments)  # the one before has left its own data in the caches
                    mine.append(_run(compiled, calls, arguments))
            found += [pick(mine) for mine in seconds]
            del ready, compiled, arguments  # before the next lot is made
        return found

    return timed


def _lots(functions: Sequence[Timed]) -> list[list[Timed]]:
    """The functions in lots whose arguments fit into memory together."""
    lots: list[list[Timed]] = []
    held = 0
    for one in functions:
        size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(one.shapes))
        if not lots or held + size > MOST_BYTES:
            lots.append([])
            held = 0
        lots[-1].append(one)
        held += size
    return lots


def _prepared(one: Timed, least_seconds: float) -> tuple[Callable[..., Any], list[Any], int]:
    """The compiled function, its arguments, and how many calls make a run."""
    rng = np.random.default_rng(0)
    # Positive, so that variances are; small, so that nothing overflows in deep networks.
    draw = lambda leaf: jax.device_put(rng.uniform(0.01, 0.1, leaf.shape).astype(leaf.dtype))  # noqa: E731
    arguments = jax.tree.map(draw, list(one.shapes))
    compiled = jax.jit(one.function).lower(*arguments).compile()
    _run(compiled, 2, arguments)
    return compiled, arguments, max(1, math.ceil(least_seconds / _run(compiled, 3, arguments)))


def _run(function: Callable[..., Any], calls: int, arguments: Sequence[Any]) -> float:
    """Seconds of one call, of several in a row."""
    began = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function(*arguments))
    return (time.perf_counter() - began) / calls
