"""Which client holds which examples: divided among clients in one of several ways, or as they came.

Letters: C clients, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.config.registries import PARTITIONS
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import deal
from fednas_jax.data.offers import call
from fednas_jax.data.sizes import client_sizes, least_size
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator


class Partition(NamedTuple):
    """The examples of every client; no example is held twice, no client is empty."""

    rows: np.ndarray
    """[N] int64 example numbers, client after client."""
    offsets: np.ndarray
    """[C + 1] int64: client c holds rows[offsets[c]:offsets[c + 1]]."""


def partition(labels: np.ndarray, config: DataConfig, seed: int, natural: np.ndarray | None = None) -> Partition:
    """Divides examples among `config.clients` clients, or takes as many of the clients that the data came from.

    `config.partition` names one of those below, or a function of the user's own (`docs/data.md`), which is called with
    (labels, clients, rng) and its arguments in parentheses, and with `config` and `natural` where it has arguments of
    these names. It returns one array of example numbers for each client, which is checked here.

    Three ways draw the clients' sizes first (`sizes.client_sizes`: equal, lognormal or a power law, each at least
    `min_examples`), which are exact and add up to N: `iid`, `dirichlet` and `shards`. With two, sizes follow from the
    labels: `label_dirichlet` and `classes`. And `natural` divides nothing.

    Args:
      labels: [N] class numbers; or [N, T], where every position has one.
      config: clients, partition, min_examples and the fields of the partition; validated.
      seed: of the run; the same seed gives the same partition on every machine.
      natural: [clients + 1] int64 `Dataset.natural`: where the rows of the clients that the data came from begin.

    Returns:
      A partition which uses every example exactly once; natural, every example of the clients taken; the user's own,
      each at most once.

    Raises:
      FednasError: there are too few examples, labels or natural clients, an unknown method, or one of the user's own
        that fails or returns no partition; one line that names the field, the value got and wanted.
    """
    if PARTITIONS.parse(config.partition).positional:
        name = PARTITIONS.parse(config.partition).name
        raise DataError(f"data.partition: got {config.partition!r}, want {name!r}, which has nothing after a colon")
    if labels.ndim > 1 and PARTITIONS.get(config.partition) in (dirichlet, label_dirichlet, shards, classes):
        raise DataError(f"data.partition: got {config.partition!r}, want natural or iid: every position has a label")
    seen = labels.view()
    seen.flags.writeable = False  # a user's function that sorts in place must not change the data
    rng = generator(seed, Purpose.PARTITION)
    divided = call(PARTITIONS.get(config.partition), seen, config.clients, rng, config=config, natural=natural)
    if isinstance(divided, Partition):
        divided = _held(divided) if PARTITIONS.checksum(config.partition) else divided
    return divided if isinstance(divided, Partition) else _checked(divided, len(labels), config)


def iid(labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig) -> Partition:
    """Examples in random order."""
    sizes = client_sizes(len(labels), config, rng)
    return _dealt(rng.permutation(len(labels)), np.repeat(np.arange(len(sizes)), sizes), clients)


def dirichlet(labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig) -> Partition:
    """Each client draws a label mix, and its examples by that mix (`deal.dirichlet`)."""
    sizes = client_sizes(len(labels), config, rng)
    return _dealt(*deal.dirichlet(labels, sizes, config.alpha, rng), clients)


def label_dirichlet(labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig) -> Partition:
    """Each label is divided among the clients by shares drawn for it (`deal.label_dirichlet`)."""
    least = least_size(len(labels), config)
    return _dealt(*deal.label_dirichlet(labels, clients, least, config.alpha, rng), clients)


def shards(labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig) -> Partition:
    """A few pieces of the examples sorted by label for each client (`deal.shards`)."""
    sizes = client_sizes(len(labels), config, rng)
    return _dealt(*deal.shards(labels, sizes, config.shards_per_client, rng), clients)


def classes(labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig) -> Partition:
    """Each client holds examples of `classes_per_client` labels (`deal.classes`)."""
    least = least_size(len(labels), config)
    return _dealt(*deal.classes(labels, clients, least, config.classes_per_client, rng), clients)


def natural(
    labels: np.ndarray, clients: int, rng: np.random.Generator, config: DataConfig, natural: np.ndarray | None
) -> Partition:
    """The clients that the data came from, with their own examples, in the data's order.

    `clients` of them, drawn at random without replacement from those who hold at least `min_examples`, or all of those
    (0).
    """
    if natural is None:
        *most, last = (name for name in PARTITIONS if name != "natural")
        raise DataError(
            f"data.partition: got 'natural', want {', '.join(most)} or {last}: "
            f"data.source={config.source} names no clients of its own"
        )
    sizes = np.diff(natural)
    able = np.flatnonzero(sizes >= max(1, config.min_examples))
    if not len(able):
        held = f"{sizes.max(initial=0)}, the most that one of the data's {len(sizes)} clients holds"
        raise DataError(f"data.min_examples: got {config.min_examples}, want at most {held}")
    if not 0 <= clients <= len(able):
        raise DataError(
            f"data.clients: got {clients}, want 0 (all) to {len(able)}: of the data's {len(sizes)} clients "
            f"{len(able)} hold at least data.min_examples, which is {config.min_examples}"
        )
    taken = able[np.sort(rng.permutation(len(able))[:clients])] if clients else able
    offsets = _offsets(sizes[taken])
    rows = np.repeat(natural[taken] - offsets[:-1], sizes[taken])
    rows += np.arange(len(rows))
    return Partition(rows, offsets)


def _dealt(order: np.ndarray, owners: np.ndarray, clients: int) -> Partition:
    """Example numbers [N] and the client [N] who holds each, as a partition."""
    rows = order[np.argsort(owners, kind="stable")]
    return Partition(rows.astype(np.int64), _offsets(np.bincount(owners, minlength=clients)))


def _checked(held: Any, examples: int, config: DataConfig) -> Partition:
    """What a user's function returned, as a partition."""

    def refused(got: str, want: str) -> DataError:
        return DataError(f"data.partition: {config.partition}: got {got}, want {want}")

    if not isinstance(held, Sequence | np.ndarray) or isinstance(held, str):
        raise refused(type(held).__name__, "a list of arrays of example numbers, one for each client")
    if len(held) != config.clients:
        raise refused(f"{len(held)} clients", f"{config.clients}, as data.clients says")
    arrays = []
    for client, numbers in enumerate(held):
        try:
            array = np.asarray(numbers)
        except ValueError:
            array = np.zeros((1, 1))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise refused(f"{list(array.shape)} {array.dtype} for client {client}", "[n] example numbers")
        if array.size and (array.min() < 0 or array.max() >= examples):
            raise refused(f"{array.min()} to {array.max()} for client {client}", f"example numbers 0 to {examples - 1}")
        if len(array) < config.min_examples:
            least = f"at least data.min_examples, which is {config.min_examples}"
            raise refused(f"{len(array)} examples for client {client}", least)
        arrays.append(array.astype(np.int64))
    rows = np.concatenate(arrays)
    offsets = _offsets(np.array([len(array) for array in arrays]))
    often = np.flatnonzero(np.bincount(rows, minlength=1) > 1)
    if len(often):
        clients = np.searchsorted(offsets, np.flatnonzero(rows == often[0])[:2], side="right") - 1
        raise refused(f"example {often[0]} for the clients {clients[0]} and {clients[1]}", "each at most once")
    return Partition(rows, offsets)


def _held(divided: Partition) -> list[np.ndarray]:
    """[C] arrays of each client's example numbers."""
    return np.split(divided.rows, divided.offsets[1:-1])


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """[C + 1] int64: where clients of these sizes [C] begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
