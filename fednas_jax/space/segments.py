"""A dimension as a row of segments: its size, which entry belongs to which channel, and what row given entries are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fednas_jax.space.network import Dim, Label, Row, Segment

Affine = Mapping[int | None, int]  # a size: the constant under None, the factor of each group's width under its number
Polynomial = dict[tuple[int, ...], int]  # exponents of the widths [G] -> coefficient
Products = tuple[Polynomial | None, ...]  # of each layer the MACs, up to a factor; None where channels tell nothing
FIXED = -1  # stands for the group of an entry that no width changes


def row(dim: Dim | Row) -> Row:
    """Any dimension as a row."""
    return Row((Segment(dim.group, 1),), dim.repeat) if isinstance(dim, Dim) else dim


def affine(dim: Dim | Row) -> Affine:
    """The size of a dimension."""
    counts: Counter[int | None] = Counter()
    for segment in row(dim).segments:
        counts[segment.group] += segment.copies * dim.repeat
    return counts


def wired(dim: Dim | Row) -> bool:
    """Whether the channels are in an order that depends on the widths."""
    return any(not segment.parts for segment in row(dim).segments)


def wired_groups(labels: Mapping[str, Label]) -> set[int]:
    """The groups of these dimensions."""
    dims = (dim for label in labels.values() for dim in label if dim is not None and wired(dim))
    return {group for dim in dims for group in affine(dim) if group is not None}


def size(dim: Dim | Row, widths: Mapping[int, int]) -> int:
    """The size of a dimension at some widths."""
    return sum(factor * (1 if group is None else widths[group]) for group, factor in affine(dim).items())


def product(sizes: Sequence[Affine], groups: int) -> Polynomial:
    """The product of sizes as a sum of products of widths."""
    total: Polynomial = {(0,) * groups: 1}
    for size in sizes:
        total = times(total, {tuple(int(g == group) for g in range(groups)): n for group, n in size.items()})
    return total


def times(a: Polynomial, b: Polynomial) -> Polynomial:
    """The product of two sums of products of widths."""
    total: Counter[tuple[int, ...]] = Counter()
    for (powers, coef), (others, factor) in itertools.product(a.items(), b.items()):
        total[tuple(map(sum, zip(powers, others, strict=True)))] += coef * factor
    return dict(total)


def value(polynomial: Polynomial, widths: Sequence[int]) -> int:
    """A sum of products of widths at some widths."""
    terms = polynomial.items()
    return sum(coef * math.prod(w**e for w, e in zip(widths, powers, strict=True)) for powers, coef in terms)


def dealt(width: int, parts: int) -> np.ndarray:
    """The channels [width] in the order in which their parts, dealt in turn, put them."""
    return np.arange(width).reshape(parts, -1).T.ravel()


def mask(dim: Dim | Row, keep: Sequence[Any], np_: Any) -> Any:
    """The boolean mask of a dimension from those of the groups; `np_` is numpy or jax.numpy."""
    if isinstance(dim, Dim):
        return np_.tile(keep[dim.group], dim.repeat)
    parts = []
    for segment in dim.segments:
        if segment.group is None:
            parts.append(np_.ones(segment.copies, bool))
        else:
            whole = keep[segment.group]
            parts.append(np_.repeat(whole[dealt(whole.shape[0], segment.parts)], segment.copies))
    return np_.tile(np_.concatenate(parts), dim.repeat)


def index(dim: Dim | Row, widths: Mapping[int, int], kept: Sequence[np.ndarray]) -> np.ndarray:
    """Where a dimension at some widths has the entries of the network that only has the kept channels, in its order.

    Args:
      dim: the dimension.
      widths: by group, of those in the dimension.
      kept: for each group the kept channels' indices, in the order in which the smaller network has them.
    """
    places, start = [np.zeros(0, np.int64)], 0
    for segment in row(dim).segments:
        length = segment.copies
        if segment.group is None:
            places.append(start + np.arange(length))
        else:
            few, width = kept[segment.group], widths[segment.group]
            length *= width
            place = np.argsort(dealt(width, segment.parts))[few[dealt(len(few), segment.parts)]]
            places.append((start + place[:, None] * segment.copies + np.arange(segment.copies)).ravel())
        start += length
    once = np.concatenate(places)
    return (np.arange(dim.repeat)[:, None] * start + once).ravel()


def by_channel(dim: Dim | Row, widths: Mapping[int, int], values: Any) -> Iterator[tuple[int, Any]]:
    """Sums of a dimension's values [size] over the entries of each channel: (group, [width]), for each segment."""
    rows = row(dim).segments
    values, start = values.reshape(dim.repeat, -1).sum(0), 0
    for segment in rows:
        length = segment.copies * (1 if segment.group is None else widths[segment.group])
        if segment.group is not None:
            summed = values[start : start + length].reshape(-1, segment.copies).sum(1)
            yield segment.group, summed[np.argsort(dealt(widths[segment.group], segment.parts))]
        start += length


def fit(groups: np.ndarray, channels: np.ndarray, widths: Sequence[int]) -> Dim | Row | None:
    """The dimension whose entries belong to these channels of these groups, FIXED or not; None where no row does."""
    found: list[Segment] = []
    at = 0
    while at < len(groups):
        g = int(groups[at])
        run = next((n for n in range(at, len(groups)) if (groups[n], channels[n]) != (g, channels[at])), len(groups))
        if g == FIXED:
            run = next((n for n in range(at, len(groups)) if groups[n] != FIXED), len(groups))
            found.append(Segment(None, run - at))
            at = run
            continue
        count, width = run - at, widths[g]
        here = slice(at, at + count * width)
        order = channels[here].reshape(-1, count)[:, 0] if len(channels[here]) == count * width else channels[:0]
        parts = next((p for p in range(1, width) if width % p == 0 and np.array_equal(order, dealt(width, p))), None)
        if parts is None or np.any(groups[here] != g) or np.any(channels[here] != np.repeat(order, count)):
            return None
        found.append(Segment(g, count, parts))
        at = here.stop
    length = next(n for n in range(1, len(found) + 1) if found == found[:n] * (len(found) // n))
    segments, repeat = tuple(found[:length]), len(found) // length
    plain = length == 1 and segments[0].group is not None and segments[0][1:] == (1, 1)
    return Dim(int(segments[0].group or 0), repeat) if plain else Row(segments, repeat)


def counted(groups: np.ndarray, widths: Sequence[int]) -> Affine:
    """A size from the groups of its entries, FIXED or not, each a multiple of its group's width."""
    pairs = zip(*(found.tolist() for found in np.unique(groups, return_counts=True)), strict=True)
    return {None if g == FIXED else g: n if g == FIXED else n // widths[g] for g, n in pairs}


def unordered(groups: np.ndarray, widths: Sequence[int]) -> Row | None:
    """The dimension whose entries belong to these groups, in an order of their own; None where no row does."""
    sizes = counted(groups, widths)
    if sum(n * (1 if g is None else widths[g]) for g, n in sizes.items()) != len(groups):
        return None
    return Row(tuple(Segment(g, n, 0) for g, n in sizes.items()), 1)
