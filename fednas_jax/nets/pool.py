"""Pooling whose gradient is fast: XLA's `reduce_window` spends several times longer in it."""

import functools

import jax
import jax.numpy as jnp


def max_pool(images: jax.Array, size: int = 2) -> jax.Array:
    """Largest value of each size x size window, without overlap; rows and columns left over are dropped.

    Args:
      images: [B, H, W, C].
      size: height and width of the window, and its stride.

    Returns:
      [B, H // size, W // size, C].
    """
    height, width = (n // size * size for n in images.shape[1:3])
    strided = [images[:, i:height:size, j:width:size, :] for i in range(size) for j in range(size)]
    return functools.reduce(jnp.maximum, strided)
