"""What a network is to this project: a family of functions of its widths, with flat variables."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Widths = tuple[int, ...]  # [G], in the order of Network.widths


# A program that runs once is not worth the compiler's best efforts.
RUN_ONCE = {"xla_backend_optimization_level": 0}


class Variables(NamedTuple):
    """A network's variables, flat: path -> array, such as 'conv1/kernel' -> [5, 5, 1, 32]."""

    params: dict[str, Any]
    stats: dict[str, Any]  # BatchNorm's running mean and variance


class Network(Protocol):
    """A family of networks, one for each choice of widths; `nets.adapters` makes one from flax modules."""

    name: str
    widths: dict[str, int]  # the parent's width of each group, by name
    input_shape: tuple[int, ...]  # one example, without the batch
    blocks: dict[str, int]  # groups whose channels leave in aligned blocks of so many, all at once; the others: 1
    removable: frozenset[str]  # groups whose width may be 0: their block is then left out
    counted: frozenset[str]  # groups that lose one at a time where `net.multiple` is one number, as attention heads do
    tokens: int  # of how many different token ids, int32, an example consists; 0: of numbers, float32

    def __hash__(self) -> int:
        """As an object: what was traced and followed is kept by network and widths."""

    def abstract(self, widths: Widths) -> Variables:
        """Shapes and dtypes of the variables at these widths; nothing is allocated."""

    def init(self, widths: Widths, key: jax.Array) -> Variables:
        """Freshly initialised variables."""

    def apply(
        self,
        widths: Widths,
        variables: Variables,
        inputs: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [B, classes], or [B, T, classes] where every position has a label, and the new statistics.

        `inputs` are [B, ...]; `key` drives dropout (None: no dropout).
        """


def inputs_of(network: Network, batch: int) -> jax.ShapeDtypeStruct:
    """Shape and type of a batch as the network takes it."""
    dtype = jnp.int32 if _tokens(network) else jnp.float32
    return jax.ShapeDtypeStruct((batch, *network.input_shape), dtype)


def random_inputs(network: Network, batch: int, seed: int) -> np.ndarray:
    """A batch [batch, ...] that is always the same: normal float32, or uniform token ids."""
    rng, form = np.random.default_rng(seed), inputs_of(network, batch)
    if tokens := _tokens(network):
        return rng.integers(0, tokens, form.shape, np.int32)
    return rng.normal(size=form.shape).astype(np.float32)


def _tokens(network: Network) -> int:
    return getattr(network, "tokens", 0)  # a network of the user's own may not say


class Dim(NamedTuple):
    """A dimension that carries a width group: its size is repeat x width, channel = index modulo width."""

    group: int
    repeat: int


class Segment(NamedTuple):
    """A part of a dimension: every channel of a group, or entries that no width changes."""

    group: int | None  # None: fixed entries
    copies: int  # neighbouring entries for each channel; of fixed ones, how many there are
    parts: int = 1  # the channels are cut into so many equal parts, which are dealt in turn, as a channel shuffle does
    # 0 parts: the channels are in an order that depends on the width; `wiring` tells it at given widths.


class Row(NamedTuple):
    """A dimension of several segments, all of them repeated: what concatenating, flattening and shuffling make."""

    segments: tuple[Segment, ...]
    repeat: int


Label = tuple[Dim | Row | None, ...]  # one entry for each dimension of a variable; None: the dimension is fixed
