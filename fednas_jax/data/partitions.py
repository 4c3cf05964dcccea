"""Which client holds which examples: divided among clients in one of several ways, or as they came.

Letters: C clients, N examples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import deal
from fednas_jax.data.sizes import client_sizes, least_size
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

DIVIDED = ("iid", "dirichlet", "label_dirichlet", "shards", "classes")
"""The ways to divide examples among clients."""


class Partition(NamedTuple):
    """The examples of every client; no example is held twice, no client is empty."""

    rows: np.ndarray
    """[N] int64 example numbers, client after client."""
    offsets: np.ndarray
    """[C + 1] int64: client c holds rows[offsets[c]:offsets[c + 1]]."""


def partition(labels: np.ndarray, config: DataConfig, seed: int, natural: np.ndarray | None = None) -> Partition:
    """Divides all examples among `config.clients` clients, or takes as many of the clients that the data came from.

    Three ways draw the clients' sizes first (`sizes.client_sizes`: equal, lognormal or a power law, each at least
    `min_examples`), which are exact and add up to N:

    - iid: examples in random order.
    - dirichlet: each client draws a label mix, and its examples by that mix (`deal.dirichlet`).
    - shards: a few pieces of the examples sorted by label for each client (`deal.shards`).

    With two, sizes follow from the labels:

    - label_dirichlet: each label is divided among the clients by shares drawn for it (`deal.label_dirichlet`).
    - classes: each client holds examples of `classes_per_client` labels (`deal.classes`).

    And one divides nothing:

    - natural: the clients that the data came from, with their own examples; `clients` of them, drawn at random
      without replacement from those who hold at least `min_examples`, or all of those (0), in the data's order.

    Args:
      labels: [N] class numbers.
      config: clients, partition, min_examples and the fields of the partition; validated.
      seed: of the run; the same seed gives the same partition on every machine.
      natural: [clients + 1] int64 `Dataset.natural`: where the rows of the clients that the data came from begin.

    Returns:
      A partition which uses every example exactly once; natural, every example of the clients taken.

    Raises:
      DataError: when there are too few examples, labels or natural clients, or an unknown method; names the
        field, the value got and wanted.
    """
    rng = generator(seed, Purpose.PARTITION)
    if config.partition == "natural":
        return _natural(natural, config, rng)
    order, owners = _divided(labels, config, rng)
    rows = order[np.argsort(owners, kind="stable")]
    return Partition(rows.astype(np.int64), _offsets(np.bincount(owners, minlength=config.clients)))


def _divided(labels: np.ndarray, config: DataConfig, rng: np.random.Generator) -> deal.Dealt:
    """Example numbers [N] and the client [N] who holds each."""
    if config.partition == "label_dirichlet":
        return deal.label_dirichlet(labels, config.clients, least_size(len(labels), config), config.alpha, rng)
    if config.partition == "classes":
        least = least_size(len(labels), config)
        return deal.classes(labels, config.clients, least, config.classes_per_client, rng)
    sizes = client_sizes(len(labels), config, rng)
    if config.partition == "iid":
        return rng.permutation(len(labels)), np.repeat(np.arange(len(sizes)), sizes)
    if config.partition == "dirichlet":
        return deal.dirichlet(labels, sizes, config.alpha, rng)
    if config.partition == "shards":
        return deal.shards(labels, sizes, config.shards_per_client, rng)
    raise DataError(f"data.partition: got {config.partition!r}, want {', '.join(DIVIDED)} or natural")


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """[C + 1] int64: where clients of these sizes [C] begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _natural(natural: np.ndarray | None, config: DataConfig, rng: np.random.Generator) -> Partition:
    """The data's own clients: those who hold enough, as many as asked for, in the data's order."""
    if natural is None:
        raise DataError(
            f"data.partition: got 'natural', want {', '.join(DIVIDED[:-1])} or {DIVIDED[-1]}: "
            f"data.source={config.source} names no clients of its own"
        )
    sizes = np.diff(natural)
    able = np.flatnonzero(sizes >= max(1, config.min_examples))
    if not len(able) or not 0 <= config.clients <= len(able):
        raise DataError(
            f"data.clients: got {config.clients}, want 0 (all) to {len(able)}: of the data's {len(sizes)} clients "
            f"{len(able)} hold at least data.min_examples, which is {config.min_examples}"
        )
    taken = able[np.sort(rng.permutation(len(able))[: config.clients])] if config.clients else able
    offsets = _offsets(sizes[taken])
    rows = np.repeat(natural[taken] - offsets[:-1], sizes[taken])
    rows += np.arange(len(rows))
    return Partition(rows, offsets)
