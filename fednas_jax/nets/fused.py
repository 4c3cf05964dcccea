"""Convolutions that never write the unfolded image: a kernel gathers a tile of it on the chip and multiplies it there.

Forward and both gradients are the product of an unfolded image with something else (implicit products, Chetlur et al.
2014, arXiv 1410.0759, section 3.1). A program of the grid computes one tile of the output; `vmap` adds the lanes to the
grid. In Pallas, for CUDA through Triton, whose tiles have powers of two as sides; on other platforms the same kernels
are interpreted, for tests. Letters as in `lowerings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from fednas_jax.nets.geometry import Geometry

ROWS, COLUMNS, DEPTH = 128, 64, 32  # a tile of the output at most, and how much of the sum is taken at once
LEAST = 16  # that Triton multiplies
SUMMED = 4096  # windows that one program sums for the kernel's gradient: few lanes would leave a chip idle else
WARPS, STAGES = 4, 3


class Taps(NamedTuple):
    """An unfolded image, [B x H' x W' windows, kh x kw x C places], that is gathered where it is needed.

    Place (i, j) of window (y, x) sees pixel ((y, x) x strides - low + (i, j)) / apart, or zero where there is none.
    """

    image: tuple[int, ...]
    size: tuple[int, int]
    out: tuple[int, int]
    strides: tuple[int, int]
    low: tuple[int, int]  # padding above and on the left
    apart: tuple[int, int]  # zeros between pixels, plus one

    @property
    def windows(self) -> int:
        """B x H' x W'."""
        return self.image[0] * math.prod(self.out)

    @property
    def places(self) -> int:
        """kh x kw x C."""
        return math.prod(self.size) * self.image[3]

    def gather(self, pixels: Any, windows: jax.Array, places: jax.Array) -> jax.Array:
        """These windows and places: [windows, places]; zero beyond the last."""
        _, height, width, channels = self.image
        tap, channel = _divided(places, channels)
        row, column = _divided(tap, self.size[1])
        line, x = _divided(windows, self.out[1])
        batch, y = _divided(line, self.out[0])
        y, above = self._seen(0, y, row)
        x, beside = self._seen(1, x, column)
        inside = above & beside & _inside(windows, self.windows, places, self.places)
        at = ((batch[:, None] * height + y) * width + x) * channels + channel
        return triton.load(pixels.at[at], mask=inside, other=0.0)

    def _seen(self, side: int, window: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Rows (or columns) of the image, and whether they are there."""
        at = window[:, None] * self.strides[side] - self.low[side] + place[None, :]
        pixel, rest = _divided(at, self.apart[side])
        return pixel, (at >= 0) & (rest == 0) & (pixel < self.image[1 + side])


def forward(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of one lane."""
    out = _convolve(_taps(geometry), kernel.shape, False, geometry.precision, image, kernel)
    return out.reshape(image.shape[0], *geometry.out, kernel.shape[3])


def to_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    """The image's gradient: the convolution of the output's gradient, spread by the strides, with the kernel turned."""
    size = geometry.kernel[:2]
    low = tuple(k - 1 - lo for k, (lo, _) in zip(size, geometry.padding, strict=True))
    taps = Taps(grad.shape, size, geometry.image[1:3], (1, 1), low, geometry.strides)  # type: ignore[arg-type]
    return _convolve(taps, kernel.shape, True, geometry.precision, grad, kernel).reshape(geometry.image)


def to_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    """The kernel's gradient: the unfolded image, turned, times the output's gradient."""
    taps, features = _taps(geometry), geometry.kernel[3]
    rows, columns, depth = _tile(taps.places, ROWS // 2), _tile(features, COLUMNS), _tile(taps.windows, DEPTH)
    parts = pl.cdiv(taps.windows, SUMMED)
    sums = pl.cdiv(pl.cdiv(taps.windows, depth), parts)

    def body(pixels: Any, grads: Any, out: Any) -> None:
        part, places, chosen = pl.program_id(0), _block(1, rows), _block(2, columns)

        def add(n: jax.Array, total: jax.Array) -> jax.Array:
            windows = (part * sums + n) * depth + lax.iota(jnp.int32, depth)
            inside = _inside(windows, taps.windows, chosen, features)
            behind = triton.load(grads.at[windows[:, None] * features + chosen], mask=inside, other=0.0)
            return total + _dot(taps.gather(pixels, windows, places).T, behind, geometry.precision)

        total = _sum(sums, add, (rows, columns), image.dtype)
        at = (part * taps.places + places[:, None]) * features + chosen
        triton.store(out.at[at], total.astype(dtype), mask=_inside(places, taps.places, chosen, features))

    grid = (parts, pl.cdiv(taps.places, rows), pl.cdiv(features, columns))
    dtype = image.dtype if parts == 1 else _wide(image.dtype)
    shape = jax.ShapeDtypeStruct((parts * taps.places * features,), dtype)
    return _call(body, grid, shape, image, grad).reshape(parts, *geometry.kernel).sum(0, dtype=image.dtype)


def _taps(geometry: Geometry) -> Taps:
    low = (geometry.padding[0][0], geometry.padding[1][0])
    return Taps(geometry.image, geometry.kernel[:2], geometry.out, geometry.strides, low, (1, 1))  # type: ignore[arg-type]


def _convolve(
    taps: Taps, kernel: tuple[int, ...], turned: bool, precision: Any, image: jax.Array, weights: jax.Array
) -> jax.Array:
    """The unfolded image times the kernel [kh, kw, C, F], or times the kernel turned [kh, kw, F, C]; flat."""
    inputs, features = kernel[2:]
    outputs = inputs if turned else features
    rows, columns, depth = _tile(taps.windows, ROWS), _tile(outputs, COLUMNS), _tile(taps.places, DEPTH)

    def body(pixels: Any, weights: Any, out: Any) -> None:
        windows, chosen = _block(0, rows), _block(1, columns)

        def add(n: jax.Array, total: jax.Array) -> jax.Array:
            places = n * depth + lax.iota(jnp.int32, depth)
            tap, channel = (a[:, None] for a in _divided(places, taps.image[3]))
            if turned:
                at = ((math.prod(taps.size) - 1 - tap) * inputs + chosen) * features + channel
            else:
                at = (tap * inputs + channel) * features + chosen
            inside = _inside(places, taps.places, chosen, outputs)
            factor = triton.load(weights.at[at], mask=inside, other=0.0)
            return total + _dot(taps.gather(pixels, windows, places), factor, precision)

        total = _sum(pl.cdiv(taps.places, depth), add, (rows, columns), image.dtype)
        inside = _inside(windows, taps.windows, chosen, outputs)
        triton.store(out.at[windows[:, None] * outputs + chosen], total.astype(image.dtype), mask=inside)

    grid = (pl.cdiv(taps.windows, rows), pl.cdiv(outputs, columns))
    return _call(body, grid, jax.ShapeDtypeStruct((taps.windows * outputs,), image.dtype), image, weights)


def _call(
    body: Callable[..., None], grid: tuple[int, ...], shape: jax.ShapeDtypeStruct, *arrays: jax.Array
) -> jax.Array:
    """The kernel over flat arrays, compiled for CUDA, interpreted elsewhere."""
    compiler = triton.CompilerParams(WARPS, STAGES)
    compiled = pl.pallas_call(body, shape, grid=grid, compiler_params=compiler)
    interpreted = pl.pallas_call(body, shape, grid=grid, interpret=True)
    return lax.platform_dependent(*(a.ravel() for a in arrays), cuda=compiled, default=interpreted)


def _sum(count: int, add: Callable[..., jax.Array], shape: tuple[int, int], dtype: Any) -> jax.Array:
    return lax.fori_loop(jnp.int32(0), jnp.int32(count), add, jnp.zeros(shape, _wide(dtype)))


def _wide(dtype: Any) -> Any:
    """What sums are kept in."""
    return jnp.promote_types(dtype, jnp.float32)


def _dot(a: jax.Array, b: jax.Array, precision: Any) -> jax.Array:
    return jnp.dot(a, b, precision=precision, preferred_element_type=_wide(a.dtype))


def _tile(size: int, most: int) -> int:
    """A power of two that covers `size` or is the largest to be taken."""
    return min(most, max(LEAST, pl.next_power_of_2(size)))


def _block(axis: int, size: int) -> jax.Array:
    """The indices along one axis of the output that this program computes."""
    return pl.program_id(axis) * size + lax.iota(jnp.int32, size)


def _divided(a: jax.Array, by: int) -> tuple[jax.Array, jax.Array]:
    """Quotient and rest, rounded towards zero: no branches for signs."""
    divisor = jnp.full_like(a, by)
    return lax.div(a, divisor), lax.rem(a, divisor)


def _inside(rows: jax.Array, height: int, columns: jax.Array, width: int) -> jax.Array:
    return (rows < height)[:, None] & (columns < width)[None, :]
