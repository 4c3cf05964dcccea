"""Feature skew: each client's own brightness and angle, the same in memory, on disk and when clients are merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Examples, FeatureSkew, Partition, feature_skew, merge, pack, read_columns, write_columns

SIZES = np.array([4, 3, 6])
OFFSETS = np.append(0, np.cumsum(SIZES))
TRAIN = Examples(
    np.random.default_rng(0).integers(0, 256, (13, 7, 5, 3), dtype=np.uint8), np.arange(13, dtype=np.int32) % 4
)
DIVIDED = Partition(np.arange(13), OFFSETS)


def skew(**fields: Any) -> FeatureSkew:
    found = feature_skew(DataConfig(**fields), 3, 0)
    assert found is not None
    return found


def test_nothing_is_skewed_unless_asked_for() -> None:
    assert feature_skew(DataConfig(), 3, 0) is None


def test_brightness_spreads_and_angles_range_as_asked_for() -> None:
    config = DataConfig(brightness_sigma=0.3, rotation_degrees=20)
    brightness, degrees = feature_skew(config, 10_000, 5)
    assert np.log(brightness).std() == pytest.approx(0.3, rel=0.03)
    assert np.log(brightness).mean() == pytest.approx(0, abs=0.01)
    assert np.abs(degrees).max() <= 20
    assert degrees.std() == pytest.approx(20 / np.sqrt(3), rel=0.03)
    # One does not depend on the other, nor a client on how many there are, as far as brightness goes.
    np.testing.assert_array_equal(feature_skew(DataConfig(rotation_degrees=20), 10_000, 5).degrees, degrees)
    np.testing.assert_array_equal(feature_skew(DataConfig(brightness_sigma=0.3), 9, 5).brightness, brightness[:9])
    assert not np.array_equal(feature_skew(config, 10_000, 6).brightness, brightness)


@given(st.sampled_from([1e-12, 0.5, 30, 1e308]), st.floats(0, 180), st.integers(0, 99))
def test_images_stay_images_however_large_the_skew(sigma: float, degrees: float, seed: int) -> None:
    found = feature_skew(DataConfig(brightness_sigma=sigma, rotation_degrees=degrees), 3, seed)
    assert np.isfinite(found.brightness).all()
    assert (found.brightness > 0).all()
    owner = np.random.default_rng(seed).integers(0, 3, 13)
    with np.errstate(all="raise"):
        out = found.apply(TRAIN.inputs, owner)
    assert (out.dtype, out.shape) == (np.uint8, TRAIN.inputs.shape)
    for n in range(13):  # and none depends on the others
        np.testing.assert_array_equal(found.apply(TRAIN.inputs[n], owner[n]), out[n])


def test_brightness_is_a_factor_that_ends_at_255() -> None:
    found = FeatureSkew(np.array([0.5, 2.0]), np.zeros(2))
    images = np.array([10, 200], np.uint8).reshape(2, 1, 1, 1)
    assert found.apply(images, np.array([0, 0])).ravel().tolist() == [5, 100]
    assert found.apply(images, np.array([1, 1])).ravel().tolist() == [20, 255]


@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_angles_are_counter_clockwise_around_the_middle(quarters: int) -> None:
    square = TRAIN.inputs[:2, :5]
    found = FeatureSkew(np.ones(1), np.array([90.0 * quarters]))
    np.testing.assert_array_equal(found.apply(square, np.zeros(2, int)), np.rot90(square, quarters, axes=(1, 2)))


def test_black_moves_in_at_the_corners() -> None:
    white = np.full((1, 9, 9, 1), 255, np.uint8)
    turned = FeatureSkew(np.ones(1), np.array([45.0])).apply(white, np.zeros(1, int))[0, :, :, 0]
    assert turned[[0, 0, 8, 8], [0, 8, 0, 8]].tolist() == [0, 0, 0, 0]
    assert turned[2:7, 2:7].min() == 255


def test_training_and_validation_images_of_a_client_go_through_the_same() -> None:
    found = skew(brightness_sigma=0.5, rotation_degrees=30)
    plain, skewed = (pack(TRAIN, DIVIDED, 0.4, 1, how) for how in (None, found))
    np.testing.assert_array_equal(plain.labels, skewed.labels)
    for client in range(3):
        mine = slice(OFFSETS[client], OFFSETS[client + 1])
        expected = found.apply(plain.inputs[mine], np.full(SIZES[client], client))
        np.testing.assert_array_equal(skewed.inputs[mine], expected)
    assert not np.array_equal(plain.inputs, skewed.inputs)


def test_merged_clients_keep_what_their_own_cameras_saw() -> None:
    packed = pack(TRAIN, DIVIDED, 0.4, 1, skew(rotation_degrees=90))
    assert sorted(image.tobytes() for image in merge(packed).inputs) == sorted(i.tobytes() for i in packed.inputs)


def test_images_on_disk_are_skewed_alike_when_they_are_read(tmp_path: Path) -> None:
    write_columns(tmp_path / "columns", "made", [(TRAIN, SIZES)], TRAIN, 4)
    found = skew(brightness_sigma=0.5, rotation_degrees=30)
    memory, disk = (pack(e, DIVIDED, 0.4, 1, found) for e in (TRAIN, read_columns(tmp_path / "columns").train))
    assert disk.on_disk
    rows = np.array([[12, 0, 5], [7, 7, 1]])
    for ours, theirs in zip(disk.take(rows), memory.take(rows), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(disk.inputs[3], memory.inputs[3])
    np.testing.assert_array_equal(np.asarray(disk.inputs), memory.inputs)
    np.testing.assert_array_equal(np.asarray(merge(disk).inputs), merge(memory).inputs)
