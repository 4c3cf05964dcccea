"""The ways in which lanes' convolutions are computed, by name; which of them is fastest, a device has to say.

Under `vmap` with weights of its own for each lane, XLA has only a grouped convolution, which is slow on most devices.
The others here are batched matrix products of something unfolded, or shift, multiply and add; `fused` unfolds on the
chip. All give the same numbers but for the order in which floats are added. Letters: B images, H, W height and width, C
channels, F features, kh x kw the kernel; each function sees one lane.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from fednas_jax.config.schema import LoweringName
from fednas_jax.nets.computed_once import once
from fednas_jax.nets.geometry import Geometry

DEFAULT: LoweringName = "rows"
NHWC = ("NHWC", "HWIO", "NHWC")


class Lowering(NamedTuple):
    """One way to compute a convolution and both its gradients; of one lane, for `vmap` to batch."""

    claims: Callable[[Geometry], bool]  # whether it can compute this convolution
    forward: Callable[[Geometry, jax.Array, jax.Array], jax.Array]  # of image and kernel
    to_image: Callable[[Geometry, jax.Array, jax.Array], jax.Array]  # of the output's gradient and the kernel
    to_kernel: Callable[[Geometry, jax.Array, jax.Array], jax.Array]  # of the output's gradient and the image
    platform: str | None = None  # of the only devices that it is made for


def using(name: str) -> AbstractContextManager[None]:
    """A context in which lanes' convolutions are traced with this lowering; jax's caches tell programs apart by it.

    Args:
      name: of LOWERINGS.

    Raises:
      KeyError: no lowering has this name.
    """
    LOWERINGS[name]
    return _USED(name)


def in_use() -> str:
    """The name of the lowering in whose context this is called."""
    return str(_USED.value)


def offered(platform: str) -> tuple[str, ...]:
    """The names of those that devices of a platform ('cpu', 'gpu', 'tpu') can use."""
    return tuple(name for name, lowering in LOWERINGS.items() if lowering.platform in (None, platform))


def lowering_of(geometry: Geometry) -> str:
    """The lowering in use where it claims this convolution; else the fastest on a CPU of those that do."""
    return next(name for name in (in_use(), DEFAULT, "shifts", "grouped") if LOWERINGS[name].claims(geometry))


_USED: Any = jax.make_user_context(DEFAULT)


def library(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """lax's own convolution."""
    return lax.conv_general_dilated(
        image,
        kernel,
        geometry.strides,
        geometry.padding,
        dimension_numbers=NHWC,
        feature_group_count=geometry.groups,
        precision=geometry.precision,
    )


def library_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    """lax's gradient by the image."""
    image = jax.ShapeDtypeStruct(geometry.image, grad.dtype)
    return jax.linear_transpose(lambda x: library(geometry, x, kernel), image)(grad)[0]


def library_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    """lax's gradient by the kernel."""
    kernel = jax.ShapeDtypeStruct(geometry.kernel, grad.dtype)
    return jax.linear_transpose(lambda k: library(geometry, image, k), kernel)(grad)[0]


def _patches(geometry: Geometry, image: jax.Array) -> jax.Array:
    """im2col: [B x H' x W', kh x kw x C]."""
    (kh, kw), (above, beside), (down, across) = geometry.kernel[:2], geometry.padding, geometry.strides
    columns = _unfold(_unfold(image, 2, kw, beside, across), 1, kh, above, down)
    return columns.reshape(-1, columns.shape[-1])


def _dot(geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.dot(a, b, precision=geometry.precision)


def _dot_rows(geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    """a^T b: sums over the rows of both."""
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), precision=geometry.precision)


def by_rows(geometry: Geometry) -> bool:
    """Whether to unfold the image along its width alone and to sum kernel rows after the product.

    Each pixel is copied kw times instead of kh x kw times, and the product's output is kh times as wide: memory
    traffic, which is what a small convolution costs, is the smaller of the two. A stride in height would throw most of
    that output away.
    """
    kh, kw, channels, features = geometry.kernel
    return geometry.strides[0] == 1 and kw * channels + kh * features < kh * kw * channels


def _unfold(image: jax.Array, axis: int, size: int, padding: tuple[int, int], stride: int = 1) -> jax.Array:
    """For each window along one axis its `size` pixels, beside each other in the channels: [B, ., ., size x C]."""
    pads = [(0, 0)] * 4
    pads[axis] = padding
    padded = jnp.pad(image, pads)
    last = padded.shape[axis] - size
    parts = [lax.slice_in_dim(padded, n, n + last + 1, stride, axis) for n in range(size)]
    return jnp.concatenate(parts, axis=-1)


def _product(
    rows_pay: Callable[[Geometry], bool], geometry: Geometry, image: jax.Array, kernel: jax.Array
) -> jax.Array:
    (kh, kw, channels, features), (height, width) = geometry.kernel, geometry.out
    if not rows_pay(geometry):
        out = _dot(geometry, _patches(geometry, image), kernel.reshape(-1, features))
        return out.reshape(image.shape[0], height, width, features)
    turned = kernel.transpose(1, 2, 0, 3).reshape(kw * channels, kh * features)
    columns = _unfold(image, 2, kw, geometry.padding[1], geometry.strides[1])
    rows = _dot(geometry, columns.reshape(-1, kw * channels), turned).reshape(*image.shape[:2], width, kh, features)
    rows = jnp.pad(rows, ((0, 0), geometry.padding[0], (0, 0), (0, 0), (0, 0)))
    total = functools.reduce(jnp.add, [rows[:, i : i + height, :, i] for i in range(kh)])
    return once(total)


def _product_kernel(
    rows_pay: Callable[[Geometry], bool], geometry: Geometry, grad: jax.Array, image: jax.Array
) -> jax.Array:
    kh, kw, channels, features = geometry.kernel
    back = _back(geometry)
    if not rows_pay(geometry) or back is None:
        flat = _dot_rows(geometry, grad.reshape(-1, features), _patches(geometry, image))
        return flat.T.reshape(geometry.kernel)
    # Unfolded along the width as for the image's gradient, so that the two share it.
    columns = _unfold(grad, 2, kw, back[1]).reshape(-1, kw * features)
    rows = _unfold(image, 1, kh, geometry.padding[0]).reshape(-1, kh * channels)
    flat = _dot_rows(geometry, rows, columns).reshape(kh, channels, kw, features)
    return jnp.flip(flat.transpose(0, 2, 1, 3), 1)


def _back(geometry: Geometry) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Padding with which the gradient by the image is a convolution of the output's gradient; None where it isn't."""
    if geometry.strides != (1, 1):
        return None
    pads = [(k - 1 - lo, n + lo - o) for k, n, o, (lo, _) in _sides(geometry)]
    return tuple(pads) if min(min(p) for p in pads) >= 0 else None  # type: ignore[return-value]


def _product_image(
    rows_pay: Callable[[Geometry], bool], geometry: Geometry, grad: jax.Array, kernel: jax.Array
) -> jax.Array:
    back = _back(geometry)
    if back is not None:  # a convolution too, with the kernel turned round
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        turned_geometry = Geometry(grad.shape, turned.shape, (1, 1), back, 1, geometry.precision)
        return _product(rows_pay, turned_geometry, grad, turned)
    columns = _dot(geometry, grad.reshape(-1, geometry.kernel[3]), kernel.reshape(-1, geometry.kernel[3]).T)
    columns = columns.reshape(*grad.shape[:3], *geometry.kernel[:3])
    return geometry.windows.scatter(lambda i, j: columns[:, :, :, i, j, :])


def _sides(geometry: Geometry) -> list[tuple[int, int, int, tuple[int, int]]]:
    """For height and width: kernel, image and output size, and padding."""
    return list(zip(geometry.kernel[:2], geometry.image[1:3], geometry.out, geometry.padding, strict=True))


def _multiplier(geometry: Geometry) -> int:
    return geometry.kernel[3] // geometry.image[3]


def _depthwise(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Output channel c x m + r is input channel c with kernel c x m + r, as in lax."""
    windows, many = geometry.windows, _multiplier(geometry)
    padded = windows.pad(image)
    parts = (jnp.repeat(windows.see(padded, i, j), many, axis=-1) * kernel[i, j, 0] for i, j in windows.places)
    return functools.reduce(jnp.add, parts)


def _depthwise_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    windows, many = geometry.windows, _multiplier(geometry)
    padded = windows.pad(image)
    sums = [
        jnp.sum(jnp.repeat(windows.see(padded, i, j), many, axis=-1) * grad, axis=(0, 1, 2)) for i, j in windows.places
    ]
    return jnp.stack(sums).reshape(geometry.kernel)


def _depthwise_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    shape = (*grad.shape[:3], geometry.image[3], _multiplier(geometry))
    return geometry.windows.scatter(lambda i, j: (grad * kernel[i, j, 0]).reshape(shape).sum(-1))


def _shifted(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """The sum over the kernel's places of what each sees, times its weights."""
    if geometry.depthwise:
        return _depthwise(geometry, image, kernel)
    windows, features = geometry.windows, geometry.kernel[3]
    padded = windows.pad(image)
    parts = (_dot(geometry, _flat(windows.see(padded, i, j)), kernel[i, j]) for i, j in windows.places)
    return functools.reduce(jnp.add, parts).reshape(geometry.image[0], *geometry.out, features)


def _shifted_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    if geometry.depthwise:
        return _depthwise_image(geometry, grad, kernel)
    shape = (*grad.shape[:3], geometry.image[3])
    return geometry.windows.scatter(lambda i, j: _dot(geometry, _flat(grad), kernel[i, j].T).reshape(shape))


def _shifted_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    if geometry.depthwise:
        return _depthwise_kernel(geometry, grad, image)
    windows = geometry.windows
    padded = windows.pad(image)
    parts = [_dot_rows(geometry, _flat(windows.see(padded, i, j)), _flat(grad)) for i, j in windows.places]
    return jnp.stack(parts).reshape(geometry.kernel)


def _flat(pixels: jax.Array) -> jax.Array:
    """[B, H, W, C] as [B x H x W, C]."""
    return pixels.reshape(-1, pixels.shape[-1])


def _dense(geometry: Geometry) -> bool:
    return geometry.groups == 1


def _unfolding(rows_pay: Callable[[Geometry], bool]) -> Lowering:
    """Products of the unfolded image: along its width where rows pay, in full elsewhere."""
    forward, to_image, to_kernel = (functools.partial(f, rows_pay) for f in (_product, _product_image, _product_kernel))
    return Lowering(_dense, forward, to_image, to_kernel)


def _spatial(geometry: Geometry) -> bool:
    """Whether there is anything to unfold."""
    return geometry.groups == 1 and geometry.kernel[:2] != (1, 1)


def _fused(way: str) -> Callable[[Geometry, jax.Array, jax.Array], jax.Array]:
    def kernel(geometry: Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
        # Pallas is experimental, its Triton backend deprecated since jax 0.11: nobody else shall depend on it.
        return getattr(importlib.import_module("fednas_jax.nets.fused"), way)(geometry, a, b)

    return kernel


# What each moves and computes stands in docs/performance.md. All but fused are made of what XLA has on every platform.
LOWERINGS: dict[str, Lowering] = {
    "rows": _unfolding(by_rows),
    "patches": _unfolding(lambda geometry: False),
    "shifts": Lowering(lambda g: g.groups == 1 or g.depthwise, _shifted, _shifted_image, _shifted_kernel),
    "grouped": Lowering(lambda geometry: True, library, library_image, library_kernel),
    "fused": Lowering(_spatial, _fused("forward"), _fused("to_image"), _fused("to_kernel"), platform="gpu"),
}
