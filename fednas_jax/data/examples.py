"""What a source yields: labelled images in two splits. Letters: N examples, H x W pixels, C channels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fednas_jax.errors import DataError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean [C] and standard deviation [C] of images scaled to [0, 1]."""

# Pixels in a block of `channel_counts`: bounds what numpy's histogram copies to 64-bit integers.
_BLOCK = 1 << 20


class Examples(NamedTuple):
    """Labelled images of one split."""

    images: np.ndarray
    """[N, H, W, C] uint8, 0 to 255; an `np.memmap` where they stay on disk."""
    labels: np.ndarray
    """[N] int32, class numbers from 0."""


@dataclass(frozen=True)
class Dataset:
    """A training split, which clients share among themselves, and a test split, which no client holds."""

    name: str
    """The source's name; of columns, the name that they were written with."""
    train: Examples
    """Examples to be divided among clients."""
    test: Examples
    """Examples for the final report only."""
    classes: int
    """Number of classes."""
    mean: tuple[float, ...]
    """[C] mean of the training images scaled to [0, 1], channel by channel."""
    std: tuple[float, ...]
    """[C] standard deviation of the same; 1 for a channel that is constant."""
    natural: np.ndarray | None = None
    """[clients + 1] int64, for data that came from clients: rows natural[c]:natural[c + 1] of `train` are client
    c's, who may hold none; None where the data names no clients."""
    class_names: tuple[str, ...] = ()
    """Name of every class; () where they have none."""


def dataset(
    name: str,
    train: Examples,
    test: Examples,
    classes: int,
    statistics: Statistics | None = None,
    natural: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """The checked data set, with mean and standard deviation of its training images.

    Every source ends here, so that none can hand out data that the rest of the program trips over.

    Args:
      name: of the source.
      train: examples to be divided among clients.
      test: examples for the final report only.
      classes: number of classes; labels are 0 to classes - 1.
      statistics: mean and standard deviation of the training images, where a source knows them: then no image
        is read here.
      natural: [clients + 1] where each client's rows begin, where the data came from clients.
      class_names: of every class, where they have names.

    Raises:
      DataError: as `check` does, or when the splits' images differ in shape, or clients' rows are not all the
        training examples.
    """
    check(f"{name} train", train, classes)
    check(f"{name} test", test, classes)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: got training images {_shape(train.images[0])} "
            f"and test images {_shape(test.images[0])}, want one shape"
        )
    if natural is not None:
        _check_natural(name, natural, len(train.labels))
    if class_names and len(class_names) != classes:
        raise DataError(f"{name}: got {len(class_names)} names of classes, want {classes}, one for each class")
    return Dataset(name, train, test, classes, *(statistics or channel_statistics(train.images)), natural, class_names)


def check(name: str, examples: Examples, classes: int) -> None:
    """Checks shapes, types and the range of labels of one split.

    Args:
      name: source and split, for the message.
      examples: the split.
      classes: number of classes; labels are 0 to classes - 1.

    Raises:
      DataError: one line that names the split, what was got and what was wanted.
    """
    images, labels = examples
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(f"{name} images: got {_shape(images)} {images.dtype}, want [N, H, W, C] uint8")
    if labels.ndim != 1 or labels.dtype != np.int32:
        raise DataError(f"{name} labels: got {_shape(labels)} {labels.dtype}, want [N] int32")
    if len(images) != len(labels):
        raise DataError(f"{name}: got {len(images)} images and {len(labels)} labels, want as many of each")
    if images.size == 0:
        raise DataError(f"{name} images: got {_shape(images)}, want at least one image of at least one pixel")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{name} labels: got {low} to {high}, want 0 to {classes - 1}")


def fingerprint(data: Dataset) -> str:
    """Eight hexadecimal digits that tell data sets apart without reading their images.

    They come from all labels, the clients' rows, and the mean and standard deviation of every channel, which a change
    of any training pixel changes (but for images that trade pixels).
    """
    about = repr((data.train.images.shape, data.test.images.shape, data.classes, data.mean, data.std))
    total = zlib.crc32(about.encode())
    for column in (data.train.labels, data.test.labels, data.natural):
        total = total if column is None else zlib.crc32(np.ascontiguousarray(column).tobytes(), total)
    return f"{total:08x}"


def channel_statistics(images: np.ndarray) -> Statistics:
    """Mean and standard deviation of every channel, of values scaled to [0, 1].

    They come from an exact histogram of the 256 values: a float sum over millions of pixels would depend on
    the order in which a machine adds them, and these numbers enter every run.

    Args:
      images: [N, H, W, C] uint8, N at least 1.

    Returns:
      mean [C] and std [C]; std is 1 where a channel is constant, so that dividing by it is always possible.
    """
    return statistics_of(channel_counts(images))


def channel_counts(images: np.ndarray) -> np.ndarray:
    """How often each channel has each of the 256 values; counts of several blocks of images may be added.

    Args:
      images: [N, H, W, C] uint8.

    Returns:
      [C, 256] int64.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    step = max(1, _BLOCK // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), step):
        for channel, count in enumerate(counts):
            count += np.bincount(images[start : start + step, ..., channel].ravel(), minlength=256)
    return counts


def statistics_of(counts: np.ndarray) -> Statistics:
    """Mean and standard deviation of every channel, as `channel_statistics` has them.

    Args:
      counts: [C, 256] int64 of `channel_counts`, of one image or more.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for count in counts:
        share = count / count.sum()
        mean = float(share @ values)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (values - mean) ** 2)) if np.count_nonzero(count) > 1 else 1.0)
    return tuple(means), tuple(stds)


def _check_natural(name: str, natural: np.ndarray, examples: int) -> None:
    if natural.ndim != 1 or natural.dtype != np.int64 or len(natural) < 2:
        raise DataError(f"{name} clients: got {_shape(natural)} {natural.dtype}, want [clients + 1] int64")
    if natural[0] != 0 or natural[-1] != examples:
        raise DataError(f"{name} clients: got rows {natural[0]} to {natural[-1]}, want 0 to {examples}")
    falls = np.flatnonzero(natural[1:] < natural[:-1])
    if len(falls):
        first, end = natural[falls[0]], natural[falls[0] + 1]
        raise DataError(
            f"{name} clients: client {falls[0]} got rows {first} to {end}, want none to end before it begins"
        )


def _shape(array: np.ndarray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
