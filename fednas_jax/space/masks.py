"""A network's width groups and the labels of its variables: masks, slices, embeddings and the norms of channels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.space import segments, wiring
from fednas_jax.space.costs import CostTable
from fednas_jax.space.network import Dim, Label, Network, Row, Variables, Widths
from fednas_jax.space.segments import Products

STEPS = 4  # physical widths of a group, from none to its parent's


@dataclass(frozen=True)
class Space:
    """What the probe found out about a network: its groups, the labels of its variables, and its costs."""

    network: Network
    groups: tuple[str, ...]  # [G] names
    widths: Widths  # [G] the parent's
    multiple: tuple[int, ...]  # [G] widths are multiples of this
    blocks: tuple[int, ...]  # [G] channels are kept or removed in aligned blocks of so many; divides `multiple`
    labels: dict[str, Label]  # path of a variable -> label of each of its dimensions
    macs: CostTable  # multiply-accumulates of one forward pass of one example
    params: CostTable  # trainable numbers
    size: CostTable  # bytes of parameters and statistics: what a client downloads or uploads
    gone: Mapping[str, int] = field(default_factory=dict)  # path of a variable -> the group at whose width 0 it goes
    products: Products | None = None  # MACs of each layer, where some are no product of widths
    inexact: str = ""  # why masked training is not training at the smaller widths, in words; '' where it is

    @property
    def smallest(self) -> Widths:
        """The smallest widths the search may reach: 0 where that removes a block, else the multiple."""
        removable = set(self.gone.values())
        return tuple(0 if g in removable else least for g, least in enumerate(self.multiple))

    def coarse(self, widths: Widths) -> Widths:
        """Physical widths for a network of these widths: each rounded up to a quarter of the parent's own.

        Searches end at many widths: rounded they share few shapes, and so compiled programs. A group that is gone stays
        so.
        """

        def up(width: int, most: int, multiple: int) -> int:
            step = -(-most // (STEPS * multiple)) * multiple
            return min(most, -(-width // step) * step)

        return tuple(map(up, widths, self.widths, self.multiple))

    def mask(self, tree: Any, keep: Sequence[Any]) -> Any:
        """`tree` with the removed channels set to zero on every dimension that carries their group.

        Where a group keeps none, so is every variable that goes with its block.

        Args:
          tree: parameters, statistics, or any tree that holds them by path, such as an optimiser's state.
          keep: for each group a boolean mask [width of the group in `tree`].
        """

        kept = [np.flatnonzero(k) for k in keep] if self.wired else []
        wires = self._wires(tuple(map(len, keep)), kept)

        def masked(leaf: Any, path: str) -> Any:
            if path in self.gone:
                leaf = leaf * _np(leaf).any(keep[self.gone[path]]).astype(leaf.dtype)
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    if (path, axis) in wires:
                        whole = np.isin(np.arange(leaf.shape[axis]), wires[path, axis])
                    else:
                        whole = segments.mask(dim, keep, _np(leaf))
                    leaf = leaf * whole.reshape([-1 if a == axis else 1 for a in range(leaf.ndim)]).astype(leaf.dtype)
            return leaf

        return self._map(masked, tree)

    def slice(self, tree: Any, keep: Sequence[Any]) -> Any:
        """`tree` with only the kept channels, and without the variables of removed blocks.

        Args:
          tree: as for `mask`.
          keep: for each group a boolean mask [width] or the kept channels' indices.
        """
        kept = [np.asarray(k) for k in keep]
        whole = {g: len(k) for g, k in enumerate(kept) if k.dtype == bool} | self._widths(tree)
        kept = [np.flatnonzero(k) if k.dtype == bool else k for k in kept]
        wires = self._wires(tuple(whole.get(g, 0) for g in range(len(kept))), kept)

        def sliced(leaf: Any, path: str) -> Any:
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    if (path, axis) in wires:
                        index = wires[path, axis]
                    else:
                        index = segments.index(dim, _width(dim, leaf.shape[axis]) or whole, kept)
                    leaf = _np(leaf).take(leaf, index, axis=axis)
            return leaf

        return self._map(sliced, _without(tree, {path for path, g in self.gone.items() if not len(kept[g])}))

    def embed(self, variables: Variables, widths: Widths) -> Variables:
        """`variables` put into the larger network of these widths, their channels first and zeros after them.

        Variables of blocks that only the larger network has are zeros.
        """

        whole, small = dict(enumerate(widths)), self._widths(variables)
        first = [np.arange(small.get(g, 0)) for g in range(len(widths))]
        wires = self._wires(widths, first)

        def embedded(leaf: Any, path: str) -> Any:
            for axis, dim in enumerate(self.labels[path]):
                if dim is not None:
                    index = wires[path, axis] if (path, axis) in wires else segments.index(dim, whole, first)
                    shape = (*leaf.shape[:axis], segments.size(dim, whole), *leaf.shape[axis + 1 :])
                    leaf = _placed(leaf, index, axis, shape)
            return leaf

        host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(variables))
        zeros = jax.tree.map(lambda a: (np if host else jnp).zeros(a.shape, a.dtype), self.network.abstract(widths))
        grown = self._map(embedded, variables)
        return Variables(*({**new, **old} for new, old in zip(zeros, grown, strict=True)))

    def norms(self, params: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """L2 norm of each channel's filters, for each group [width]: what NetAdapt keeps channels by. On the host.

        The filters of a channel are the slices of the kernels that produce it: those whose last dimension, the
        output in flax, carries the group. Where no last dimension does, as of attention's heads, they are the slices of
        all kernels that carry it; where removed blocks left a group none at all, it is one 0 for all channels.
        """
        widths = self._widths(params)
        order: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
        if self.wired:
            order = wiring.channels(self.network, self.labels, tuple(widths.get(g, 0) for g in range(len(self.groups))))
        last: list[Any] = [0.0] * len(self.groups)
        anywhere: list[Any] = [0.0] * len(self.groups)
        for path, value in params.items():
            for axis, dim in enumerate(self.labels[path] if value.ndim > 1 else ()):
                if dim is not None and (axis == value.ndim - 1 or not segments.wired(dim)):
                    others = tuple(a for a in range(value.ndim) if a != axis)
                    summed = np.square(np.asarray(value)).sum(others)
                    found = last if axis == value.ndim - 1 else anywhere
                    there = _width(dim, value.shape[axis]) or widths
                    if segments.wired(dim):
                        sums = _by_entry(*order[path, axis], there, summed)
                    else:
                        sums = segments.by_channel(dim, there, summed)
                    for g, channels in sums:
                        found[g] = found[g] + channels
        return tuple(np.sqrt(b if isinstance(a, float) else a) for a, b in zip(last, anywhere, strict=True))

    @functools.cached_property
    def wired(self) -> set[int]:
        """The groups whose channels are in an order that depends on the widths."""
        return segments.wired_groups(self.labels)

    def _wires(self, widths: Widths, kept: Sequence[np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
        """Where the dimensions of wired groups at these widths have the entries of the kept channels' network."""
        return wiring.index(self.network, self.labels, self.wired, widths, kept) if self.wired else {}

    def _widths(self, tree: Any) -> dict[int, int]:
        """The widths at which the variables of a tree are, by group; without those that no dimension tells alone."""
        found: dict[int, int] = {}

        def look(leaf: Any, path: str) -> Any:
            for dim, size in zip(self.labels[path], leaf.shape, strict=True):
                found.update({} if dim is None else _width(dim, size))
            return leaf

        self._map(look, tree)
        return found

    def _map(self, change: Callable[[Any, str], Any], tree: Any) -> Any:
        """Applies `change(leaf, path)` to every leaf that stands in the tree under a variable's path; others stay."""

        def visit(path: tuple[Any, ...], leaf: Any) -> Any:
            keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey) and k.key in self.labels]
            return change(leaf, keys[-1]) if keys and leaf.ndim == len(self.labels[keys[-1]]) else leaf

        return jax.tree_util.tree_map_with_path(visit, tree)


def _width(dim: Dim | Row, size: int) -> dict[int, int]:
    """The width of a dimension's group, where it has no other and no fixed entries."""
    if isinstance(dim, Dim):
        return {dim.group: size // dim.repeat}
    ((group, factor), *others) = segments.affine(dim).items()
    return {} if others or group is None else {group: size // factor}


def _by_entry(
    groups: np.ndarray, channels: np.ndarray, widths: Mapping[int, int], values: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Sums of a dimension's values [size] over the entries of each channel: (group, [width]), for each group."""
    for g in sorted(set(groups[groups != segments.FIXED].tolist())):
        yield g, np.bincount(channels[groups == g], values[groups == g], widths[g]).astype(values.dtype)


def _placed(leaf: Any, index: np.ndarray, axis: int, shape: tuple[int, ...]) -> Any:
    """Zeros of a shape with `leaf` at these places of an axis."""
    at: Any = (*[slice(None)] * axis, index)
    if isinstance(leaf, np.ndarray):
        wide = np.zeros(shape, leaf.dtype)
        wide[at] = leaf
        return wide
    return jnp.zeros(shape, leaf.dtype).at[at].set(leaf)


def _np(leaf: Any) -> Any:
    """numpy for arrays on the host, jax.numpy for the others."""
    return np if isinstance(leaf, np.ndarray) else jnp


def _without(tree: Any, paths: set[str]) -> Any:
    """`tree` without these keys, in whichever dictionaries of it they stand."""

    def visit(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: _without(value, paths) for key, value in node.items() if key not in paths}

    return jax.tree.map(visit, tree, is_leaf=lambda node: isinstance(node, dict)) if paths else tree
