"""Measures a lookup table of latency by layer on this machine: each layer at several widths, then whole networks.

A layer is a convolution or matrix product with all that follows it up to the next one (`program.pieces`), so that
normalisation, activation, pooling and additions are measured in place, as the compiler fuses them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fednas_jax.errors import DeviceError, NetworkError
from fednas_jax.runtime.timing import Timed, Timer
from fednas_jax.search import lut
from fednas_jax.seeds import Purpose, generator
from fednas_jax.space.intermediates import Intermediates, traced_sizes
from fednas_jax.space.jaxprs import LAYERS, Piece, Program, flatten, pieces, runner, signature
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths, inputs_of


def measure(
    space: Space,
    timer: Timer,
    points: int = 5,
    networks: int = 8,
    seed: int = 0,
) -> lut.Table:
    """Measures a network's layers, fits their sum to whole networks, and checks it on others.

    Args:
      space: the network, its groups and multiples; nothing is measured beyond the space's own widths.
      timer: `stopwatch()`, or what stands for it.
      points: measured widths of a group, from its multiple up to its width; 3 for layers of more than two groups.
      networks: whole networks at random widths to fit to (with the parent), and as many to check with.
      seed: of those widths.

    Raises:
      NetworkError: the widths change which layers there are, or the size of a layer follows no group.
      DeviceError: the times do not grow with the layers.
    """
    groups = space.groups
    layers = tuple(_layers(space, timer, points))

    def whole(widths: Widths) -> Timed:
        variables = space.network.abstract(widths)
        forward = lambda v, x: space.network.apply(widths, v, x, train=False)[0]  # noqa: E731
        return Timed(f"network {'-'.join(map(str, widths))}", forward, [variables, inputs_of(space.network, 1)])

    rng = generator(seed, Purpose.PROPOSE)
    most = [w // m for w, m in zip(space.widths, space.multiple, strict=True)]
    drawn = [
        tuple(int(rng.integers(1, n + 1)) * m for n, m in zip(most, space.multiple, strict=True))
        for _ in range(2 * networks)
    ]
    known = [space.widths, *drawn[:networks]]
    milliseconds = 1e3 * np.asarray(timer([whole(w) for w in (*known, *drawn[networks:])]))
    base, scale = fitted(lut.layers_ms(groups, layers, known), milliseconds[: len(known)])
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
    fresh = zip(drawn[networks:], milliseconds[len(known) :].tolist(), strict=True)
    checked = tuple(lut.Whole(w, ms, table(w)) for w, ms in fresh)
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


def _layers(space: Space, timer: Timer, points: int) -> list[lut.Layer]:
    """Every layer on the grid of widths of its groups; what computes the same is measured once."""
    network, parent = space.network, space.widths
    found = traced_sizes(space)
    program = found.programs[0]
    parts = pieces(program)
    used = [_groups(space, found, part) for part in parts]
    color = _colors(used, len(space.groups))
    # A call takes time itself, which is not the layer's.
    wanted = {"": Timed("an empty call", lambda x: x + 1, [jax.ShapeDtypeStruct((1,), np.float32)])}
    grids: list[dict[tuple[int, ...], str]] = [{} for _ in parts]

    def widths_of(group: int, count: int) -> list[int]:
        step, most = space.multiple[group], parent[group]
        chosen = np.linspace(step, most, count) // step * step
        return sorted({int(w) for w in chosen[:-1]} | {most})

    fine, coarse = ([widths_of(g, n) for g in range(len(parent))] for n in (points, min(points, 3)))
    of_layer = [fine if len(u) <= 2 else coarse for u in used]
    # Layers of which no two groups have one colour get all their grid from one network for each choice of a number
    # for each colour: the group takes its measured width of that number.
    for numbers in itertools.product(range(points), repeat=max(color, default=0) + 1):
        missing = [
            n
            for n, (groups, choice) in enumerate(zip(used, of_layer, strict=True))
            if all(numbers[color[g]] < len(choice[g]) for g in groups)
            and tuple(choice[g][numbers[color[g]]] for g in groups) not in grids[n]
        ]
        for choice in (fine, coarse):
            mine = [n for n in missing if of_layer[n] is choice]
            if not mine:
                continue
            widths = tuple(choice[g][min(numbers[color[g]], len(choice[g]) - 1)] for g in range(len(parent)))
            traced = flatten(network, widths)
            cut = pieces(traced)
            if len(cut) != len(parts):
                raise NetworkError(f"{network.name}: the widths change which layers there are")
            for n in mine:
                known = signature(traced, cut[n])
                if known not in wanted:
                    shapes = [traced.avals[value] for value in cut[n].inputs]
                    wanted[known] = Timed(_name(traced, cut[n]), runner(traced, cut[n]), shapes)
                grids[n][tuple(widths[g] for g in used[n])] = known
    call, *seconds = timer(list(wanted.values()))
    times = dict(zip(list(wanted)[1:], (1e3 * max(0.0, s - call) for s in seconds), strict=True))
    return [
        lut.Layer(
            _name(program, part),
            tuple(space.groups[g] for g in groups),
            tuple(tuple(choice[g]) for g in groups),
            _nested({widths: times[known] for widths, known in grid.items()}, [choice[g] for g in groups]),
        )
        for part, groups, choice, grid in zip(parts, used, of_layer, grids, strict=True)
    ]


def _groups(space: Space, found: Intermediates, part: Piece) -> tuple[int, ...]:
    """The width groups that a piece depends on."""
    sizes = [found.polynomial(space, value) for value in (*part.inputs, *part.outputs)]
    return tuple(g for g in range(len(space.groups)) if any(exponents[g] for size in sizes for exponents in size))


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
