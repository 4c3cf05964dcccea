"""What a source yields: labelled examples in two splits. Letters: N examples, H x W pixels, C channels, F features."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fednas_jax.errors import DataError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean [C] and standard deviation [C] of images scaled to [0, 1]."""

# Inputs of a split that a fingerprint comes from.
_LOOKED_AT = 100
# Pixels in a block of `channel_counts`: bounds what numpy's histogram copies to 64-bit integers.
_BLOCK = 1 << 20


class Examples(NamedTuple):
    """Labelled examples of one split."""

    inputs: np.ndarray
    """Images [N, H, W, C] uint8, 0 to 255; token ids [N, T] int32; rows [N, F] or series [N, T, F] float32. An
    `np.memmap` where they stay on disk."""
    labels: np.ndarray
    """[N] int32, class numbers from 0; of tokens and series also [N, T], -1 where a position has no label."""


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
    """[C] mean of the training images scaled to [0, 1], channel by channel; [F] of features; () of tokens."""
    std: tuple[float, ...]
    """[C] standard deviation of the same; 1 for a channel or feature that is constant."""
    natural: np.ndarray | None = None
    """[clients + 1] int64, for data that came from clients: rows natural[c]:natural[c + 1] of `train` are client
    c's, who may hold none; None where the data names no clients."""
    class_names: tuple[str, ...] = ()
    """Name of every class; () where they have none."""
    tokens: int = 0
    """Number of token ids; 0 where inputs are none."""
    vocabulary: tuple[str, ...] = ()
    """Text of every token id; () where they have none."""


def dataset(
    name: str,
    train: Examples,
    test: Examples,
    classes: int,
    statistics: Statistics | None = None,
    natural: np.ndarray | None = None,
    class_names: tuple[str, ...] = (),
    tokens: int = 0,
    vocabulary: tuple[str, ...] = (),
) -> Dataset:
    """The checked data set, with mean and standard deviation of its training inputs.

    Every source ends here, so that none can hand out data that the rest of the program trips over.

    Args:
      name: of the source.
      train: examples to be divided among clients.
      test: examples for the final report only.
      classes: number of classes; labels are 0 to classes - 1.
      statistics: mean and standard deviation of the training inputs, where a source knows them: then no input
        is read here.
      natural: [clients + 1] where each client's rows begin, where the data came from clients.
      class_names: of every class, where they have names.
      tokens: number of token ids, where inputs are such; 0 is one more than the largest.
      vocabulary: text of every token id, where they have texts.

    Raises:
      DataError: as `check` does, or when the splits' inputs or labels differ in form, a split has no label, clients'
        rows are not all the training examples, or mean and deviation are none to divide by.
    """
    if train.inputs.dtype == np.int32:
        tokens = tokens or len(vocabulary) or int(max(train.inputs.max(), test.inputs.max())) + 1
    check(f"{name} train", train, classes, tokens)
    check(f"{name} test", test, classes, tokens)
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise DataError(
            f"{name}: got training {_noun(train.inputs)} {_shape(train.inputs[0])} "
            f"and test {_noun(test.inputs)} {_shape(test.inputs[0])}, want one shape"
        )
    if train.inputs.dtype != test.inputs.dtype:
        got = f"{train.inputs.dtype} for training and {test.inputs.dtype} for testing"
        raise DataError(f"{name}: got inputs of {got}, want one type")
    if train.labels.shape[1:] != test.labels.shape[1:]:
        got = f"labels {_shape(train.labels)} for training and {_shape(test.labels)} for testing"
        raise DataError(f"{name}: got {got}, want one or the other in both")
    for split, labels in (("train", train.labels), ("test", test.labels)):
        if labels.ndim > 1 and labels.max() < 0:
            raise DataError(f"{name} {split} labels: got none but -1, want some")
    if natural is not None:
        _check_natural(name, natural, len(train.labels))
    if class_names and len(class_names) != classes:
        raise DataError(f"{name}: got {len(class_names)} names of classes, want {classes}, one for each class")
    mean, std = statistics or input_statistics(train.inputs)
    channels = 0 if train.inputs.dtype == np.int32 else train.inputs.shape[-1]
    numbers = len(mean) == len(std) == channels and bool(np.isfinite([*mean, *std]).all())
    if not numbers or min(std, default=1) <= 0:
        got = f"mean {list(map(float, mean[:4]))} and deviation {list(map(float, std[:4]))}"
        raise DataError(f"{name}: got {got}, want {channels} finite numbers each, deviations above 0")
    return Dataset(name, train, test, classes, mean, std, natural, class_names, tokens, vocabulary)


def check(name: str, examples: Examples, classes: int, tokens: int = 0) -> None:
    """Checks shapes, types and the range of labels, token ids and features of one split.

    Args:
      name: source and split, for the message.
      examples: the split.
      classes: number of classes; labels are 0 to classes - 1.
      tokens: number of token ids, where inputs are such; 0 where that is not known yet.

    Raises:
      DataError: one line that names the split, what was got and what was wanted.
    """
    inputs, labels = examples
    noun = _noun(inputs)
    axes = {"uint8": (4,), "int32": (2,), "float32": (2, 3)}.get(str(inputs.dtype), ())
    if inputs.ndim not in axes:
        others = ", [N, T] int32 or [N, F] or [N, T, F] float32"
        raise DataError(f"{name} {noun}: got {_shape(inputs)} {inputs.dtype}, want [N, H, W, C] uint8{others}")
    positions = inputs.shape[1:2] if inputs.dtype == np.int32 or inputs.ndim == 3 else None
    if labels.ndim > 1 and labels.shape[1:] != positions:
        raise DataError(f"{name} labels: got {_shape(labels)} {labels.dtype}, want [N] int32")
    if labels.ndim < 1 or labels.dtype != np.int32:
        raise DataError(f"{name} labels: got {_shape(labels)} {labels.dtype}, want [N] int32")
    if len(inputs) != len(labels):
        raise DataError(f"{name}: got {len(inputs)} {noun} and {len(labels)} labels, want as many of each")
    if inputs.size == 0:
        raise DataError(f"{name} {noun}: got {_shape(inputs)}, want at least one, and of at least one number")
    if inputs.dtype == np.int32 and (inputs.min() < 0 or inputs.max() >= (tokens or np.iinfo(np.int32).max)):
        want = f"0 to {tokens - 1}" if tokens else "ids from 0"
        raise DataError(f"{name} tokens: got {inputs.min()} to {inputs.max()}, want {want}")
    if inputs.dtype == np.float32:
        _check_finite(f"{name} {noun}", inputs)
    low, high = int(labels.min()), int(labels.max())
    if low < (0 if labels.ndim == 1 else -1) or high >= classes:
        raise DataError(f"{name} labels: got {low} to {high}, want 0 to {classes - 1}")


def described(data: Dataset) -> str:
    """What the examples are, and their shape: "images of 8x8x1"."""
    inputs, every = data.train.inputs, ", a label for each" if data.train.labels.ndim > 1 else ""
    shape = "x".join(map(str, inputs.shape[1:]))
    if inputs.dtype == np.uint8:
        return f"images of {shape}"
    if inputs.dtype == np.int32:
        return f"texts of {shape} tokens ({data.tokens} different ones{every})"
    return f"rows of {shape} features" if inputs.ndim == 2 else f"series of {shape} (times x features{every})"


def fingerprint(data: Dataset) -> str:
    """Eight hexadecimal digits that tell data sets apart without reading all of their inputs.

    They come from all labels, the clients' rows, and the mean and standard deviation of every channel, which a change
    of any training pixel changes (but for images that trade pixels); and from a hundred inputs of each split, since
    images for testing have no part in these, and what columns on disk say of them may be older. Tokens, which have
    neither, are read.
    """
    about = repr((data.train.inputs.shape, data.test.inputs.shape, data.classes, data.mean, data.std))
    total = zlib.crc32(about.encode())
    splits = (data.train.inputs, data.test.inputs)
    evenly = np.arange(_LOOKED_AT)
    inputs = splits if data.tokens else [some[evenly * (len(some) - 1) // (_LOOKED_AT - 1)] for some in splits]
    for column in (data.train.labels, data.test.labels, data.natural, *inputs):
        total = total if column is None else zlib.crc32(np.ascontiguousarray(column).data, total)
    return f"{total:08x}"


def input_statistics(inputs: np.ndarray) -> Statistics:
    """Mean and standard deviation of every channel of images, of every feature of rows and series; none of tokens."""
    if inputs.dtype == np.uint8:
        return channel_statistics(inputs)
    if inputs.dtype == np.int32:
        return (), ()
    features = inputs.reshape(-1, inputs.shape[-1])
    first = features[0].astype(np.float64)
    means, stds = [], []
    sums = [[0.0, 0.0] for _ in first]
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64) - first
        for n, column in enumerate(block.T):
            sums[n] = [math.fsum([sums[n][0], *column]), math.fsum([sums[n][1], *(column * column)])]
    for n, (one, two) in enumerate(sums):
        mean = one / len(features)
        variance = max(0.0, two / len(features) - mean * mean)
        means.append(float(first[n]) + mean)
        stds.append(math.sqrt(variance) or 1.0)
    return tuple(means), tuple(stds)


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
    # In Python's whole numbers: sums of floats end in other bits on other processors, and then the same data would have
    # another fingerprint there.
    means, stds = [], []
    for count in counts.tolist():
        number = sum(count)
        one, two = (sum(n * value**power for value, n in enumerate(count)) for power in (1, 2))
        means.append(one / (255 * number))
        stds.append(math.sqrt((number * two - one**2) / (255 * number) ** 2) or 1.0)
    return tuple(means), tuple(stds)


def _check_finite(name: str, inputs: np.ndarray) -> None:
    step = max(1, _BLOCK // math.prod(inputs.shape[1:]))
    for start in range(0, len(inputs), step):
        bad = ~np.isfinite(inputs[start : start + step])
        if bad.any():
            at = np.argwhere(bad)[0]
            got = inputs[start : start + step][tuple(at)]
            raise DataError(f"{name}: got {got} in example {start + at[0]}, want finite numbers")


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


def _noun(inputs: np.ndarray) -> str:
    return "images" if inputs.dtype == np.uint8 or inputs.ndim == 4 else "inputs"


def _shape(array: np.ndarray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"
