"""Smaller updates: what a client does to its update before it sends it, and how many bytes are left.

Parameters alone are compressed; BatchNorm's statistics are few, and a variance that rounding makes negative is none.
There is no memory of what was left out (error feedback): a client of a federation of phones may never come again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fednas_jax.config.schema import TrainConfig
from fednas_jax.space.masks import Space

VALUE, INDEX, SCALE = 4, 4, 4  # bytes of a float32, of the number of an entry, of a variable's scale


def compress(config: TrainConfig, update: dict[str, Any]) -> dict[str, Any]:
    """The update of the parameters as the server gets to see it.

    Args:
      config: `int8` rounds each variable to 255 steps between its largest absolute values; `topk` keeps
        `compression_keep` of the entries, those that are largest in all variables together, and zeros the others.
      update: path -> array. Entries that a mask removed are exactly zero: they stay so, and do not count.
    """
    if config.compression == "int8":
        return jax.tree.map(_rounded, update)
    if config.compression == "topk":
        flat, unflatten = ravel_pytree(update)
        # What is no number is the largest, so that it is sent: else half an update would hide that its client diverged.
        size = jnp.where(jnp.isnan(flat), jnp.inf, jnp.abs(flat))
        # Rounded down here and up in `upload_bytes`: float32 may err, but never sends more than is charged.
        kept = jnp.maximum(1, jnp.floor(config.compression_keep * jnp.sum(size > 0))).astype(jnp.int32)
        rank = jnp.zeros(len(flat), jnp.int32).at[jnp.argsort(-size)].set(jnp.arange(len(flat), dtype=jnp.int32))
        return unflatten(jnp.where(rank < kept, flat, 0))
    return update


def _rounded(values: jax.Array) -> jax.Array:
    """To whole multiples of a 127th of the largest absolute value."""
    scale = jnp.max(jnp.abs(values)) / 127
    return jnp.round(values / jnp.where(scale > 0, scale, 1)) * scale


def upload_bytes(config: TrainConfig, space: Space) -> Callable[[Any], Any]:
    """Bytes of an update of a candidate, as a function of its widths [..., G]; jittable, see `CostTable`.

    Statistics, and without compression parameters too, are sent as they are. `int8` sends a byte for each parameter and
    a scale for each variable; `topk` a value and a number for each entry kept.
    """
    variables = len(space.network.abstract(space.widths).params)

    def count(widths: Any) -> Any:
        whole, params = space.size(widths), space.params(widths)
        if config.compression == "none":
            return whole
        statistics = whole - VALUE * params
        if config.compression == "int8":
            return statistics + params + SCALE * variables
        if isinstance(params, jax.Array):
            return statistics + (VALUE + INDEX) * jnp.ceil(config.compression_keep * params).astype(whole.dtype)
        return statistics + (VALUE + INDEX) * np.ceil(config.compression_keep * params).astype(np.int64)

    return count
