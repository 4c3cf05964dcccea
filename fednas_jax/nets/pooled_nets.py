"""Networks of convolutions and max pooling with dense layers on top: what vgg and celeba_cnn have in common."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from flax import nnx

from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm
from fednas_jax.nets.pool import max_pool, mean_pool_to
from fednas_jax.space.network import Network


class Plan(NamedTuple):
    """Which layers there are; convolutions are 3x3, and each layer is a width group."""

    name: str
    convolutions: tuple[tuple[str, bool], ...]  # width group, and whether a 2x2 max pooling follows
    dense: tuple[str, ...]  # width groups
    parts: int  # the last images are averaged down to parts x parts, where they are larger


class Pooled(nnx.Module):
    """Convolutions with normalisation and ReLU, 2x2 max pooling, dense layers with ReLU and dropout, the classifier.

    Pooling stops where a side has one pixel left, so that images of any size will do.
    """

    def __init__(
        self,
        plan: Plan,
        widths: Mapping[str, int],
        shape: tuple[int, ...],
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.plan = plan
        height, width, width_in = shape
        convolutions = []
        for group, pools in plan.convolutions:
            # relu after pooling is relu before it, on a quarter of the pixels.
            convolutions.append(
                ConvNorm(width_in, widths[group], 3, rngs, norm=norm, activation=nnx.identity if pools else nnx.relu)
            )
            width_in = widths[group]
            if pools and min(height, width) > 1:
                height, width = height // 2, width // 2
        width_in *= min(height, plan.parts) * min(width, plan.parts)
        dense = []
        for group in plan.dense:
            dense.append(nnx.Linear(width_in, widths[group], rngs=rngs))
            width_in = widths[group]
        self.convolutions, self.dense = nnx.List(convolutions), nnx.List(dense)
        self.dropouts = nnx.List(nnx.Dropout(dropout, rngs=rngs) for _ in plan.dense)
        self.classifier = nnx.Linear(width_in, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = images
        for convolution, (_, pools) in zip(self.convolutions, self.plan.convolutions, strict=True):
            x = convolution(x)
            if pools:
                x = nnx.relu(max_pool(x) if min(x.shape[1:3]) > 1 else x)
        x = mean_pool_to(x, self.plan.parts)
        x = x.reshape(x.shape[0], -1)
        for dense, dropout in zip(self.dense, self.dropouts, strict=True):
            x = dropout(nnx.relu(dense(x)))
        return self.classifier(x)


def pooled(
    plan: Plan, widths: Mapping[str, int], shape: tuple[int, ...], classes: int, norm: Norm, dropout: float
) -> Network:
    """The network of a plan."""
    blocks = {group: norm.block for group, _ in plan.convolutions}

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return Pooled(plan, w, shape, classes, norm, dropout, rngs)

    return from_nnx(plan.name, make, widths, shape, blocks)
