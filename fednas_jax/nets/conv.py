"""Convolutions that stay fast when every lane has its own weights.

`conv_general_dilated` takes lax's place in `nnx.Conv` and `linen.Conv`. It is lax's convolution where the weights are
shared. Under `vmap` with weights of its own for each lane it is what `lowerings.using` says: by default patches
(im2col) and one batched matrix product, or shift, multiply and add for depthwise kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from fednas_jax.nets.geometry import Geometry
from fednas_jax.nets.lowerings import DEFAULT, LOWERINGS, library, library_image, library_kernel, lowering_of, using

TOLERANCE = 0.03  # of the largest number, where lowerings are compared in the precision of training


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
    """A convolution with the arguments of `jax.lax.conv_general_dilated`, of which lax computes what is not fast here.

    Args:
      lhs: images [B, H, W, C], or sequences [B, T, C]; any others are lax's affair.
      rhs: kernel [kh, kw, C / feature_group_count, F], or [k, C / feature_group_count, F].
      window_strides: strides of height and width, or of time.
      padding: 'SAME', 'VALID' or ((low, high), (low, high)), of sequences one pair.
      lhs_dilation: 1 in each direction, or None; dilated convolutions are lax's affair.
      rhs_dilation: likewise.
      dimension_numbers: flax's NHWC, HWIO, NHWC.
      feature_group_count: groups of channels; C makes it depthwise.
      precision: as for `jax.lax.dot_general`.
      out_sharding: None; lanes are sharded outside.
      **unused: as for lax, whose affair they are.

    Returns:
      [B, H', W', F], or [B, T', F].
    """
    dilated = any(d != 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
    if dilated or lhs.ndim not in (3, 4) or out_sharding is not None or any(v is not None for v in unused.values()):
        sides = "DHW"[5 - lhs.ndim :]
        numbers = dimension_numbers or (f"N{sides}C", f"{sides}IO", f"N{sides}C")
        others = {"precision": precision, "out_sharding": out_sharding, **unused}
        return lax.conv_general_dilated(
            lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, numbers, feature_group_count, **others
        )
    if lhs.ndim == 3:  # a sequence is an image of one row
        pads = padding if isinstance(padding, str) else ((0, 0), *padding)
        groups = {"feature_group_count": feature_group_count, "precision": precision}
        return conv_general_dilated(lhs[:, None], rhs[None], (1, *window_strides), pads, **groups)[:, 0]
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    pads = tuple((int(lo), int(hi)) for lo, hi in padding)
    geometry = Geometry(lhs.shape, rhs.shape, strides, pads, feature_group_count, precision)  # type: ignore[arg-type]
    return _convolution(geometry, lowering_of(geometry))(lhs, rhs)


def agrees(lowering: str, device: jax.Device, dtype: Any = jnp.float32) -> bool:
    """Whether a device computes a small convolution and its gradients with a lowering as exactly with the default one.

    A kernel of our own is only as right as a young compiler makes it, and must not be taken for its speed before that.

    Args:
      lowering: of `LOWERINGS`; in the matrix-product precision of the context.
      device: the one to compute on.
      dtype: of images and kernels; the roundings of bfloat16 and TF32 pass.
    """
    rng = np.random.default_rng(0)
    shapes = ((2, 4, 9, 9, 8), (2, 5, 3, 8, 16))  # of two lanes; several tiles of a kernel, the last one not full
    arrays = [jax.device_put(rng.normal(size=shape).astype(dtype), device) for shape in shapes]

    def loss(image: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = conv_general_dilated(image, kernel, (1, 2), "SAME")
        return jnp.sum(out**2), out

    def computed(name: str, arrays: Sequence[jax.Array]) -> Any:
        with using(name):
            return jax.device_get(jax.jit(jax.vmap(jax.grad(loss, (0, 1), has_aux=True)))(*arrays))

    found = computed(lowering, arrays)
    with jax.default_matmul_precision("highest"):
        exact = computed(DEFAULT, [a.astype(jnp.float32) for a in arrays])
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return all(np.max(np.abs(a.astype(np.float32) - b)) <= TOLERANCE * np.max(np.abs(b)) for a, b in pairs)


@functools.lru_cache(maxsize=512)
def _convolution(geometry: Geometry, lowering: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The convolution of one geometry with a gradient of its own; each of the three maps sees what is batched."""
    if lowering == "grouped":  # jax's own rules, of batching and of gradients, say all that is to be said
        return functools.partial(library, geometry)
    ways = LOWERINGS[lowering]
    ours = (ways.forward, ways.to_image, ways.to_kernel)
    pairs = zip((library, library_image, library_kernel), ours, (1, 1, None), strict=True)
    conv, image_grad, kernel_grad = (
        _by_batching(functools.partial(plain, geometry), functools.partial(lanes, geometry), shared)
        for plain, lanes, shared in pairs
    )

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
