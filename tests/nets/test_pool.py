"""Max pooling equals XLA's reduce_window; in a tie, where that one picks a winner, the winners share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fednas_jax.errors import NetworkError
from fednas_jax.nets.pool import max_pool, mean_pool_to


def windowed(images, size, stride=None, padding=0):
    """lax's max pooling."""
    window, strides = (1, size, size, 1), (1, stride or size, stride or size, 1)
    pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(images, np.asarray(-np.inf, images.dtype), lax.max, window, strides, pads)


@functools.partial(jax.jit, static_argnums=(0, 2, 4, 5))
def gradient(pool, images, size, target, stride=None, padding=0):
    return jax.grad(lambda x: jnp.sum(pool(x, size, stride, padding) * target))(images)


def distinct(shape, seed=0):
    """Images without two equal pixels."""
    values = np.random.default_rng(seed).permutation(int(np.prod(shape)))
    return jnp.asarray(values.reshape(shape) - np.prod(shape) / 2, jnp.float32)


def target_of(shape, size, seed=1):
    batch, height, width, channels = shape
    values = np.random.default_rng(seed).normal(size=(batch, height // size, width // size, channels))
    return jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 6, 6, 2), 2), ((1, 7, 5, 3), 2), ((2, 3, 2, 1), 2), ((2, 7, 8, 1), 3), ((1, 4, 9, 2), 4), ((2, 3, 5, 2), 1)],
)
def test_without_ties_values_and_gradient_are_those_of_lax(shape, size):
    images, target = distinct(shape), target_of(shape, size)
    assert np.array_equal(max_pool(images, size), windowed(images, size))
    ours, lax_s = (gradient(pool, images, size, target) for pool in (max_pool, windowed))
    assert np.array_equal(ours, lax_s)


OVERLAPPING = [((2, 7, 9, 2), 3, 2, 0), ((1, 8, 6, 1), 3, 2, 1), ((1, 9, 5, 2), 2, 3, 0)]


@given(st.sampled_from(OVERLAPPING), st.integers(0, 1000))
@settings(max_examples=10)
def test_windows_that_overlap_or_leave_gaps_give_lax_s_values_and_gradient(case, seed):
    shape, *window = case
    images = distinct(shape, seed)
    want = windowed(images, *window)
    assert np.array_equal(max_pool(images, *window), want)
    target = jnp.asarray(np.random.default_rng(seed).normal(size=want.shape), jnp.float32)
    size, stride, padding = window
    ours, lax_s = (gradient(pool, images, size, target, stride, padding) for pool in (max_pool, windowed))
    np.testing.assert_allclose(ours, lax_s, atol=1e-6)  # a pixel may win several windows: another order of sums


def test_ties_in_overlapping_windows_share_each_windows_gradient():
    images = jnp.zeros((1, 5, 3, 1))  # two windows, which share their middle row
    got = gradient(max_pool, images, 3, jnp.asarray([9.0, 18.0]).reshape(1, 2, 1, 1), 2)
    np.testing.assert_allclose(got[0, :, :, 0], np.repeat([[1], [1], [3], [2], [2]], 3, axis=1))


def test_images_smaller_than_a_window_are_refused():
    with pytest.raises(NetworkError, match=r"^max_pool: got images of 2x5, want at least 3 pixels each way$"):
        max_pool(jnp.zeros((1, 2, 5, 1)), 3, 2)
    assert max_pool(jnp.zeros((1, 2, 5, 1)), 3, 2, 1).shape == (1, 1, 3, 1)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 13), (14, 9), (20, 7)])
def test_a_mean_over_the_parts_of_an_image_is_that_of_its_definition(height, width):
    images = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    got = mean_pool_to(jnp.asarray(images), 7)
    for i, j in np.ndindex(7, 7):  # rows floor(i n / 7) to ceil((i + 1) n / 7), as PyTorch defines it
        rows, columns = (slice(k * n // 7, -(-(k + 1) * n // 7)) for k, n in ((i, height), (j, width)))
        np.testing.assert_allclose(got[:, i, j], images[:, rows, columns].mean((1, 2)), atol=1e-6)


def test_an_image_of_fewer_pixels_than_parts_keeps_its_pixels():
    images = distinct((2, 3, 9, 1))
    got = mean_pool_to(images, 7)
    assert got.shape == (2, 3, 7, 1)
    assert np.array_equal(mean_pool_to(images[:, :, :3], 7), images[:, :, :3])


@given(st.sampled_from([(2, 4, 6, 2), (1, 5, 7, 3)]), st.integers(0, 1000))
def test_tied_pixels_share_their_windows_gradient_equally(shape, seed):
    size = 2
    images = jnp.asarray(np.random.default_rng(seed).integers(0, 2, shape), jnp.float32)
    target = target_of(shape, size)
    assert np.array_equal(max_pool(images), windowed(images, size))
    got = np.asarray(gradient(max_pool, images, size, target))
    expected = np.zeros(shape, np.float32)
    for b, i, j, c in np.ndindex(target.shape):
        at = np.s_[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        winners = np.asarray(images[at]) == images[at].max()
        expected[at] = winners * (target[b, i, j, c] / np.float32(winners.sum()))
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(got.sum(), gradient(windowed, images, size, target).sum(), rtol=1e-4, atol=1e-5)


def test_rows_and_columns_left_over_get_no_gradient():
    images = distinct((2, 5, 7, 2))
    got = np.array(gradient(max_pool, images, 3, target_of(images.shape, 3)))
    assert max_pool(images, 3).shape == (2, 1, 2, 2)
    assert got[:, :3, :6].any()
    got[:, :3, :6] = 0
    assert not got.any()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lanes_pool_each_for_itself_in_their_own_type(dtype):
    images = distinct((4, 2, 5, 6, 3)).astype(dtype)
    target = target_of(images.shape[1:], 2).astype(dtype)
    lanes = jax.jit(jax.vmap(lambda x: (max_pool(x), gradient(max_pool, x, 2, target))))(images)
    alone = [(max_pool(x), gradient(max_pool, x, 2, target)) for x in images]
    for got, want in zip(lanes, map(jnp.stack, zip(*alone, strict=True)), strict=True):
        assert got.dtype == dtype
        assert np.array_equal(got, want)


def test_one_lanes_broken_numbers_stay_its_own():
    images = jnp.stack([jnp.full((1, 4, 4, 1), jnp.nan), distinct((1, 4, 4, 1))])
    grads = jax.vmap(lambda x: gradient(max_pool, x, 2, jnp.ones((1, 2, 2, 1))))(images)
    assert np.array_equal(grads[1], gradient(windowed, images[1], 2, jnp.ones((1, 2, 2, 1))))
