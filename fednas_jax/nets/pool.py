"""Pooling whose gradient is fast: one comparison with the window's largest value, instead of XLA's `reduce_window`."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from fednas_jax.errors import NetworkError
from fednas_jax.nets.computed_once import once
from fednas_jax.nets.windows import Windows


def max_pool(images: jax.Array, size: int = 2, stride: int | None = None, padding: int = 0) -> jax.Array:
    """Largest value of each size x size window; rows and columns left over are dropped.

    Where several pixels of a window are largest, they share its gradient in equal parts.

    Args:
      images: [B, H, W, C].
      size: height and width of the window.
      stride: from one window to the next; None: `size`, so that they don't overlap.
      padding: rows and columns added on each side, which are never the largest; at most size // 2.

    Returns:
      [B, H', W', C] where H' = (H + 2 padding - size) // stride + 1; W' likewise.

    Raises:
      NetworkError: images smaller than a window.
    """
    stride = size if stride is None else stride
    if min(images.shape[1:3]) + 2 * padding < size:
        got = "x".join(map(str, images.shape[1:3]))
        raise NetworkError(f"max_pool: got images of {got}, want at least {size - 2 * padding} pixels each way")
    pads = (padding, padding)
    return _max_pool(images, Windows(images.shape, (size, size), (stride, stride), (pads, pads)))


def mean_pool_to(images: jax.Array, size: int) -> jax.Array:
    """Means over size x size parts of each image, nearly equal: PyTorch's AdaptiveAvgPool2d, which never enlarges here.

    Args:
      images: [B, H, W, C].
      size: number of parts each way; an image with fewer pixels that way keeps them as they are.

    Returns:
      [B, min(H, size), min(W, size), C].
    """
    for axis in (1, 2):
        pixels, parts = images.shape[axis], min(images.shape[axis], size)
        if parts < pixels:
            ends = [(n * pixels // parts, -(-(n + 1) * pixels // parts)) for n in range(parts)]
            cut = [jax.lax.slice_in_dim(images, *end, axis=axis).mean(axis, keepdims=True) for end in ends]
            images = jnp.concatenate(cut, axis)
    return images


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(images: jax.Array, windows: Windows) -> jax.Array:
    return functools.reduce(jnp.maximum, _corners(images, windows))


def _forward(images: jax.Array, windows: Windows) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Computed once: the gradient finds the largest pixel by its bits, and a normalisation that is computed again beside
    # other operations need not have the same ones. All of a window's gradient would be lost.
    images = once(images)
    largest = _max_pool(images, windows)
    return largest, (images, largest)


def _backward(windows: Windows, saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array]:
    images, largest = saved
    won = [corner == largest for corner in _corners(images, windows)]
    share = grad / sum(w.astype(grad.dtype) for w in won)
    if windows.strides != windows.size or windows.padding != ((0, 0), (0, 0)):
        # Stored before it is spread, or each pixel divides again for each window that it lies in.
        share = once(share)
        parts = dict(zip(windows.places, won, strict=True))
        return (once(windows.scatter(lambda i, j: jnp.where(parts[i, j], share, 0))),)
    batch, height, width, channels = images.shape
    (tall, wide), (size, _) = windows.out, windows.size
    cut = images[:, : tall * size, : wide * size].reshape(batch, tall, size, wide, size, channels)
    spread = jnp.where(cut == largest[:, :, None, :, None], share[:, :, None, :, None], 0)
    spread = once(spread.reshape(batch, tall * size, wide * size, channels))
    return (jnp.pad(spread, ((0, 0), (0, height - tall * size), (0, width - wide * size), (0, 0))),)


_max_pool.defvjp(_forward, _backward)


def _corners(images: jax.Array, windows: Windows) -> list[jax.Array]:
    """For each place in a window, that pixel of every window: [B, H', W', C]."""
    padded = windows.pad(images, -jnp.inf) if windows.padding != ((0, 0), (0, 0)) else images
    return [windows.see(padded, i, j) for i, j in windows.places]
