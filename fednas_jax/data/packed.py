"""The form in which the engine takes data: columns of images and labels, and where each client's rows are.

Letters: C clients, N examples, H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fednas_jax.data.examples import Examples
from fednas_jax.data.partition import Partition
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

if TYPE_CHECKING:
    import jax


class PackedClients(NamedTuple):
    """The examples of all clients, each client's divided into training and validation."""

    images: np.ndarray
    """[N, H, W, channels] uint8."""
    labels: np.ndarray
    """[N] int32."""
    offsets: np.ndarray
    """[C + 1] int32: rows offsets[c]:offsets[c + 1] are client c's, first training, then validation."""
    train_count: np.ndarray
    """[C] int32: how many of a client's rows are for training."""

    @property
    def clients(self) -> int:
        """Number of clients C."""
        return len(self.train_count)

    @property
    def val_count(self) -> np.ndarray:
        """[C] int32: how many of a client's rows are for validation."""
        return np.diff(self.offsets) - self.train_count


def pack(examples: Examples, divided: Partition, validation: float, seed: int) -> PackedClients:
    """Shuffles each client's examples and holds some out from training.

    Args:
      examples: all training examples.
      divided: which client holds which.
      validation: fraction of each client's examples to hold out, rounded; at least one example is held out
        and at least one trains.
      seed: of the run; decides which ones.

    Raises:
      DataError: for a client with fewer than two examples.
    """
    sizes = np.diff(divided.offsets)
    if sizes.min() < 2:
        raise DataError(
            f"data.min_examples: client {sizes.argmin()} holds {sizes.min()} examples, "
            "want at least 2: one to train on and one to validate with"
        )
    # A random order of all rows, then client by client, is a random order within every client.
    order = generator(seed, Purpose.HOLDOUT).permutation(len(divided.rows))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    rows = divided.rows[order[np.argsort(owners[order], kind="stable")]]
    held_out = np.clip(np.rint(sizes * validation).astype(np.int64), 1, sizes - 1)
    return PackedClients(
        examples.images[rows],
        examples.labels[rows],
        divided.offsets.astype(np.int32),
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
        packed.images[rows],
        packed.labels[rows],
        np.array([0, len(rows)], np.int32),
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
    offsets = np.append(np.arange(0, total, size), total).astype(np.int32)
    return PackedClients(*examples, offsets, np.zeros(len(offsets) - 1, np.int32))


def normalise(images: np.ndarray | jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Images as networks take them: (x / 255 - mean) / std, channel by channel. Runs inside jitted code.

    Args:
      images: [..., H, W, channels] uint8.
      mean: [channels] of images scaled to [0, 1].
      std: [channels] likewise, above 0.

    Returns:
      [..., H, W, channels] float32.
    """
    # Imported here: partitioning data and listing sources need no jax.
    import jax.numpy as jnp

    # Same rank as the images, so that it also runs where rank promotion is an error.
    channels = (1,) * (images.ndim - 1) + (-1,)
    scaled = jnp.asarray(images).astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32).reshape(channels)) / jnp.asarray(std, jnp.float32).reshape(channels)
