"""How much clients differ, in two numbers: label mixes and sizes. Letters: C clients, N examples, K labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

# Clients whose label mixes are compared at once, and numbers: bounds the memory at many clients and labels.
_BLOCK, _CELLS = 1 << 14, 1 << 24
# What a division is written down with at most: clients, and numbers in all.
_MOST_CLIENTS, _MOST_CELLS = 200, 4000


class Heterogeneity(NamedTuple):
    """How much clients differ."""

    label_distance: float
    """Mean total-variation distance of clients' label mixes from the overall one: 0 (all alike) to 1."""
    size_gini: float
    """Gini coefficient of client sizes: 0 (all equal) to nearly 1 (one client holds almost everything)."""


def heterogeneity(labels: np.ndarray, offsets: np.ndarray) -> Heterogeneity:
    """Measures how much clients differ in label mix and in size.

    Args:
      labels: [N] class numbers, client after client; or [N, T], where -1 is none.
      offsets: [C + 1] where each client's begin, and where the last's end; none is empty.
    """
    sizes = np.diff(offsets)
    overall = label_counts(labels, offsets[[0, -1]])[0]
    distance = 0.0
    most = min(_BLOCK, max(1, _CELLS // len(overall)))
    for first in range(0, len(sizes), most):
        block = offsets[first : first + most + 1]
        counts = label_counts(labels[block[0] : block[-1]], block - block[0], len(overall))
        held = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        distance += 0.5 * np.abs(counts / held - overall / max(1, overall.sum())).sum()
    # G = sum_i (2i - C - 1) x_i / (C sum x), x ascending, i from 1.
    weights = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
    return Heterogeneity(float(distance / len(sizes)), float(weights @ np.sort(sizes) / (len(sizes) * sizes.sum())))


def label_counts(labels: np.ndarray, offsets: np.ndarray, classes: int = 0) -> np.ndarray:
    """[C, K] int64: how many examples of each label every client holds.

    Args:
      labels: [N] class numbers, client after client; or [N, T], where -1 is none.
      offsets: [C + 1] where each client's begin, and where the last's end.
      classes: K; 0: up to the largest label.
    """
    sizes = np.diff(offsets)
    classes = classes or max(1, int(labels.max()) + 1)  # of clients whose labels are all -1 too
    owners = np.repeat(np.arange(len(sizes)), sizes)
    if labels.ndim > 1:
        labels, owners = labels.reshape(-1), np.repeat(owners, np.shape(labels)[-1])
        owners, labels = owners[labels >= 0], labels[labels >= 0]
    return np.bincount(owners * classes + labels, minlength=len(sizes) * classes).reshape(len(sizes), classes)


def sampled_mix(labels: np.ndarray, offsets: np.ndarray, classes: int) -> dict[str, list[Any]]:
    """A division small enough to be written down: clients evenly over the ranks from large to small.

    Args:
      labels: [N] class numbers, client after client; or [N, T], where -1 is none.
      offsets: [C + 1] where each client's begin, and where the last's end.
      classes: K.

    Returns:
      'sizes' [S] and 'counts' [S][K] of at most 200 clients, and fewer where classes are many; where one client would
      be too many numbers, 'counts' is empty.
    """
    sizes = np.diff(offsets)
    most = min(len(sizes), _MOST_CLIENTS, max(1, _MOST_CELLS // classes))
    ranks = np.linspace(0, len(sizes) - 1, most).astype(int)
    chosen = np.argsort(-sizes, kind="stable")[ranks]
    counts = np.stack(
        [label_counts(labels[offsets[c] : offsets[c + 1]], np.array([0, sizes[c]]), classes)[0] for c in chosen]
    )
    # Clients as large as each other lie by the label they hold most of, so that blocks can be seen.
    order = np.lexsort((counts.argmax(axis=1), -sizes[chosen]))
    return {"sizes": sizes[chosen][order].tolist(), "counts": counts[order].tolist() if classes <= _MOST_CELLS else []}
