"""What a network is to this project: a family of functions of its widths, with flat variables."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax

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
        images: jax.Array,
        *,
        train: bool,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Logits [B, classes] of images [B, ...] and the new statistics; `key` drives dropout (None: no dropout)."""


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
