"""The bundled digits: how many there are, and a test split that no seed changes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Dataset, load
from fednas_jax.data.split import stratified_split

# The test split, as first recorded: a change makes test accuracies incomparable.
GOLDEN = "a9b9e97f88885409"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataConfig(source="digits"), seed=0)


def test_there_are_1797_images_of_8x8_and_a_fifth_are_for_testing(digits: Dataset) -> None:
    assert digits.train.inputs.shape == (1438, 8, 8, 1)
    assert digits.test.inputs.shape == (359, 8, 8, 1)
    assert digits.classes == 10


def test_every_class_has_a_fifth_of_its_images_in_the_test_split(digits: Dataset) -> None:
    test, train = np.bincount(digits.test.labels), np.bincount(digits.train.labels)
    np.testing.assert_array_equal(test, np.rint((test + train) * 0.2))


def test_the_17_grey_levels_stay_distinct_and_span_a_byte(digits: Dataset) -> None:
    levels = np.unique(digits.train.inputs)
    assert len(levels) == 17
    assert (levels[0], levels[-1]) == (0, 255)


def test_the_test_split_is_the_same_for_every_seed_and_machine(digits: Dataset) -> None:
    other = load(DataConfig(source="digits"), seed=7)
    np.testing.assert_array_equal(other.test.inputs, digits.test.inputs)
    content = digits.test.inputs.tobytes() + digits.test.labels.tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == GOLDEN


def test_a_stratified_split_uses_every_example_once() -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 5])
    first, second = stratified_split(labels, 0.2, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(35))
    np.testing.assert_array_equal(np.bincount(labels[second]), [2, 4, 1])
