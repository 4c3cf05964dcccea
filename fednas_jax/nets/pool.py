"""Pooling whose gradient is fast: one comparison with the window's largest value, instead of XLA's `reduce_window`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fednas_jax.nets.once import once


def max_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """Largest value of each size x size window, without overlap; rows and columns left over are dropped.

    Where several pixels of a window are largest, they share its gradient in equal parts.

    Args:
      images: [B, H, W, C].
      size: height and width of the window, and its stride.

    Returns:
      [B, H // size, W // size, C].
    """
    return _max_pool(images, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(images: jax.Array, size: int) -> jax.Array:
    return functools.reduce(jnp.maximum, _corners(images, size))


def _forward(images: jax.Array, size: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    largest = _max_pool(images, size)
    return largest, (images, largest)


def _backward(size: int, saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    images, largest = saved
    batch, height, width, channels = images.shape
    tall, wide = height // size, width // size
    winners = sum((corner == largest).astype(grad.dtype) for corner in _corners(images, size))
    share = grad / winners
    windows = images[:, : tall * size, : wide * size].reshape(batch, tall, size, wide, size, channels)
    spread = jnp.where(windows == largest[:, :, None, :, None], share[:, :, None, :, None], 0)
    spread = once(spread.reshape(batch, tall * size, wide * size, channels))
    return (jnp.pad(spread, ((0, 0), (0, height - tall * size), (0, width - wide * size), (0, 0))),)


_max_pool.defvjp(_forward, _backward)


def _corners(images: jax.Array, size: int) -> list[jax.Array]:
    """For each place in a window, that pixel of every window: [B, H // size, W // size, C]."""
    height, width = (n // size * size for n in images.shape[1:3])
    return [images[:, i:height:size, j:width:size, :] for i in range(size) for j in range(size)]
