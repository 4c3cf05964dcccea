"""Measures a lookup table of latency by layer on this machine: each layer at several widths, then whole networks.

A layer is a convolution or matrix product with all that follows it up to the next one (`program.pieces`), so that
normalisation, activation, pooling and additions are measured in place, as the compiler fuses them.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from fednas_jax import lut
from fednas_jax.errors import DeviceError, NetworkError
from fednas_jax.program import LAYERS, Piece, Program, flatten, pieces, runner, signature
from fednas_jax.seeds import Purpose, generator
from fednas_jax.space import Network, Space, Widths, grown_by_primes, powers, primes

# Seconds that one call of a function takes, given the shapes and dtypes of its arguments.
Timer = Callable[[Callable[..., Any], Sequence[Any]], float]


def stopwatch(
    repeats: int = 21, pick: Callable[[Sequence[float]], float] = statistics.median, least_seconds: float = 1e-4
) -> Timer:
    """A timer that compiles, warms up, and takes the median of several runs.

    Args:
      repeats: number of runs.
      pick: what is made of their seconds. The median is what a user of a quiet machine meets; `min` is what is left
        to take on a machine that others use, where most runs wait for them.
      least_seconds: a run calls the function so often that it takes about this long: much above the clock's step,
        much below the slice of time that the system gives a program.
    """

    def run(function: Callable[..., Any], calls: int, arguments: Sequence[Any]) -> float:
        began = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(function(*arguments))
        return (time.perf_counter() - began) / calls

    def timed(function: Callable[..., Any], shapes: Sequence[Any]) -> float:
        rng = np.random.default_rng(0)
        # Positive, so that variances are; small, so that nothing overflows in deep networks.
        draw = lambda s: jax.device_put(rng.uniform(0.01, 0.1, s.shape).astype(s.dtype))  # noqa: E731
        arguments = jax.tree.map(draw, list(shapes))
        compiled = jax.jit(function).lower(*arguments).compile()
        run(compiled, 2, arguments)
        calls = max(1, math.ceil(least_seconds / run(compiled, 3, arguments)))
        return pick([run(compiled, calls, arguments) for _ in range(repeats)])

    return timed


def measure(
    space: Space,
    timer: Timer,
    points: int = 5,
    networks: int = 8,
    seed: int = 0,
    observe: Callable[[str], None] = lambda line: None,
) -> lut.Table:
    """Measures a network's layers, fits their sum to whole networks, and checks it on others.

    Args:
      space: the network, its groups and multiples; nothing is measured beyond the space's own widths.
      timer: `stopwatch()`, or what stands for it.
      points: measured widths of a group, from its multiple up to its width; 3 for layers of more than two groups.
      networks: whole networks at random widths to fit to (with the parent), and as many to check with.
      seed: of those widths.
      observe: told what is measured.

    Raises:
      NetworkError: the widths change which layers there are, or the size of a layer follows no group.
      DeviceError: the times do not grow with the layers.
    """
    groups = space.groups
    call = 1e3 * timer(lambda x: x + 1, [jax.ShapeDtypeStruct((1,), np.float32)])
    layers = tuple(_layers(space, timer, points, call, observe))

    def whole(widths: Widths) -> float:
        observe(f"network {'-'.join(map(str, widths))}")
        variables = space.network.abstract(widths)
        image = jax.ShapeDtypeStruct((1, *space.network.input_shape), np.float32)
        forward = lambda v, x: space.network.apply(widths, v, x, train=False)[0]  # noqa: E731
        return 1e3 * timer(forward, [variables, image])

    luck = generator(seed, Purpose.PROPOSE)
    most = [w // m for w, m in zip(space.widths, space.multiple, strict=True)]
    drawn = [
        tuple(int(luck.integers(1, n + 1)) * m for n, m in zip(most, space.multiple, strict=True))
        for _ in range(2 * networks)
    ]
    known = [space.widths, *drawn[:networks]]
    base, scale = fitted(lut.layers_ms(groups, layers, known), np.asarray([whole(w) for w in known]))
    table = lut.Table(
        network=space.network.name,
        input_shape=tuple(space.network.input_shape),
        groups=groups,
        widths=space.widths,
        macs=space.macs(space.widths),
        device=jax.devices()[0].device_kind,
        layers=layers,
        base_ms=base,
        scale=scale,
        checked=(),
    )
    checked = tuple(lut.Whole(w, whole(w), table(w)) for w in drawn[networks:])
    return lut.Table(**(vars(table) | {"checked": checked}))


def fitted(layers_ms: np.ndarray, measured_ms: np.ndarray) -> tuple[float, float]:
    """Base and scale of least squared relative error: measured = base + scale x layers; base at least 0.

    Raises:
      DeviceError: the measured times do not grow with the layers'.
    """
    design = np.stack([1 / measured_ms, layers_ms / measured_ms], 1)
    (base, scale), *_ = np.linalg.lstsq(design, np.ones(len(measured_ms)))
    if base < 0:  # would make small networks take no time
        base, scale = 0.0, float(design[:, 1].sum() / np.square(design[:, 1]).sum())
    if not scale > 0:
        got = f"got {scale:.2g} ms of the network for each ms of its layers"
        raise DeviceError(f"latency: {got}, want above 0: try again on a quieter machine, or with more --repeats")
    return float(base), float(scale)


def _layers(space: Space, timer: Timer, points: int, call: float, observe: Callable[[str], None]) -> list[lut.Layer]:
    """Every layer on the grid of widths of its groups; what computes the same is measured once."""
    network, parent = space.network, space.widths
    program = flatten(network, parent)
    parts = pieces(program)
    used = _groups(network, program, parts, flatten(network, grown_by_primes(parent)), parent)
    color = _colors(used, len(space.groups))
    times: dict[str, float] = {}
    grids: list[dict[tuple[int, ...], float]] = [{} for _ in parts]

    def widths_of(group: int, count: int) -> list[int]:
        step, most = space.multiple[group], parent[group]
        chosen = np.linspace(step, most, count) // step * step
        return sorted({int(w) for w in chosen[:-1]} | {most})

    fine, coarse = ([widths_of(g, n) for g in range(len(parent))] for n in (points, min(points, 3)))
    of_layer = [fine if len(u) <= 2 else coarse for u in used]
    # Layers of which no two groups have one colour get all their grid from one network for each choice of a number
    # for each colour: the group takes its measured width of that number.
    for numbers in itertools.product(range(points), repeat=max(color, default=0) + 1):
        wanted = [
            n
            for n, (groups, choice) in enumerate(zip(used, of_layer, strict=True))
            if all(numbers[color[g]] < len(choice[g]) for g in groups)
            and tuple(choice[g][numbers[color[g]]] for g in groups) not in grids[n]
        ]
        for choice in (fine, coarse):
            mine = [n for n in wanted if of_layer[n] is choice]
            if not mine:
                continue
            widths = tuple(choice[g][min(numbers[color[g]], len(choice[g]) - 1)] for g in range(len(parent)))
            traced = flatten(network, widths)
            cut = pieces(traced)
            if len(cut) != len(parts):
                raise NetworkError(f"{network.name}: the widths change which layers there are")
            for n in mine:
                known = signature(traced, cut[n])
                if known not in times:
                    observe(f"layer {n + 1} of {len(parts)}: {_name(traced, cut[n])}")
                    shapes = [traced.avals[value] for value in cut[n].inputs]
                    times[known] = max(0.0, 1e3 * timer(runner(traced, cut[n]), shapes) - call)
                grids[n][tuple(widths[g] for g in used[n])] = times[known]
    return [
        lut.Layer(
            _name(program, part),
            tuple(space.groups[g] for g in groups),
            tuple(tuple(choice[g]) for g in groups),
            _nested(grid, [choice[g] for g in groups]),
        )
        for part, groups, choice, grid in zip(parts, used, of_layer, grids, strict=True)
    ]


def _groups(
    network: Network, program: Program, parts: list[Piece], grown: Program, parent: Widths
) -> list[tuple[int, ...]]:
    """The width groups that each piece depends on."""
    others = pieces(grown)
    if len(others) != len(parts):
        raise NetworkError(f"{network.name}: the widths change which layers there are")
    found = []
    for part, other in zip(parts, others, strict=True):
        groups: set[int] = set()
        values = zip((*part.inputs, *part.outputs), (*other.inputs, *other.outputs), strict=True)
        for before, after in values:
            size, bigger = math.prod(program.shape(before)), math.prod(grown.shape(after))
            exponents = powers(size, bigger, primes(len(parent)))
            if exponents is None:
                raise NetworkError(
                    f"{network.name}: the size of a value of shape {program.shape(before)} is no product of powers of "
                    "the widths"
                )
            groups |= {g for g, e in enumerate(exponents) if e}
        found.append(tuple(sorted(groups)))
    return found


def _colors(used: Sequence[tuple[int, ...]], count: int) -> list[int]:
    """A number for each group, small, different for groups that share a layer."""
    color: list[int] = []
    for group in range(count):
        near = {color[g] for groups in used if group in groups for g in groups if g < group}
        color.append(next(n for n in range(count) if n not in near))
    return color


def _name(program: Program, piece: Piece) -> str:
    """The layer in words: the shapes of its convolution or product."""
    for operation in piece.operations:
        if operation.name in LAYERS:
            image, kernel = (program.shape(value) for value in operation.reads)
            kind = "convolution" if operation.name == LAYERS[0] else "product"
            return f"{kind} of {'x'.join(map(str, image))} with {'x'.join(map(str, kernel))}"
    return "loop"


def _nested(grid: dict[tuple[int, ...], float], points: Sequence[Sequence[int]], chosen: tuple[int, ...] = ()) -> Any:
    if len(chosen) == len(points):
        return grid[chosen]
    return tuple(_nested(grid, points, (*chosen, width)) for width in points[len(chosen)])
