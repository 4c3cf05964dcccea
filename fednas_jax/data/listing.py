"""Examples that can be read by number, written into columns: what folders of images and TFDS sets have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.examples import Examples
from fednas_jax.data.split import held_out

# Bytes of images read at once: bounds memory, and leaves every core enough images to decode.
_BLOCK_BYTES = 1 << 25


@dataclass(frozen=True)
class Listing:
    """One split of a data set, nothing of which is in memory. N examples."""

    examples: int
    """N."""
    shape: tuple[int, ...]
    """Of an example: height, width and channels of an image, or the number of features."""
    read: Callable[[np.ndarray], Examples]
    """Example numbers [n] -> those examples, in that order."""
    labels: Callable[[], np.ndarray]
    """-> [N] class numbers; asked for only where they are needed before images are read."""
    clients: Callable[[], np.ndarray] | None = None
    """-> [N] whole numbers or texts: whom each example came from; None where that is not known."""


def write_listing(
    folder: Path,
    name: str,
    train: Listing,
    test: Listing | None,
    classes: int | None,
    test_share: float,
    class_names: Sequence[str] = (),
    remap: bool = False,
) -> None:
    """Writes listed examples as columns, client after client, some megabytes at a time.

    Args:
      folder: must not exist yet.
      name: of the data set.
      train: the training split, or all there is.
      test: the test split; None holds out `test_share` of every client's (else every class's) examples.
      classes: number of classes; None is one more than the largest label.
      test_share: between 0 and 1.
      class_names: of every class, where they have names.
      remap: classes are numbered anew, as `ColumnsWriter` says.

    Raises:
      DataError: as `ColumnsWriter` and `held_out`, and whatever reading raises.
    """
    rows = np.arange(train.examples)
    clients = None if train.clients is None else np.unique(train.clients(), return_inverse=True)[1]
    if test is None:
        rows, tested = held_out(train.labels() if clients is None else clients, test_share)
        test = train
    else:
        tested = np.arange(test.examples)
    with ColumnsWriter(folder, name, classes, class_names, remap) as writer:
        most = max(1, _BLOCK_BYTES // math.prod(train.shape))
        if clients is None:
            for some in _cut(rows, most):
                writer.add(train.read(some))
        else:
            # By client, and by number within a client: what lies together on disk is read together.
            order = rows[np.argsort(clients[rows], kind="stable")]
            sizes = np.bincount(clients[rows], minlength=int(clients.max(initial=-1)) + 1)
            offsets = np.concatenate([[0], np.cumsum(sizes)])
            for first, last in _whole_clients(sizes, most):
                writer.add(train.read(order[offsets[first] : offsets[last]]), sizes[first:last])
        for some in _cut(tested, most):
            writer.add_test(test.read(some))
        writer.finish()


def _cut(rows: np.ndarray, most: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _whole_clients(sizes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of clients with at most so many examples together, at least one client in each."""
    first, held = 0, 0
    for client, size in enumerate(sizes):
        if client > first and held + size > most:
            yield first, client
            first, held = client, 0
        held += size
    if first < len(sizes):
        yield first, len(sizes)
