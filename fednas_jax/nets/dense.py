"""The dense layer's product, whose weight gradient comes out in the weights' own layout.

jax's own gradient of `x @ w` is a product in the transposed layout; on a CPU the transpose and the copies that it
brings cost more than the product.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from fednas_jax.nets.computed_once import after


def dot_general(
    lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, precision: Any = None, **others: Any
) -> jax.Array:
    """Takes the place of `jax.lax.dot_general` in `nnx.Linear` and `linen.Dense`; equal to it, gradients included.

    Args:
      lhs: inputs [..., n].
      rhs: weights [n, m].
      dimension_numbers: those of a dense layer; any others are lax's affair.
      precision: as for lax.
      **others: as for lax.

    Returns:
      [..., m].
    """
    (left, right), (left_batch, right_batch) = dimension_numbers
    dense = rhs.ndim == 2 and lhs.ndim > 1 and tuple(left) == (lhs.ndim - 1,) and tuple(right) == (0,)
    if not dense or left_batch or right_batch or any(value is not None for value in others.values()):
        return lax.dot_general(lhs, rhs, dimension_numbers, precision=precision, **others)
    flat = _dense(precision)(lhs.reshape(-1, lhs.shape[-1]), rhs)
    return flat.reshape(*lhs.shape[:-1], rhs.shape[1])


class _Wanted(NamedTuple):
    """Says, as a tree without leaves, that inputs have a gradient."""


@functools.lru_cache(maxsize=16)
def _dense(precision: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def product(a: jax.Array, b: jax.Array, over_a: int, over_b: int) -> jax.Array:
        return lax.dot_general(a, b, (((over_a,), (over_b,)), ((), ())), precision=precision)

    @jax.custom_vjp
    def dense(inputs: jax.Array, weights: jax.Array) -> jax.Array:
        return product(inputs, weights, 1, 0)

    def forward(inputs: Any, weights: Any) -> Any:
        saved = inputs.value, weights.value, _Wanted() if inputs.perturbed else None
        return product(*saved[:2], 1, 0), saved

    def backward(saved: Any, grad: jax.Array) -> Any:
        inputs, weights, wanted = saved
        if wanted is None:  # of a first layer nobody computes the gradient to its input
            return None, product(inputs, grad, 0, 0)
        to_inputs = product(grad, weights, 1, 1)
        # Last, since weights can be updated where they lie only once nobody reads them any more.
        return to_inputs, product(inputs, after(to_inputs, grad), 0, 0)

    dense.defvjp(forward, backward, symbolic_zeros=True)
    return dense
