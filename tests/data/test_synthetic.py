"""Synthetic data: of the sizes asked for, the same from the same seed, and learnable."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Dataset, load
from fednas_jax.data.synthetic import _templates
from fednas_jax.seeds import Purpose, generator


def made(seed: int = 0, **fields: object) -> Dataset:
    return load(DataConfig(source="synthetic", **fields), seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (1, 1, 1), (32, 32, 3)])
def test_it_has_the_shape_and_numbers_asked_for(shape: tuple[int, int, int]) -> None:
    data = made(synthetic_shape=shape, synthetic_classes=3, synthetic_examples=40)
    assert data.train.inputs.shape == (40, *shape)
    assert data.test.inputs.shape == (10, *shape)
    assert data.train.inputs.dtype == np.uint8
    assert data.classes == 3


@pytest.mark.parametrize("shape", [(11, 11, 1), (8, 21, 3), (1, 2, 1)])
def test_templates_are_exact_so_that_no_processor_has_others(shape: tuple[int, int, int]) -> None:
    height, width, channels = shape
    coarse = generator(0, Purpose.SYNTHETIC).integers(48, 209, (2, 4, 4, channels))
    found = _templates(shape, 2, generator(0, Purpose.SYNTHETIC))

    def weight(pixel: int, size: int, point: int) -> Fraction:
        return max(Fraction(0), 1 - abs(Fraction(3 * pixel, max(1, size - 1)) - point))

    for k, h, w, c in np.ndindex(found.shape):
        sides = ((weight(h, height, i), weight(w, width, j), int(coarse[k, i, j, c])) for i, j in np.ndindex(4, 4))
        assert found[k, h, w, c] == round(sum(down * across * value for down, across, value in sides))


def test_classes_come_in_equal_numbers_and_random_order() -> None:
    labels = made(synthetic_classes=7, synthetic_examples=72).train.labels
    assert set(np.bincount(labels)) == {10, 11}
    assert not np.array_equal(labels, np.arange(72) % 7)


def test_a_single_example_still_makes_both_splits() -> None:
    data = made(synthetic_examples=1)
    assert (len(data.train.labels), len(data.test.labels)) == (1, 1)


def test_the_same_seed_makes_the_same_data_and_another_seed_other_data() -> None:
    one, same, other = made(3), made(3), made(4)
    np.testing.assert_array_equal(one.train.inputs, same.train.inputs)
    np.testing.assert_array_equal(one.test.labels, same.test.labels)
    assert not np.array_equal(one.train.inputs, other.train.inputs)


def test_making_it_in_blocks_fills_every_image() -> None:
    # 6,000 images of 32x32x3 are more than four blocks.
    images = made(synthetic_shape=(32, 32, 3), synthetic_examples=6000).train.inputs
    assert images.reshape(len(images), -1).std(axis=1).min() > 10


@pytest.mark.parametrize(("shape", "classes"), [((8, 8, 1), 10), ((16, 16, 3), 20)])
def test_the_nearest_class_mean_recognises_test_images_far_above_chance(
    shape: tuple[int, int, int], classes: int
) -> None:
    data = made(synthetic_shape=shape, synthetic_classes=classes)
    train, test = (x.inputs.reshape(len(x.inputs), -1) / 255 for x in (data.train, data.test))
    means = np.stack([train[data.train.labels == label].mean(axis=0) for label in range(classes)])
    nearest = ((test[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == data.test.labels).mean() > 5 / classes
