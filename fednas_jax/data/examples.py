"""What a source yields: labelled images in two splits. Letters: N examples, H x W pixels, C channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fednas_jax.errors import DataError

# Images in a block of `channel_statistics`: bounds what numpy's histogram copies to 64-bit integers.
_BLOCK = 4096


class Examples(NamedTuple):
    """Labelled images of one split."""

    images: np.ndarray
    """[N, H, W, C] uint8, 0 to 255."""
    labels: np.ndarray
    """[N] int32, class numbers from 0."""


@dataclass(frozen=True)
class Dataset:
    """A training split, which clients share among themselves, and a test split, which no client holds."""

    name: str
    """The source's name."""
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


def dataset(name: str, train: Examples, test: Examples, classes: int) -> Dataset:
    """The checked data set, with mean and standard deviation of its training images.

    Every source ends here, so that none can hand out data that the rest of the program trips over.

    Raises:
      DataError: as `check` does, or when the splits' images differ in shape.
    """
    check(f"{name} train", train, classes)
    check(f"{name} test", test, classes)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(
            f"{name}: got training images {_shape(train.images[0])} "
            f"and test images {_shape(test.images[0])}, want one shape"
        )
    mean, std = channel_statistics(train.images)
    return Dataset(name, train, test, classes, mean, std)


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


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, of values scaled to [0, 1].

    They come from an exact histogram of the 256 values: a float sum over millions of pixels would depend on
    the order in which a machine adds them, and these numbers enter every run.

    Args:
      images: [N, H, W, C] uint8, N at least 1.

    Returns:
      mean [C] and std [C]; std is 1 where a channel is constant, so that dividing by it is always possible.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images), _BLOCK):
            counts += np.bincount(images[start : start + _BLOCK, ..., channel].ravel(), minlength=256)
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        stds.append(float(np.sqrt(share @ (values - mean) ** 2)) if np.count_nonzero(counts) > 1 else 1.0)
    return tuple(means), tuple(stds)


def _shape(array: np.ndarray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
