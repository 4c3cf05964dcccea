"""Layers that several networks are made of: normalisation of the kind a config asks for, and ConvNorm."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from flax import nnx

from fednas_jax.config.schema import NetConfig


class Norm(NamedTuple):
    """Which normalisation follows a convolution.

    BatchNorm mixes examples and keeps running statistics, which federated averaging disturbs where clients differ;
    GroupNorm does neither (Hsieh et al. 2020, arXiv 1910.00189). Its groups have a fixed number of channels, so that
    a narrower network keeps the groups it has: channels then leave a whole group at a time.
    """

    kind: str = "batch"  # batch, group or none
    group_size: int = 8  # channels in a group of GroupNorm

    @property
    def block(self) -> int:
        """Channels that can leave only together: what `Network.blocks` says of a group that this normalises."""
        return self.group_size if self.kind == "group" else 1

    def make(self, width: int, rngs: nnx.Rngs) -> Callable[[jax.Array], jax.Array]:
        """The layer for `width` channels, a multiple of `group_size` where it is GroupNorm."""
        if self.kind == "group":
            return nnx.GroupNorm(width, num_groups=None, group_size=self.group_size, rngs=rngs)
        if self.kind == "none":
            return nnx.identity
        # 0.9, not flax's 0.99: a client's few steps must be enough for the running statistics to follow.
        return nnx.BatchNorm(width, momentum=0.9, rngs=rngs)


BATCH_NORM = Norm()


def norm_of(config: NetConfig, published: str) -> Norm:
    """The normalisation that a config asks for; `published` is the network's own: batch, group or none."""
    return Norm(config.norm or published, config.group_size)


def dropout_of(config: NetConfig, published: float) -> float:
    """The rate of dropout that a config asks for; `published` is the network's own."""
    return published if config.dropout is None else config.dropout


class ConvNorm(nnx.Module):
    """A convolution, without bias where a normalisation follows, that normalisation, and an activation.

    Padding is (size - 1) // 2 on every side unless given, as PyTorch's networks have it: at stride 2 SAME would differ.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        size: int,
        rngs: nnx.Rngs,
        *,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        norm: Norm = BATCH_NORM,
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
    ):
        pads = (size - 1) // 2 if padding is None else padding
        self.conv = nnx.Conv(
            width_in,
            width,
            (size, size),
            strides=stride,
            padding=((pads, pads), (pads, pads)),
            feature_group_count=groups,
            use_bias=norm.kind == "none",
            rngs=rngs,
        )
        self.norm = norm.make(width, rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H', W', width]."""
        return self.activation(self.norm(self.conv(x)))
