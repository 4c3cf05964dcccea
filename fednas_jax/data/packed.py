"""The form in which the engine takes data: columns of images and labels, and where each client's rows are.

Letters: C clients, N examples, H x W pixels.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fednas_jax.data.examples import Examples
from fednas_jax.data.partitions import Partition
from fednas_jax.data.skew import FeatureSkew
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class DiskRows:
    """A column that stays on disk, its rows in an order of their own; they are read when they are indexed.

    It is indexed as the array [N, ...] would be, by rows, so that nobody can forget that there is an order; and
    `np.asarray` reads it whole.
    """

    column: np.ndarray
    """[M, ...] memory-mapped."""
    rows: np.ndarray
    """[N] int64: row n of this column is column[rows[n]]."""
    skew: FeatureSkew | None = None
    """What images go through when they are read."""
    owner: np.ndarray | None = None
    """[N] int32 client of each row; only where there is a skew."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, ...)."""
        return (len(self.rows), *self.column.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the column."""
        return self.column.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows at an index of the first axis (numbers, a slice or an array [...]), read into memory."""
        # The system's reading ahead is worth nothing to a cohort's scattered rows: for 1,000 of a million clients of
        # 20 images of 8x8 it read 1.2 GB instead of 5 MB, and took 1.5 s instead of 0.08 s. Sorting the rows first
        # changed little (10,000 clients 1.0 s instead of 1.3 s, 1,000 clients 0.10 s instead of 0.08 s).
        _advise(self.column, "MADV_RANDOM")
        return self._read(index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("rows on disk cannot become an array in memory without a copy")
        _advise(self.column, "MADV_NORMAL")
        whole = self._read(slice(None))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def _read(self, index: Any) -> np.ndarray:
        found = np.asarray(self.column)[self.rows[index]]
        return found if self.skew is None or self.owner is None else self.skew.apply(found, self.owner[index])


class PackedClients(NamedTuple):
    """The examples of all clients, each client's divided into training and validation."""

    inputs: np.ndarray | DiskRows
    """As `Examples.inputs`; in memory, or on disk: then `take` and indexing read what they are asked for."""
    labels: np.ndarray | DiskRows
    """[N] int32; of tokens and series also [N, T]."""
    offsets: np.ndarray
    """[C + 1] int64: rows offsets[c]:offsets[c + 1] are client c's, first training, then validation."""
    train_count: np.ndarray
    """[C] int32: how many of a client's rows are for training."""

    @property
    def clients(self) -> int:
        """Number of clients C."""
        return len(self.train_count)

    @property
    def val_count(self) -> np.ndarray:
        """[C] int32: how many of a client's rows are for validation."""
        return (np.diff(self.offsets) - self.train_count).astype(np.int32)

    @property
    def on_disk(self) -> bool:
        """Whether inputs are read only when they are taken, since they may be larger than memory."""
        return isinstance(self.inputs, DiskRows | np.memmap)

    @property
    def nbytes(self) -> int:
        """Bytes that all inputs and labels take in memory, or would take."""
        return self.inputs.nbytes + self.labels.nbytes

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gathers rows, wherever they are kept.

        Args:
          rows: [...] packed row numbers, 0 to N - 1.

        Returns:
          Inputs [..., H, W, channels] or as the data has them, and labels [...], in memory.
        """
        return np.asarray(self.inputs[rows]), np.asarray(self.labels[rows])


def pack(
    examples: Examples, divided: Partition, validation: float, seed: int, skew: FeatureSkew | None = None
) -> PackedClients:
    """Shuffles each client's examples and holds some out from training.

    Inputs that are memory-mapped stay where they are: only their order is kept in memory, 8 bytes an example. The
    division is the same as of the same inputs in memory.

    Args:
      examples: all training examples.
      divided: which client holds which.
      validation: fraction of each client's examples to hold out, rounded; at least one example is held out
        and at least one trains.
      seed: of the run; decides which ones.
      skew: what each client's images go through, once here, or when they are read where they stay on disk.

    Raises:
      DataError: for a client with fewer than two examples.
    """
    sizes = np.diff(divided.offsets)
    if sizes.min() < 2:
        raise DataError(
            f"data.min_examples: client {sizes.argmin()} holds {sizes.min()} examples, "
            "want at least 2: one to train on and one to validate with"
        )
    # A random order of all rows, then client by client, is a random order within every client. As numbers "client,
    # place in the order" it takes one sort of integers: a quarter of the time of a stable argsort of clients, which
    # shows at a million of them. Some steps are in place, since there every array has 8 bytes for each example.
    order = generator(seed, Purpose.HOLDOUT).permutation(len(divided.rows))
    first = np.arange(len(sizes)) * len(order)
    keys = np.empty(len(order), np.int64)
    keys[order] = np.arange(len(order))
    keys += np.repeat(first, sizes)
    keys.sort()
    keys -= np.repeat(first, sizes)
    keys = order[keys]
    rows = divided.rows[keys]
    held_out = np.clip(np.rint(sizes * validation).astype(np.int64), 1, sizes - 1)
    inputs = _reordered(examples.inputs, rows)
    if skew is not None:
        owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        inputs = replace(inputs, skew=skew, owner=owner) if isinstance(inputs, DiskRows) else skew.apply(inputs, owner)
    return PackedClients(
        inputs,
        _reordered(examples.labels, rows),
        divided.offsets.astype(np.int64),
        (sizes - held_out).astype(np.int32),
    )


def merge(packed: PackedClients) -> PackedClients:
    """One client with all clients' training examples to train on and all their validation examples.

    So the centralised baseline sees exactly the division that the federated run sees.
    """
    sizes = np.diff(packed.offsets)
    place = np.arange(len(packed.labels)) - np.repeat(packed.offsets[:-1], sizes)
    validates = place >= np.repeat(packed.train_count, sizes)
    rows = np.argsort(validates, kind="stable")
    return PackedClients(
        _reordered(packed.inputs, rows),
        _reordered(packed.labels, rows),
        np.array([0, len(rows)], np.int64),
        np.array([packed.train_count.sum()], np.int32),
    )


def chunks(examples: Examples, size: int) -> PackedClients:
    """A test split as clients of at most `size` examples, none for training, so that evaluation scores it.

    Args:
      examples: a split.
      size: at least 1.

    Raises:
      DataError: for a size below 1.
    """
    if size < 1:
        raise DataError(f"chunks: got size {size}, want at least 1")
    total = len(examples.labels)
    offsets = np.append(np.arange(0, total, size), total).astype(np.int64)
    return PackedClients(*examples, offsets, np.zeros(len(offsets) - 1, np.int32))


def normalise(inputs: np.ndarray | jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Inputs as networks take them; runs inside jitted code.

    Images are (x / 255 - mean) / std, channel by channel; rows and series (x - mean) / std, feature by feature; token
    ids stay what they are.

    Args:
      inputs: [..., H, W, channels] uint8, [..., features] float32, or token ids int32.
      mean: [channels] of images scaled to [0, 1], or [features]; () of tokens.
      std: likewise, above 0.

    Returns:
      The same shape, float32; of tokens int32.
    """
    # Imported here: partitioning data and listing sources need no jax.
    import jax.numpy as jnp

    if inputs.dtype == np.int32:
        return jnp.asarray(inputs)
    # Same rank as the inputs, so that it also runs where rank promotion is an error.
    channels = (1,) * (inputs.ndim - 1) + (-1,)
    scaled = jnp.asarray(inputs).astype(jnp.float32)
    if inputs.dtype == np.uint8:
        scaled = scaled / 255
    return (scaled - jnp.asarray(mean, jnp.float32).reshape(channels)) / jnp.asarray(std, jnp.float32).reshape(channels)


def _reordered(column: np.ndarray | DiskRows, rows: np.ndarray) -> np.ndarray | DiskRows:
    """Rows [n] of a column; one that is on disk stays there."""
    if isinstance(column, DiskRows):
        owner = None if column.owner is None else column.owner[rows]
        return DiskRows(column.column, column.rows[rows], column.skew, owner)
    return DiskRows(column, rows) if isinstance(column, np.memmap) else column[rows]


def _advise(column: np.ndarray, advice: str) -> None:
    """Tells the system how a memory-mapped column is about to be read, where it takes advice."""
    owner: Any = column
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, mmap.mmap) and hasattr(mmap, advice):
        owner.madvise(getattr(mmap, advice))
