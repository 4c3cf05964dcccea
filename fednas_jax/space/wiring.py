"""Channels whose order depends on the widths: which of a large network's entries a smaller one takes over.

A unit that splits its input in halves, and shuffles what it made with what it kept, decides by a channel's place which
unit reads it next. So a channel of the smaller network is a channel of the larger one that the same layers read.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from fednas_jax.space.network import Label, Network, Widths
from fednas_jax.space.provenance import Followed, Key, follow
from fednas_jax.space.segments import FIXED, Affine, affine

Channel = tuple[int, int]  # the maker's number, and the channel among those that it makes


def index(
    network: Network, labels: Mapping[str, Label], wired: Collection[int], widths: Widths, kept: Sequence[np.ndarray]
) -> dict[Key, np.ndarray]:
    """Where the dimensions of the wired groups have the entries of a smaller network, in its order.

    Args:
      network: the family.
      labels: of its variables.
      wired: the groups.
      widths: of the large network, at least 2.
      kept: for each group the channels to keep, in order. Where the same layers read too few of these, others stay in
        their stead, and where no such channels are left, any.
    """
    smaller = tuple(map(len, kept))
    sizes = _sizes(labels)
    large, small = (_followed(network, sizes, w) for w in (widths, smaller))
    partner = _partners(large, small, kept)
    return {
        key: np.array(_places(_entries(large, key), _entries(small, key), partner), np.int64)
        for key in sizes
        if key in small.channels and not sizes[key].keys().isdisjoint(wired)
    }


def channels(
    network: Network, labels: Mapping[str, Label], widths: Widths
) -> Mapping[Key, tuple[np.ndarray, np.ndarray]]:
    """Group and channel of each entry of the dimensions that carry groups, at these widths."""
    return _followed(network, _sizes(labels), widths).channels


def _sizes(labels: Mapping[str, Label]) -> dict[Key, Affine]:
    """The sizes of the dimensions that carry groups."""
    return {
        (path, axis): affine(dim) for path, label in labels.items() for axis, dim in enumerate(label) if dim is not None
    }


def _followed(network: Network, sizes: Mapping[Key, Affine], widths: Widths) -> Followed:
    pure = frozenset(
        (key, group) for key, size in sizes.items() for group in size if group is not None and len(size) < 2
    )
    return follow(network, widths, frozenset(sizes), pure)


def _entries(followed: Followed, key: Key) -> list[Channel]:
    """The channel of each entry of a dimension; fixed entries are numbered."""
    numbers = itertools.count()
    pairs = zip(followed.makers[key].tolist(), followed.channels[key][1].tolist(), strict=True)
    return [(FIXED, next(numbers)) if maker == FIXED else (maker, channel) for maker, channel in pairs]


def _partners(large: Followed, small: Followed, kept: Sequence[np.ndarray]) -> dict[Channel, Channel]:
    """The large network's channel for each of the small one's: one that the same dimensions have equally often."""
    both = sorted(large.channels.keys() & small.channels.keys())
    readers, group = _readers(large, both), _group_of(large)
    place = [{c: n for n, c in enumerate(channels.tolist())} for channels in kept]
    free: dict[int, dict[tuple[int, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for maker, channel in sorted(readers, key=lambda c: (place[group[c[0]]].get(c[1], len(readers)), c)):
        free[maker][readers[maker, channel]].append(channel)
    found: dict[Channel, Channel] = {}
    late = []
    for (maker, channel), read in sorted(_readers(small, both).items()):
        if free[maker][read]:
            found[maker, channel] = (maker, free[maker][read].pop(0))
        else:
            late.append((maker, channel))
    for maker, channel in late:
        left = next(channels for channels in free[maker].values() if channels)
        found[maker, channel] = (maker, left.pop(0))
    return found


def _readers(followed: Followed, keys: Sequence[Key]) -> dict[Channel, tuple[int, ...]]:
    """The numbers of the dimensions that have each channel, as often as they do."""
    found: dict[Channel, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        for channel in _entries(followed, key):
            if channel[0] != FIXED:
                found[channel].append(number)
    return {channel: tuple(numbers) for channel, numbers in found.items()}


def _group_of(followed: Followed) -> dict[int, int]:
    """The group of each maker."""
    pairs = ((followed.makers[key], groups) for key, (groups, _) in followed.channels.items())
    return dict(pair for makers, groups in pairs for pair in zip(makers.tolist(), groups.tolist(), strict=True))


def _places(large: list[Channel], small: list[Channel], partner: Mapping[Channel, Channel]) -> list[int]:
    """For each of the small network's entries the place of its partner among the large one's, or one that is left."""
    free: dict[Channel, list[int]] = defaultdict(list)
    for place, channel in enumerate(large):
        free[channel].append(place)
    wanted = [partner.get(channel, channel) for channel in small]  # fixed entries are their own partners
    found = [free[channel].pop(0) if free[channel] else None for channel in wanted]
    left = sorted(place for places in free.values() for place in places)
    return [left.pop(0) if place is None else place for place in found]
