"""Images made up from a seed, of any shape, number and classes: for benchmarks, tests and scaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.columns import write_columns
from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

# A template is drawn at random on a grid this fine and interpolated: smooth shapes, which convolutions find.
_GRID = 4
# Range of a template's values, and the largest noise added to a pixel. A linear classifier then gets 72 % of
# the default 8x8x1 images right, so that networks can differ. Larger images are easier: noise averages out.
_LOW, _HIGH = 48, 208
_NOISE = 96
# The largest shift is this share of the image's side.
_SHIFT = 1 / 8
# Pixel values made at once: bounds the memory for intermediate results.
_BLOCK_VALUES = 1 << 22
# Most examples in the test split of columns: as many as MNIST has, and they are held in memory.
_MOST_TEST = 10_000


def load_synthetic(config: DataConfig, seed: int) -> Dataset:
    """A data set with one smooth template for each class; an example is its template shifted, with noise.

    Args:
      config: `synthetic_shape`, `synthetic_classes` and `synthetic_examples` say what to make; the test split
        has a quarter as many examples (at least one), of the same templates.
      seed: of the run; the same seed makes the same data.

    Returns:
      Classes in equal numbers, as far as they divide; everything drawn in integers. With `partition=natural` the
      examples came from clients, of 10 to 30 each.
    """
    rng = generator(seed, Purpose.SYNTHETIC)
    templates = _templates(config.synthetic_shape, config.synthetic_classes, rng)
    train = _draw(templates, config.synthetic_examples, rng)
    test = _draw(templates, max(1, config.synthetic_examples // 4), rng)
    natural = clients_of_few(config.synthetic_examples, rng) if config.partition == "natural" else None
    return dataset("synthetic", train, test, config.synthetic_classes, natural=natural)


def write_synthetic_columns(
    folder: Path, clients: int, low: int, high: int, shape: tuple[int, int, int], classes: int, seed: int
) -> None:
    """Writes such data as columns with natural clients, some thousands at a time, whatever their number.

    The test split has a quarter as many examples, but at most 10,000.

    Args:
      folder: must not exist yet.
      clients: how many, at least 1.
      low: least number of examples that a client holds, at least 1.
      high: most; numbers are uniform between the two, both included.
      shape: height, width and channels of the images.
      classes: number of classes, at least 1; every client draws from all of them.
      seed: the same seed makes the same data.

    Raises:
      DataError: numbers that make no data, or a folder that is there already or cannot be written.
    """
    for name, value in (("clients", clients), ("low", low), ("classes", classes), ("shape", min(shape))):
        if value < 1:
            raise DataError(f"write_synthetic_columns {name}: got {value}, want at least 1")
    if high < low:
        raise DataError(f"write_synthetic_columns high: got {high}, want at least low, which is {low}")
    rng = generator(seed, Purpose.SYNTHETIC)
    templates = _templates(shape, classes, rng)
    test = _draw(templates, max(1, min(_MOST_TEST, clients * (low + high) // 8)), rng)

    def blocks() -> Iterator[tuple[Examples, np.ndarray]]:
        block = max(1, _BLOCK_VALUES // (high * math.prod(shape)))
        for start in range(0, clients, block):
            sizes = rng.integers(low, high + 1, min(block, clients - start))
            yield _draw(templates, int(sizes.sum()), rng), sizes

    write_columns(folder, "synthetic", blocks(), test, classes)


def clients_of_few(examples: int, rng: np.random.Generator) -> np.ndarray:
    """[clients + 1] int64 `Dataset.natural` of clients with 10 to 30 examples; the last has what is left."""
    ends = np.cumsum(rng.integers(10, 31, examples // 10 + 1))
    return np.concatenate([[0], ends[ends < examples], [examples]])


def _templates(shape: tuple[int, int, int], classes: int, rng: np.random.Generator) -> np.ndarray:
    """[classes, H, W, C] int16: random values on a coarse grid, interpolated linearly along both axes."""
    height, width, channels = shape
    coarse = rng.integers(_LOW, _HIGH + 1, (classes, _GRID, _GRID, channels))
    # Products and sums of whole numbers are exact. With weights that sum to 1, what lies half-way between two pixel
    # values is rounded as the processor's order of sums has it: images of 11x11 differed from machine to machine.
    fine = np.einsum("hi,kijc,wj->khwc", _interpolation(height), coarse, _interpolation(width), optimize=True)
    return np.rint(fine / (_scale(height) * _scale(width))).astype(np.int16)


def _interpolation(size: int) -> np.ndarray:
    """[size, _GRID] float64 weights that spread the grid's points over `size` pixels: whole numbers, whose rows sum to
    `_scale`.
    """
    at = (_GRID - 1) * np.arange(size)
    return np.maximum(0.0, _scale(size) - np.abs(at[:, None] - _scale(size) * np.arange(_GRID)))


def _scale(size: int) -> int:
    return max(1, size - 1)


def _draw(templates: np.ndarray, number: int, rng: np.random.Generator) -> Examples:
    """`number` examples: labels in random order, each image shifted (cyclically) and noisy."""
    classes, height, width, channels = templates.shape
    labels = rng.permutation(np.arange(number, dtype=np.int32) % np.int32(classes))
    most = np.array([int(height * _SHIFT), int(width * _SHIFT)])
    shifts = rng.integers(-most, most + 1, (number, 2))
    images = np.empty((number, height, width, channels), np.uint8)
    block = max(1, _BLOCK_VALUES // (height * width * channels))
    for start in range(0, number, block):
        part = slice(start, start + block)
        rows = (np.arange(height) + shifts[part, :1]) % height
        columns = (np.arange(width) + shifts[part, 1:]) % width
        pixels = templates[labels[part, None, None], rows[:, :, None], columns[:, None, :]]
        noise = rng.integers(-_NOISE, _NOISE + 1, pixels.shape, dtype=np.int16)
        images[part] = np.clip(pixels + noise, 0, 255)
    return Examples(images, labels)
