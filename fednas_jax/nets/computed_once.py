"""Keeps XLA from computing a value again in each of its consumers, and says what comes first."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def once(value: jax.Array) -> jax.Array:
    """The same value, computed once and stored.

    On a CPU, XLA fuses sums and selections into every consumer, and so computes them over and over; it does so even
    across `optimization_barrier`. What ends in a division of arrays is not repeated, since divisions are dear. The
    divisor here is 1 everywhere, but only when the program runs is that known.

    Args:
      value: [...] float.
    """
    return value / jnp.maximum(jnp.abs(jnp.sign(value)), 1)


def after(first: jax.Array, value: jax.Array) -> jax.Array:
    """The same value, which XLA computes nothing of before it has the other.

    Weights can be updated where they lie only if all that reads them is known to come before; else XLA copies all of
    them in each step. An `optimization_barrier` would say so, but is removed on a CPU before copies are thought of.

    Args:
      first: [...] float, of at least one element; of an infinity or NaN in it, nothing comes into the result.
      value: [...] float.
    """
    never = jnp.sign(first.ravel()[0]) > 1  # false, for NaN too; XLA knows the bounds of `abs`, but not of `sign`
    return value + never.astype(value.dtype)
