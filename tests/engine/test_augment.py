"""Augmentation: each example by its own random numbers, what moves in is black, what is cut out is the mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import AugmentConfig
from fednas_jax.data import normalise
from fednas_jax.engine.augment import preparation
from fednas_jax.errors import ConfigError
from fednas_jax.space.network import RUN_ONCE

SHAPE = (6, 9, 2)
MEAN, STD = (0.4, 0.2), (0.3, 0.5)
IMAGES = np.random.default_rng(0).integers(1, 256, (7, *SHAPE), dtype=np.uint8)  # no pixel is black
KEY = jax.random.key(3)


@functools.cache
def prepared(config, seed=0, rows=7):
    """Images as the network sees them, and what they are without normalisation: uint8 again, and -1 where cut out."""
    prepare = jax.jit(preparation(config, MEAN, STD, SHAPE), compiler_options=RUN_ONCE)
    shown = np.asarray(prepare(IMAGES[:rows], jax.random.fold_in(KEY, seed)))
    return shown, np.rint(255 * (shown * np.asarray(STD) + np.asarray(MEAN)))


def shifts(image, most):
    """All images that a crop can make of one, with their (rows, columns)."""
    padded = np.pad(image, ((most, most), (most, most), (0, 0)))
    height, width, _ = image.shape
    span = range(2 * most + 1)
    return {(y, x): padded[y : y + height, x : x + width] for y in span for x in span}


def test_with_everything_off_it_is_normalisation_and_nothing_else():
    off, plain = preparation(AugmentConfig(), MEAN, STD, SHAPE), functools.partial(normalise, mean=MEAN, std=STD)
    assert str(jax.make_jaxpr(lambda x: off(x, KEY))(IMAGES)) == str(jax.make_jaxpr(plain)(IMAGES))


@given(st.integers(0, 4), st.booleans(), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_a_batch_equals_the_readable_one(crop, flip, cutout, seed):
    config, key = AugmentConfig(crop, flip, cutout), jax.random.key(seed)
    ours = preparation(config, MEAN, STD, SHAPE)(jnp.asarray(IMAGES), key)
    np.testing.assert_allclose(ours, oracle.batch_images(IMAGES, MEAN, STD, config, key), atol=1e-5)


def test_a_crop_moves_each_image_by_its_own_number_of_pixels_and_fills_with_black():
    found = []
    for seed in range(20):
        _, raw = prepared(AugmentConfig(crop=2), seed)
        for image, moved in zip(IMAGES, raw, strict=True):
            found += [by for by, shift in shifts(image, 2).items() if np.array_equal(shift, moved)]
    assert len(found) == 140, "every image is one of the crops"
    assert set(found) == {(y, x) for y in range(5) for x in range(5)}


def test_a_flip_mirrors_every_other_image_left_to_right():
    mirrored = []
    for seed in range(20):
        _, raw = prepared(AugmentConfig(flip=True), seed)
        for image, shown in zip(IMAGES, raw, strict=True):
            assert np.array_equal(shown, image) or np.array_equal(shown, image[:, ::-1])
            mirrored.append(np.array_equal(shown, image[:, ::-1]))
    assert 45 < sum(mirrored) < 95  # of 140: 70 in the mean, with a standard deviation of 6


def test_a_cutout_is_a_square_of_the_mean_around_any_pixel():
    sizes = set()
    plain, _ = prepared(AugmentConfig())
    for seed in range(20):
        shown, _ = prepared(AugmentConfig(cutout=3), seed)
        for before, after in zip(plain, shown, strict=True):
            gone = np.any(before != after, axis=-1)
            assert not after[gone].any()
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all(), "a rectangle"
            sizes.add((len(rows), len(columns)))
    assert sizes == {(2, 2), (2, 3), (3, 2), (3, 3)}  # less than 3 only at the border


def test_an_example_does_not_depend_on_the_others_of_its_batch_nor_on_what_else_is_switched_on():
    whole, raw = prepared(AugmentConfig(crop=2, flip=True))
    few, _ = prepared(AugmentConfig(crop=2, flip=True), rows=3)
    assert np.array_equal(whole[:3], few)
    _, with_cutout = prepared(AugmentConfig(crop=2, flip=True, cutout=2))
    kept = np.any(with_cutout == raw, axis=-1)
    assert kept.mean() > 0.9


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_what_is_larger_than_the_image_is_refused_by_field(name):
    preparation(AugmentConfig(**{name: 6}), MEAN, STD, SHAPE)
    with pytest.raises(
        ConfigError, match=rf"^train\.augment\.{name}: got 7, want at most 6, the images' smaller side$"
    ):
        preparation(AugmentConfig(**{name: 7}), MEAN, STD, SHAPE)
