"""Networks side by side: trees of arrays with a leading dimension of K slots, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fednas_jax.space.network import Variables


def stacked(trees: Sequence[Variables]) -> Variables:
    """The trees as one, [len(trees), ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def in_slot(stack: Variables, number: int) -> Variables:
    """One tree of a stack, on the host."""
    if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(stack)):
        return jax.tree.map(lambda a: a[number], stack)
    return jax.device_get(_in_slot(stack, number))


@jax.jit
def _in_slot(stack: Variables, number: int) -> Variables:
    """One program for the whole tree, instead of one for each shape in it; no other slot leaves the device."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, number, keepdims=False), stack)


def first(stack: Variables, number: int) -> Variables:
    """A stack of only the first networks."""
    return jax.tree.map(lambda a: a[:number], stack)


def filled(stack: Variables, slots: int) -> Variables:
    """The stack with all K slots filled, so that every round runs the same program; what fills is never trained."""

    def fill(leaf: Any) -> Any:
        missing = slots - leaf.shape[0]
        return np.concatenate([leaf, np.repeat(leaf[:1], missing, 0)]) if missing else leaf

    return jax.tree.map(fill, stack)


def padded(candidate_ids: np.ndarray, slots: int) -> np.ndarray:
    """The candidates' ids [K] of a filled stack."""
    return np.pad(candidate_ids, (0, slots - len(candidate_ids)))
