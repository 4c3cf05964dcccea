"""Which entry of which dimension belongs to which channel: followed through the traced forward pass.

Every entry of a variable's dimension that grows with the widths is a node. Operations tie nodes: a convolution's input
channels to its kernel's, both terms of a sum to each other. What is tied is one channel, and the convolution or product
that makes it says which one. An operation that is not known here ties nothing, and the checks afterwards say what is
missing. Followed, not measured: zero gradients would show the same, but not through biases or normalisation over
channels, which speak for channels that are off.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fednas_jax.space.costs import grown, primes
from fednas_jax.space.jaxprs import (
    LAYERS,
    LOOPS,
    Body,
    Operation,
    inner_jaxprs,
    inner_layers,
    opened,
    opened_forward,
    scan_parts,
    window_macs,
)
from fednas_jax.space.network import Network, Widths
from fednas_jax.space.segments import FIXED

# Nodes of a value's entries, one array for each identity: of the value's rank, of size 1 along axes it is the same on.
Nodes = list[np.ndarray]
Key = tuple[str, int]  # path of a variable, axis
Layer = list[int | np.ndarray] | None  # None: inside a loop that is not followed
FORGET = ("sort", "dynamic_update_slice", "fft", "iota", *LOOPS)  # scans are walked through instead
JOIN = ("reduce_max", "reduce_min", "argmax", "argmin")  # one channel is made of all entries, as maxout does


class Followed(NamedTuple):
    """What following a network found, at some widths."""

    channels: dict[Key, tuple[np.ndarray, np.ndarray]]  # group and channel of each entry
    makers: dict[Key, np.ndarray]  # of each entry a number for the dimension that names its channel
    layers: list[Layer]  # of each convolution and product: its sizes, or groups of a size's entries


@functools.lru_cache(maxsize=16)
def follow(network: Network, widths: Widths, growing: frozenset[Key], pure: frozenset[tuple[Key, int]]) -> Followed:
    """Follows the channels of a network at these widths, each at least 2.

    Args:
      network: the family.
      widths: at which to follow.
      growing: the dimensions whose size depends on the widths.
      pure: of these, those whose size is a multiple of one group's width, with the group.
    """
    program = opened_forward(network, widths)
    variables = network.abstract(widths)
    named = [(path, leaf.shape) for part in variables for path, leaf in sorted(part.items())]
    known: dict[int, Nodes] = {}
    own: dict[Key, np.ndarray] = {}
    count = 0
    for number, (path, shape) in zip(program.inputs[:-1], named, strict=True):
        known[number] = []
        for axis, size in enumerate(shape):
            if (path, axis) in growing:
                own[path, axis] = count + np.arange(size)
                known[number].append(_along(own[path, axis], axis, len(shape)))
                count += size
    ties = _Ties()
    layers = ties.walk(program, known, _whole_widths(network, widths, program))
    component = ties.components(count)
    names = _names(network, widths, own, component, dict(pure), ties.numbers(component))
    of_node = np.array([names.get(c, (FIXED, 0, FIXED)) for c in component.tolist()] or [(FIXED, 0, FIXED)])
    found = {key: (of_node[nodes, 0], of_node[nodes, 1]) for key, nodes in own.items()}
    makers = {key: of_node[nodes, 2] for key, nodes in own.items()}
    told = [
        None if sizes is None else [s if isinstance(s, int) else np.where(s < 0, FIXED, of_node[s, 0]) for s in sizes]
        for sizes in layers
    ]
    return Followed(found, makers, told)


def _names(
    network: Network,
    widths: Widths,
    own: Mapping[Key, np.ndarray],
    component: np.ndarray,
    pure: Mapping[Key, int],
    numbers: Mapping[tuple[int, int], int],
) -> dict[int, tuple[int, int, int]]:
    """The group, channel and maker of each component: what makes a channel names it, or else what reads it.

    Args:
      network: the family.
      widths: at which it was followed.
      own: the nodes of the variables' dimensions.
      component: of each node.
      pure: the group of dimensions that are a multiple of its width.
      numbers: of a group and a component the channel, where reshaping told it.
    """
    names: dict[int, tuple[int, int, int]] = {}
    keys, number = sorted(own.keys() & pure.keys()), {key: n for n, key in enumerate(sorted(pure))}
    shapes = {path: leaf.shape for part in network.abstract(widths) for path, leaf in part.items()}

    def makes(key: Key) -> bool:
        return len(shapes[key[0]]) > 1 and key[1] == len(shapes[key[0]]) - 1

    for key in sorted(keys, key=lambda key: (not makes(key), len(own[key]) > widths[pure[key]])):
        g, here = pure[key], component[own[key]].tolist()
        first: dict[int, int] = {}
        for place, c in enumerate(here):
            first.setdefault(c, place)
        told, turns = [numbers.get((g, c), FIXED) for c in first], defaultdict[int, Iterator[int]](itertools.count)
        if len(first) == widths[g]:
            places = [(0, n) for n in range(len(first))]
        elif FIXED not in told:
            places = [(next(turns[channel]), channel) for channel in told]
        else:  # of a repeated group that nothing else names, channels are numbered as they come, turn after turn
            places = [divmod(place, widths[g]) for place in first.values()]
        for c, (turn, channel) in zip(first, places, strict=True):
            names.setdefault(c, (g, channel, number[key] + turn * len(number)))
    return names


def _whole_widths(network: Network, widths: Widths, program: Body) -> list[tuple[int | None, ...]]:
    """For each dimension of each value the group whose width it is, neither a multiple of it nor a part."""
    factors = primes(len(widths))
    larger = opened_forward(network, grown(widths, factors))
    if len(larger.avals) != len(program.avals):  # the widths change which operations there are
        return [(None,) * len(a.shape) for a in program.avals]
    sizes = {(w, w * f): g for g, (w, f) in enumerate(zip(widths, factors, strict=True))}
    pairs = zip(program.avals, larger.avals, strict=True)
    return [tuple(sizes.get(pair) for pair in zip(a.shape, b.shape, strict=True)) for a, b in pairs]


class _Ties:
    """Collects which nodes are tied, operation by operation."""

    def __init__(self) -> None:
        self.pairs: list[np.ndarray] = [np.zeros((2, 0), np.int64)]
        self.told: list[tuple[int, np.ndarray, np.ndarray]] = []  # group, nodes, and the channel of each

    def walk(
        self, body: Body, known: dict[int, Nodes], whole: Sequence[Sequence[int | None]] | None = None
    ) -> list[Layer]:
        """Follows all operations of a program; returns the sizes of its layers, as nodes.

        Args:
          body: the program.
          known: the nodes of its inputs, by their numbers; those of all other values are added.
          whole: for each dimension of each value the group whose width it is, if that is known.
        """
        layers: list[Layer] = []
        for operation in body.operations:
            shapes = [body.avals[value].shape for value in operation.reads]
            into = [known.get(value, []) for value in operation.reads]
            if operation.name in LAYERS:
                layers.append(_sizes(operation, shapes, into))
            if operation.name == "scan":
                found, inside = self._scanned(operation.equation, into)
                layers += inside
            else:
                layers += [None] * (0 if operation.name in LAYERS else inner_layers(operation.equation))
                found = self.through(operation, shapes, into, [body.avals[value].shape for value in operation.writes])
            for value, nodes in zip(operation.writes, found, strict=True):
                known[value] = _tidy(nodes)
                if operation.name == "reshape" and whole:
                    self.number(known[value], whole[value])
        return layers

    def _scanned(self, equation: Any, into: Sequence[Nodes]) -> tuple[list[Nodes], list[Layer]]:
        """The nodes of a scan's outputs, and the layers inside: what a step returns is what the next one takes."""
        (inner,), (first, carries) = inner_jaxprs(equation), scan_parts(equation)
        body = opened(inner)
        steps = [[n.squeeze(0) for n in nodes if n.shape[0] == 1] for nodes in into[first + carries :]]
        carried = list(into[first : first + carries])
        for _ in range(2):
            known = dict(zip(body.inputs, [*into[:first], *carried, *steps], strict=True))
            layers = self.walk(body, known)
            found = [known.get(value, []) for value in body.outputs]
            shapes = [body.avals[value].shape for value in body.outputs]
            carried = [
                _tidy(self._elementwise(pair, shape)) for *pair, shape in zip(carried, found, shapes, strict=False)
            ]
        return [*carried, *([n[None] for n in nodes] for nodes in found[carries:])], layers

    def number(self, nodes: Nodes, groups: Sequence[int | None]) -> None:
        """Takes down which channels entries are of, where a reshape gives a group's whole width an axis of its own."""
        for n in nodes:
            for axis in _varies(n) if len(_varies(n)) > 1 else ():
                if (g := groups[axis]) is not None:
                    there = n >= 0
                    channels = np.broadcast_to(_along(np.arange(n.shape[axis]), axis, n.ndim), n.shape)
                    self.told.append((g, n[there], channels[there]))

    def numbers(self, component: np.ndarray) -> dict[tuple[int, int], int]:
        """The channel of each group's components, where reshapes agree about it."""
        found: dict[tuple[int, int], set[int]] = defaultdict(set)
        for g, nodes, channels in self.told:
            for c, channel in zip(component[nodes].tolist(), channels.tolist(), strict=True):
                found[g, c].add(channel)
        return {key: min(channels) for key, channels in found.items() if len(channels) == 1}

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        pair = np.stack([side.ravel() for side in np.broadcast_arrays(a, b)])
        self.pairs.append(pair[:, (pair >= 0).all(0) & (pair[0] != pair[1])])

    def components(self, count: int) -> np.ndarray:
        rows, columns = np.concatenate(self.pairs, 1)
        graph = coo_array((np.ones(len(rows), bool), (rows, columns)), (count, count))
        return np.asarray(connected_components(graph, directed=False)[1])

    def through(
        self,
        operation: Operation,
        shapes: Sequence[tuple[int, ...]],
        into: Sequence[Nodes],
        out: Sequence[tuple[int, ...]],
    ) -> list[Nodes]:
        """The nodes of an operation's outputs."""
        name, given = operation.name, operation.equation.params
        if name in FORGET or name.startswith("scatter"):
            return [[] for _ in out]
        if name == "conv_general_dilated":
            return [self._convolution(given, shapes, into, len(out[0]))]
        if name == "dot_general":
            return [self._product(given, shapes, into, len(out[0]))]
        if name == "concatenate":
            return [self._concatenated(given["dimension"], shapes, into)]
        if name == "stack":
            return [self._stacked(given["axis"] % len(out[0]), shapes, into)]
        if name == "unstack":
            axis, count = given["axis"], len(out)
            parts = [np.split(n, count, axis) if axis in _varies(n) else [n] * count for n in into[0]]
            return [[part[n].squeeze(axis) for part in parts] for n in range(count)]
        if name == "split":
            cuts = np.cumsum(given["sizes"])[:-1]
            parts = [_cut(nodes, given["axis"], cuts) for nodes in into[0]]
            return [[part[n] for part in parts] for n in range(len(out))]
        if name.startswith(("reduce_", "arg")) and "axes" in given:
            reduced = [self._reduced(nodes, given["axes"], name in JOIN) for nodes in into[0]]
            return [[nodes for nodes in reduced if nodes is not None] for _ in out]
        if name in MOVES:
            return [MOVES[name](given, into[0], shapes[0], out[0])]
        return [self._elementwise(into, size) for size in out]

    def _elementwise(self, into: Sequence[Nodes], out: tuple[int, ...]) -> Nodes:
        """Operands of one shape, or windows along other axes."""
        merged: Nodes = []
        for nodes in (n for operand in into for n in operand):
            if nodes.ndim != len(out) or any(n not in (1, size) for n, size in zip(nodes.shape, out, strict=True)):
                continue
            for n, other in enumerate(merged):
                if _varies(nodes) & _varies(other):
                    self.tie(nodes, other)
                    merged[n] = np.maximum(*np.broadcast_arrays(nodes, other))
                    break
            else:
                merged.append(nodes)
        return merged

    def _convolution(self, given: Any, shapes: Sequence[tuple[int, ...]], into: Sequence[Nodes], rank: int) -> Nodes:
        numbers, groups = given["dimension_numbers"], given["feature_group_count"]
        image = _on(into[0], numbers.lhs_spec[1], shapes[0])
        reads, makes = (_on(into[1], axis, shapes[1]) for axis in (numbers.rhs_spec[1], numbers.rhs_spec[0]))
        if np.all(reads < 0) and groups > 1:  # as many groups as channels, or as channels in a block
            for side in (image, makes):
                blocks = side.reshape(groups, -1)
                self.tie(blocks[:, :1], blocks)
            self.tie(image.reshape(groups, -1)[:, 0], makes.reshape(groups, -1)[:, 0])
        else:
            self.tie(image.reshape(groups, -1), reads)
        return [_along(makes, numbers.out_spec[1], rank)]

    def _product(self, given: Any, shapes: Sequence[tuple[int, ...]], into: Sequence[Nodes], rank: int) -> Nodes:
        contracted, batch = given["dimension_numbers"]
        alike = len(batch[0])
        for left, right in itertools.product(
            *([_placed(n, (*batch[side], *contracted[side])) for n in into[side]] for side in (0, 1))
        ):
            if left is not None and right is not None and max(_varies(left) & _varies(right), default=-1) >= alike:
                self.tie(left, right)
        found: list[Nodes] = []
        free = [[a for a in range(len(shapes[s])) if a not in (*batch[s], *contracted[s])] for s in (0, 1)]
        for side, gap in ((0, 0), (1, len(free[0]))):
            axes = (*batch[side], *[None] * gap, *free[side])
            laid = [_placed(n, (*axes, *[None] * (rank - len(axes)))) for n in into[side]]
            found.append([n for n in laid if n is not None])
        sizes = [max([1, *(n.shape[axis] for part in found for n in part)]) for axis in range(rank)]
        return self._elementwise([_tidy(part) for part in found], tuple(sizes))

    def _stacked(self, axis: int, shapes: Sequence[tuple[int, ...]], into: Sequence[Nodes]) -> Nodes:
        """Along a new axis, on which entries of different operands stay apart."""
        parts = [
            nodes[0] if nodes else np.full([1] * len(shape), -1) for nodes, shape in zip(into, shapes, strict=True)
        ]
        return [np.stack(np.broadcast_arrays(*parts), axis)] if all(len(nodes) < 2 for nodes in into) else []

    def _concatenated(self, axis: int, shapes: Sequence[tuple[int, ...]], into: Sequence[Nodes]) -> Nodes:
        parts, others = [], []
        for nodes, shape in zip(into, shapes, strict=True):
            along = [n for n in nodes if axis in _varies(n)]
            others.append([n for n in nodes if axis not in _varies(n)])
            found = along[0] if along else np.full([1] * len(shape), -1)
            size = [shape[axis] if a == axis else n for a, n in enumerate(found.shape)]
            parts.append(np.broadcast_to(found, size))
        wide = [max(sizes) for sizes in zip(*(p.shape for p in parts), strict=True)]
        parts = [np.broadcast_to(p, [p.shape[a] if a == axis else n for a, n in enumerate(wide)]) for p in parts]
        whole = [max(sizes) for sizes in zip(*shapes, strict=True)]
        return [np.concatenate(parts, axis), *self._elementwise(others, tuple(whole))]

    def _reduced(self, nodes: np.ndarray, axes: Sequence[int], joins: bool) -> np.ndarray | None:
        """None where it is no longer known what a channel is: a sum over the channels, or over parts of them."""
        inside = _varies(nodes) & set(axes)
        if inside and (not joins or not _varies(nodes) - inside):
            return None
        for axis in inside:
            self.tie(nodes.take([0], axis), nodes)
        return nodes.take(0, axes[0]) if len(axes) == 1 else _first(nodes, axes)


def _sizes(operation: Operation, shapes: Sequence[tuple[int, ...]], into: Sequence[Nodes]) -> list[int | np.ndarray]:
    """The sizes whose product is a layer's multiply-accumulates; the nodes of those that have some."""
    given = operation.equation.params

    def size(side: int, axis: int) -> int | np.ndarray:
        nodes = _on(into[side], axis, shapes[side])
        return nodes if np.any(nodes >= 0) else shapes[side][axis]

    if operation.name == "conv_general_dilated":
        makes, reads, *_ = given["dimension_numbers"].rhs_spec
        return [window_macs(operation.equation), size(1, reads), size(1, makes)]
    contracted, batch = given["dimension_numbers"]
    free = [a for a in range(len(shapes[1])) if a not in (*contracted[1], *batch[1])]
    # What is contracted has its nodes in the weights, if anywhere.
    both = [(size(0, a), size(1, b)) for a, b in zip(contracted[0], contracted[1], strict=True)]
    inner = [left if isinstance(right, int) else right for left, right in both]
    outer = [size(0, axis) for axis in range(len(shapes[0])) if axis not in contracted[0]]
    return [*inner, *outer, *(size(1, axis) for axis in free)]


def _varies(nodes: np.ndarray) -> set[int]:
    return {axis for axis, size in enumerate(nodes.shape) if size > 1}


def _along(nodes: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return nodes.reshape([-1 if a == axis else 1 for a in range(rank)])


def _placed(nodes: np.ndarray, axes: Sequence[int | None]) -> np.ndarray | None:
    """The nodes with these axes of theirs in this order, None for a new one; None where they vary along others."""
    if not _varies(nodes) <= set(axes):
        return None
    kept = [axis for axis in axes if axis is not None]
    laid = nodes.transpose([*kept, *(axis for axis in range(nodes.ndim) if axis not in kept)])
    sizes = iter(laid.shape)
    return laid.reshape([1 if axis is None else next(sizes) for axis in axes])


def _on(nodes: Nodes, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """The nodes along one axis [size], -1 where there are none."""
    found = next((n.ravel() for n in nodes if _varies(n) == {axis}), None)
    return np.full(shape[axis], -1) if found is None else found


def _tidy(nodes: Nodes) -> Nodes:
    """Without axes along which nothing changes, and without what is no node."""
    found = []
    for n in nodes:
        for axis in _varies(n):
            if np.all(n == n.take([0], axis)):
                n = n.take([0], axis)
        if np.any(n >= 0):
            found.append(n)
    return found


def _first(nodes: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    return nodes[tuple(0 if axis in axes else slice(None) for axis in range(nodes.ndim))]


def _cut(nodes: np.ndarray, axis: int, cuts: np.ndarray) -> list[np.ndarray]:
    return np.split(nodes, cuts, axis) if axis in _varies(nodes) else [nodes] * (len(cuts) + 1)


def _reshaped(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    """Axes are merged and split within the shortest runs of equal size."""
    runs, a, b = [], 0, 0
    while a < len(before) or b < len(after):
        i, j = a + (a < len(before)), b + (b < len(after))
        while (left := math.prod(before[a:i])) != (right := math.prod(after[b:j])):
            i, j = (i + 1, j) if left < right else (i, j + 1)
        runs.append((range(a, i), range(b, j)))
        a, b = i, j
    found = []
    for n in nodes:
        full, to, clear = list(n.shape), [1] * len(after), True
        for old, new in runs:
            if _varies(n) & set(old):
                full[old.start : old.stop] = before[old.start : old.stop]
                to[new.start : new.stop] = after[new.start : new.stop]
                merged = len(old) > 1 or len(new) > 1
                clear &= not (merged and any(_varies(other) & set(old) for other in nodes if other is not n))
        if clear:  # else an entry stands for channels of two groups at once
            found.append(np.broadcast_to(n, full).reshape(to))
    return found


def _broadcast(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    found = []
    for n in nodes:
        to = [1] * len(after)
        for axis, place in enumerate(given["broadcast_dimensions"]):
            to[place] = n.shape[axis]
        found.append(n.reshape(to))
    return found


def _sliced(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    steps = given["strides"] or (1,) * len(before)
    cuts = [slice(*cut) for cut in zip(given["start_indices"], given["limit_indices"], steps, strict=True)]
    return [n[tuple(cut if axis in _varies(n) else slice(None) for axis, cut in enumerate(cuts))] for n in nodes]


def _padded(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    found = []
    for n in nodes:
        for axis in _varies(n):
            low, _, inside = given["padding_config"][axis]
            place = low + np.arange(n.shape[axis]) * (inside + 1)
            there = (place >= 0) & (place < after[axis])
            wide = np.full([after[axis] if a == axis else size for a, size in enumerate(n.shape)], -1)
            np.moveaxis(wide, axis, 0)[place[there]] = np.moveaxis(n, axis, 0)[there]
            n = wide
        found.append(n)
    return found


def _gathered(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    """Axes that are taken whole stay; entries that are picked along others are alike, as pixels are."""
    numbers = given["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    place = dict(zip((a for a in range(len(before)) if a not in gone), numbers.offset_dims, strict=True))
    found = []
    for n in nodes:
        if all(axis in place and given["slice_sizes"][axis] == before[axis] for axis in _varies(n)):
            kept = {place[axis]: n.shape[axis] for axis in place}
            found.append(n.reshape([kept.get(axis, 1) for axis in range(len(after))]))
    return found


def _cut_out(given: Any, nodes: Nodes, before: tuple[int, ...], after: tuple[int, ...]) -> Nodes:
    return [n for n in nodes if all(before[axis] == after[axis] for axis in _varies(n))]


MOVES: dict[str, Callable[[Any, Nodes, tuple[int, ...], tuple[int, ...]], Nodes]] = {
    "reshape": _reshaped,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "pad": _padded,
    "gather": _gathered,
    "dynamic_slice": _cut_out,
    "transpose": lambda given, nodes, *_: [n.transpose(given["permutation"]) for n in nodes],
    "squeeze": lambda given, nodes, *_: [n.squeeze(given["dimensions"]) for n in nodes],
    "tile": lambda given, nodes, *_: [
        np.tile(n, [times if a in _varies(n) else 1 for a, times in enumerate(given["reps"])]) for n in nodes
    ],
    "rev": lambda given, nodes, *_: [np.flip(n, given["dimensions"]) for n in nodes],
}
