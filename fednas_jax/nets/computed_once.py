"""Keeps XLA from computing a value again in each of its consumers."""

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
