"""How much clients differ, in two numbers: label mixes and sizes. Letters: C clients, N examples, K labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fednas_jax.data.partition import Partition


class Heterogeneity(NamedTuple):
    """How much clients differ."""

    label_distance: float
    """Mean total-variation distance of clients' label mixes from the overall one: 0 (all alike) to 1."""
    size_gini: float
    """Gini coefficient of client sizes: 0 (all equal) to nearly 1 (one client holds almost everything)."""


def heterogeneity(divided: Partition, labels: np.ndarray) -> Heterogeneity:
    """Measures how much clients differ in label mix and in size.

    Args:
      divided: a partition of the examples (all of them, or some).
      labels: [N] class numbers of all examples.
    """
    sizes = np.diff(divided.offsets)
    counts = label_counts(divided, labels)
    mixes = counts / sizes[:, None]
    distance = 0.5 * np.abs(mixes - counts.sum(axis=0) / counts.sum()).sum(axis=1)
    # G = sum_i (2i - C - 1) x_i / (C sum x), x ascending, i from 1.
    weights = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
    return Heterogeneity(float(distance.mean()), float(weights @ np.sort(sizes) / (len(sizes) * sizes.sum())))


def label_counts(divided: Partition, labels: np.ndarray) -> np.ndarray:
    """[C, K] int64: how many examples of each label, of those that anyone holds, in ascending order, a client holds.

    Args:
      divided: a partition of the examples (all of them, or some).
      labels: [N] class numbers of all examples.
    """
    sizes = np.diff(divided.offsets)
    names, found = np.unique(labels[divided.rows], return_inverse=True)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(owners * len(names) + found, minlength=len(sizes) * len(names))
    return counts.reshape(len(sizes), len(names))
