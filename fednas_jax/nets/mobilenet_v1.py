"""MobileNetV1 (arXiv 1704.04861): depthwise separable convolutions.

At 224x224x3 and 1,000 classes: 569 M multiply-accumulates and 4.2 M parameters, as in the paper's table 8.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.space.network import Network

# Output channels and stride of each depthwise separable block, table 1 of the paper.
BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
WIDTHS = {"stem": 32} | {f"block{n}": width for n, (width, _) in enumerate(BLOCKS, 1)}
SHALLOW = {"stem": 8, "block1": 8, "block2": 8}  # every kind of block once


class MobileNetV1(nnx.Module):
    """The stem, depthwise separable blocks (thirteen, as published), global average pooling, the classifier."""

    def __init__(
        self,
        widths: Mapping[str, int],
        channels: int,
        classes: int,
        stem_stride: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        layer = functools.partial(ConvNorm, rngs=rngs, norm=norm, activation=nnx.relu6)
        self.stem = layer(channels, widths["stem"], 3, stride=stem_stride)
        depthwise, pointwise, width_in = [], [], widths["stem"]
        for n, (_, stride) in enumerate(BLOCKS[: len(widths) - 1], 1):
            width = widths[f"block{n}"]
            depthwise.append(layer(width_in, width_in, 3, stride=stride, groups=width_in))
            pointwise.append(layer(width_in, width, 1))
            width_in = width
        self.depthwise, self.pointwise = nnx.List(depthwise), nnx.List(pointwise)
        self.classifier = nnx.Linear(width_in, classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.stem(images)
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            x = pointwise(depthwise(x))
        return self.classifier(self.dropout(jnp.mean(x, axis=(1, 2))))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of any size; published with BatchNorm, and here without dropout."""
    norm, dropout = norm_of(config, "batch"), dropout_of(config, 0.0)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return MobileNetV1(w, shape[-1], classes, config.stem_stride, norm, dropout, rngs)

    return from_nnx("mobilenet_v1", make, widths, shape, dict.fromkeys(widths, norm.block))
