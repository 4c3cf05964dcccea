"""Convolutions that stay fast when every lane has its own weights.

`conv_general_dilated` takes lax's place in `nnx.Conv` and `linen.Conv`. It is lax's convolution where the weights are
shared. Under `vmap` with weights of its own for each lane, where XLA would fall into a slow grouped convolution, it is
patches (im2col) and one batched matrix product instead; depthwise kernels become shift, multiply and add.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from fednas_jax.errors import NetworkError
from fednas_jax.nets.computed_once import once
from fednas_jax.nets.windows import Windows

NHWC = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
    """All that is static about a convolution; images are [B, H, W, C], kernels [kh, kw, C / groups, F]."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    groups: int
    precision: Any

    @property
    def windows(self) -> Windows:
        """The windows that the kernel is applied to."""
        return Windows(self.image, self.kernel[:2], self.strides, self.padding)  # type: ignore[arg-type]

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.windows.out


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
    out_sharding: Any = None,
    **unused: Any,
) -> jax.Array:
    """A two-dimensional convolution with the arguments of `jax.lax.conv_general_dilated`.

    Args:
      lhs: images [B, H, W, C].
      rhs: kernel [kh, kw, C / feature_group_count, F].
      window_strides: strides of height and width.
      padding: 'SAME', 'VALID' or ((low, high), (low, high)).
      lhs_dilation: 1 in each direction, or None.
      rhs_dilation: 1 in each direction, or None.
      dimension_numbers: flax's NHWC, HWIO, NHWC.
      feature_group_count: groups of channels; C makes it depthwise.
      precision: as for `jax.lax.dot_general`.
      out_sharding: None; lanes are sharded outside.

    Returns:
      [B, H', W', F].

    Raises:
      NetworkError: for a dilated convolution or one that is not two-dimensional.
    """
    if any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ()))):
        got = f"got lhs_dilation={lhs_dilation}, rhs_dilation={rhs_dilation}"
        raise NetworkError(f"convolution: {got}, want 1: dilated convolutions have no fast lowering here")
    if lhs.ndim != 4 or rhs.ndim != 4:
        raise NetworkError(f"convolution: got images of {lhs.ndim} dimensions, want 4: batch, height, width, channels")
    if unused or out_sharding is not None:
        raise NetworkError(f"convolution: got {sorted(unused) or 'out_sharding'}, want no such argument")
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(lo), int(hi)) for lo, hi in padding)
    geometry = Geometry(lhs.shape, rhs.shape, strides, pads, feature_group_count, precision)  # type: ignore[arg-type]
    return _convolution(geometry)(lhs, rhs)


@functools.lru_cache(maxsize=512)
def _convolution(geometry: Geometry) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The convolution of one geometry with a gradient of its own; each of the three maps sees what is batched."""

    def plain(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            image,
            kernel,
            geometry.strides,
            geometry.padding,
            dimension_numbers=NHWC,
            feature_group_count=geometry.groups,
            precision=geometry.precision,
        )

    def plain_image(grad: jax.Array, kernel: jax.Array) -> jax.Array:
        image = jax.ShapeDtypeStruct(geometry.image, grad.dtype)
        return jax.linear_transpose(lambda x: plain(x, kernel), image)(grad)[0]

    def plain_kernel(grad: jax.Array, image: jax.Array) -> jax.Array:
        kernel = jax.ShapeDtypeStruct(geometry.kernel, grad.dtype)
        return jax.linear_transpose(lambda k: plain(image, k), kernel)(grad)[0]

    depthwise = geometry.groups == geometry.image[3] and geometry.kernel[2] == 1
    if geometry.groups == 1:
        forward, to_image, to_kernel = _product, _product_image, _product_kernel
    elif depthwise:
        forward, to_image, to_kernel = _shifted, _shifted_image, _shifted_kernel
    else:
        return plain  # grouped, neither dense nor depthwise: lax knows best
    conv = _by_batching(plain, functools.partial(forward, geometry), 1)
    image_grad = _by_batching(plain_image, functools.partial(to_image, geometry), 1)
    kernel_grad = _by_batching(plain_kernel, functools.partial(to_kernel, geometry), None)

    @jax.custom_vjp
    def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv(image, kernel)

    def fwd(image: jax.Array, kernel: jax.Array) -> Any:
        return conv(image, kernel), (image, kernel)

    def bwd(saved: Any, grad: jax.Array) -> Any:
        image, kernel = saved
        return image_grad(grad, kernel), kernel_grad(grad, image)

    convolve.defvjp(fwd, bwd)
    return convolve


def _by_batching(plain: Callable[..., Any], lanes: Callable[..., Any], shared: int | None) -> Callable[..., Any]:
    """`plain`, except under vmap: then `lanes`, unless argument number `shared` (the kernel) has no lanes."""

    @custom_vmap
    def chosen(a: jax.Array, b: jax.Array) -> jax.Array:
        return plain(a, b)

    @chosen.def_vmap
    def rule(axis_size: int, in_batched: Sequence[bool], a: jax.Array, b: jax.Array) -> tuple[jax.Array, bool]:
        del axis_size
        axes = tuple(0 if batched else None for batched in in_batched)
        keeps_lax = shared is not None and not in_batched[shared]
        return jax.vmap(plain if keeps_lax else lanes, in_axes=axes)(a, b), True

    return chosen


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


def _by_rows(geometry: Geometry) -> bool:
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


def _product(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    (kh, kw, channels, features), (height, width) = geometry.kernel, geometry.out
    if not _by_rows(geometry):
        out = _dot(geometry, _patches(geometry, image), kernel.reshape(-1, features))
        return out.reshape(image.shape[0], height, width, features)
    turned = kernel.transpose(1, 2, 0, 3).reshape(kw * channels, kh * features)
    columns = _unfold(image, 2, kw, geometry.padding[1], geometry.strides[1])
    rows = _dot(geometry, columns.reshape(-1, kw * channels), turned).reshape(*image.shape[:2], width, kh, features)
    rows = jnp.pad(rows, ((0, 0), geometry.padding[0], (0, 0), (0, 0), (0, 0)))
    total = functools.reduce(jnp.add, [rows[:, i : i + height, :, i] for i in range(kh)])
    return once(total)


def _product_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    kh, kw, channels, features = geometry.kernel
    back = _back(geometry)
    if not _by_rows(geometry) or back is None:
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


def _product_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    back = _back(geometry)
    if back is not None:  # a convolution too, with the kernel turned round
        turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return _product(Geometry(grad.shape, turned.shape, (1, 1), back, 1, geometry.precision), grad, turned)
    columns = _dot(geometry, grad.reshape(-1, geometry.kernel[3]), kernel.reshape(-1, geometry.kernel[3]).T)
    columns = columns.reshape(*grad.shape[:3], *geometry.kernel[:3])
    return geometry.windows.scatter(lambda i, j: columns[:, :, :, i, j, :])


def _sides(geometry: Geometry) -> list[tuple[int, int, int, tuple[int, int]]]:
    """For height and width: kernel, image and output size, and padding."""
    return list(zip(geometry.kernel[:2], geometry.image[1:3], geometry.out, geometry.padding, strict=True))


def _multiplier(geometry: Geometry) -> int:
    return geometry.kernel[3] // geometry.image[3]


def _shifted(geometry: Geometry, image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise: output channel c x m + r is input channel c with kernel c x m + r, as in lax."""
    windows, many = geometry.windows, _multiplier(geometry)
    padded = windows.pad(image)
    parts = (jnp.repeat(windows.see(padded, i, j), many, axis=-1) * kernel[i, j, 0] for i, j in windows.places)
    return functools.reduce(jnp.add, parts)


def _shifted_kernel(geometry: Geometry, grad: jax.Array, image: jax.Array) -> jax.Array:
    windows, many = geometry.windows, _multiplier(geometry)
    padded = windows.pad(image)
    sums = [
        jnp.sum(jnp.repeat(windows.see(padded, i, j), many, axis=-1) * grad, axis=(0, 1, 2)) for i, j in windows.places
    ]
    return jnp.stack(sums).reshape(geometry.kernel)


def _shifted_image(geometry: Geometry, grad: jax.Array, kernel: jax.Array) -> jax.Array:
    shape = (*grad.shape[:3], geometry.image[3], _multiplier(geometry))
    return geometry.windows.scatter(lambda i, j: (grad * kernel[i, j, 0]).reshape(shape).sum(-1))
