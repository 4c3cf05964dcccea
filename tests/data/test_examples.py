"""No source can hand out data whose shapes, types or labels the rest of the program would trip over."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from fednas_jax.data.examples import (
    Examples,
    Statistics,
    channel_counts,
    channel_statistics,
    check,
    dataset,
    statistics_of,
)
from fednas_jax.errors import DataError

IMAGES = np.zeros((3, 2, 2, 1), np.uint8)
LABELS = np.array([0, 1, 2], np.int32)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES[..., 0], LABELS, r"src images: got \[3, 2, 2\] uint8, want \[N, H, W, C\] uint8"),
        (IMAGES.astype(np.float32), LABELS, r"src images: got .* float32, want"),
        (IMAGES, LABELS.astype(np.int64), r"src labels: got \[3\] int64, want \[N\] int32"),
        (IMAGES, LABELS[:, None], r"src labels: got \[3, 1\] int32"),
        (IMAGES[:2], LABELS, "src: got 2 images and 3 labels"),
        (IMAGES[:0], LABELS[:0], r"src images: got \[0, 2, 2, 1\], want at least one"),
        (IMAGES, LABELS + np.int32(1), "src labels: got 1 to 3, want 0 to 2"),
        (IMAGES, LABELS - np.int32(1), "src labels: got -1 to 1, want 0 to 2"),
        (np.float32([[1], [2], [np.nan]]), LABELS, "src inputs: got nan in example 2, want finite numbers"),
        (np.ones((3, 2), np.float32), np.zeros((3, 2), np.int32), r"src labels: got \[3, 2\] int32, want \[N\] int32"),
    ],
)
def test_bad_examples_are_refused_by_source_and_field(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        check("src", Examples(images, labels), 3)


def test_splits_of_different_image_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"training images \[2, 2, 1\] and test images \[2, 2, 3\]"):
        dataset("src", Examples(IMAGES, LABELS), Examples(np.repeat(IMAGES, 3, axis=3), LABELS), 3)


TEXTS = np.ones((3, 4), np.int32)
EVERY = np.zeros((3, 4), np.int32)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            Examples(TEXTS, LABELS),
            Examples(TEXTS.astype(np.float32), LABELS),
            "got inputs of int32 for training and",
        ),
        (Examples(TEXTS, LABELS), Examples(TEXTS, EVERY), r"got labels \[3\] for training and \[3, 4\] for testing"),
        (Examples(TEXTS, EVERY - np.int32(1)), Examples(TEXTS, EVERY), "train labels: got none but -1, want some"),
        (Examples(TEXTS, EVERY), Examples(TEXTS, EVERY - np.int32(1)), "test labels: got none but -1, want some"),
    ],
)
def test_splits_that_differ_in_form_or_have_no_label_are_refused(train: Examples, test: Examples, message: str) -> None:
    with pytest.raises(DataError, match=f"^src:? {message}"):
        dataset("src", train, test, 3)


@pytest.mark.parametrize("statistics", [((0.5,), (0.0,)), ((np.nan,), (1.0,)), ((), ()), ((0.5,) * 3, (0.2,) * 3)])
def test_statistics_that_nothing_can_be_divided_by_are_refused(statistics: Statistics) -> None:
    with pytest.raises(DataError, match=r"^src: got mean \[.*\] and deviation \[.*\], want 1 finite numbers each"):
        dataset("src", Examples(IMAGES, LABELS), Examples(IMAGES, LABELS), 3, statistics)


def test_statistics_are_those_of_the_training_images_scaled_to_one() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5000, 3, 2, 2), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)


def test_statistics_are_exact_so_that_no_processor_has_others() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        images = rng.integers(0, 256, (17, 5, 5, 1), dtype=np.uint8)
        values = [Fraction(int(value), 255) for value in images.ravel()]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        assert channel_statistics(images) == ((float(mean),), (math.sqrt(float(variance)),))


def test_a_constant_channel_has_a_deviation_one_can_divide_by() -> None:
    mean, std = channel_statistics(np.full((4, 2, 2, 1), 51, np.uint8))
    assert mean == (0.2,)
    assert std == (1.0,)


def test_statistics_of_blocks_are_exactly_those_of_the_whole() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 2, 2), dtype=np.uint8)
    counts = sum(channel_counts(block) for block in (images[:0], images[:17], images[17:]))
    assert statistics_of(counts) == channel_statistics(images)


def test_statistics_that_a_source_knows_are_taken_as_they_are() -> None:
    data = dataset("src", Examples(IMAGES, LABELS), Examples(IMAGES, LABELS), 3, ((0.5,), (0.25,)))
    assert (data.mean, data.std) == ((0.5,), (0.25,))


@pytest.mark.parametrize(
    ("natural", "message"),
    [
        (np.array([0, 1, 3], np.int32), r"got \[3\] int32, want \[clients \+ 1\] int64"),
        (np.array([[0, 3]]), r"got \[1, 2\] int64"),
        (np.array([0]), r"got \[1\] int64"),
        (np.array([0, 2]), "got rows 0 to 2, want 0 to 3"),
        (np.array([1, 3]), "got rows 1 to 3, want 0 to 3"),
        (np.array([0, 2, 1, 3]), "client 1 got rows 2 to 1, want none to end before it begins"),
    ],
)
def test_clients_that_do_not_fit_the_examples_are_refused(natural: np.ndarray, message: str) -> None:
    split = Examples(IMAGES, LABELS)
    with pytest.raises(DataError, match=f"^src clients: {message}"):
        dataset("src", split, split, 3, natural=natural)
    assert dataset("src", split, split, 3, natural=np.array([0, 0, 3, 3])).natural is not None
