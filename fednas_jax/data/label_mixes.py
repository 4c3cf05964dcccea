"""How much clients differ, in two numbers: label mixes and sizes. Letters: C clients, N examples, K labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Clients whose label mixes are compared at once: bounds the memory at many clients and labels.
_BLOCK = 1 << 14


class Heterogeneity(NamedTuple):
    """How much clients differ."""

    label_distance: float
    """Mean total-variation distance of clients' label mixes from the overall one: 0 (all alike) to 1."""
    size_gini: float
    """Gini coefficient of client sizes: 0 (all equal) to nearly 1 (one client holds almost everything)."""


def heterogeneity(labels: np.ndarray, offsets: np.ndarray) -> Heterogeneity:
    """Measures how much clients differ in label mix and in size.

    Args:
      labels: [N] class numbers, client after client.
      offsets: [C + 1] where each client's begin, and where the last's end; none is empty.
    """
    sizes = np.diff(offsets)
    overall = label_counts(labels, offsets[[0, -1]])[0]
    distance = 0.0
    for first in range(0, len(sizes), _BLOCK):
        block = offsets[first : first + _BLOCK + 1]
        counts = label_counts(labels[block[0] : block[-1]], block - block[0], len(overall))
        distance += 0.5 * np.abs(counts / np.diff(block)[:, None] - overall / overall.sum()).sum()
    # G = sum_i (2i - C - 1) x_i / (C sum x), x ascending, i from 1.
    weights = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
    return Heterogeneity(float(distance / len(sizes)), float(weights @ np.sort(sizes) / (len(sizes) * sizes.sum())))


def label_counts(labels: np.ndarray, offsets: np.ndarray, classes: int = 0) -> np.ndarray:
    """[C, K] int64: how many examples of each label every client holds.

    Args:
      labels: [N] class numbers, client after client.
      offsets: [C + 1] where each client's begin, and where the last's end.
      classes: K; 0: up to the largest label.
    """
    sizes = np.diff(offsets)
    classes = classes or int(labels.max()) + 1
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return np.bincount(owners * classes + labels, minlength=len(sizes) * classes).reshape(len(sizes), classes)
