"""The windows that a convolution or a pooling slides over images: what each place in them sees, and its transpose."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Windows(NamedTuple):
    """All windows over images; a window has kh x kw places, (i, j) from its upper left corner."""

    image: tuple[int, ...]  # B, H, W, C
    size: tuple[int, int]  # kh, kw
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # above and below, left and right

    @property
    def out(self) -> tuple[int, int]:
        """H' and W': how many windows fit."""
        sizes = zip(self.image[1:3], self.size, self.strides, self.padding, strict=True)
        return tuple((n + lo + hi - k) // s + 1 for n, k, s, (lo, hi) in sizes)  # type: ignore[return-value]

    @property
    def places(self) -> list[tuple[int, int]]:
        """The places of a window, row by row."""
        return [(i, j) for i in range(self.size[0]) for j in range(self.size[1])]

    def pad(self, image: jax.Array, value: float = 0.0) -> jax.Array:
        """The images [B, H, W, C] with the padding around them."""
        return jnp.pad(image, ((0, 0), *self.padding, (0, 0)), constant_values=value)

    def see(self, padded: jax.Array, i: int, j: int) -> jax.Array:
        """The pixel at place (i, j) of every window: [B, H', W', C]."""
        (height, width), (down, across) = self.out, self.strides
        return padded[:, i : i + down * (height - 1) + 1 : down, j : j + across * (width - 1) + 1 : across, :]

    def scatter(self, part: Callable[[int, int], jax.Array]) -> jax.Array:
        """Adds each place's part [B, H', W', C] onto the pixels that it saw: the transpose of `pad` and `see`."""
        batch, height, width, channels = self.image
        (top, bottom), (left, right) = self.padding
        whole = (height + top + bottom, width + left + right)

        def spread(place: tuple[int, int]) -> jax.Array:
            piece = part(*place)
            config = [(0, 0, 0)]
            for at, size, out, stride in zip(place, whole, self.out, self.strides, strict=True):
                config.append((at, size - at - stride * (out - 1) - 1, stride - 1))
            return lax.pad(piece, jnp.zeros((), piece.dtype), [*config, (0, 0, 0)])

        total = functools.reduce(jnp.add, map(spread, self.places))
        return lax.slice(total, (0, top, left, 0), (batch, top + height, left + width, channels))
