"""MobileNetV2 (arXiv 1801.04381): inverted residuals with linear bottlenecks.

At 224x224x3 and 1,000 classes: 300 M multiply-accumulates and 3.4 M parameters in the paper's table 4; 3,504,872
parameters counted with BatchNorm's, as torchvision's has.

Width groups: the stem, one for each stage, since its skips tie all outputs of its blocks, one for each block's
expansion, and the last convolution. The first block does not expand: its inner width is the stem's. Blocks with a skip,
which are all but the first of each stage, are removed when their expansion is 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import BATCH_NORM, ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.nets.residual import stages_of, unless_removed
from fednas_jax.space.network import Network

# Table 2 of the paper: output channels, blocks, and stride of the first block of each stage.
STAGES = [(16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)]
EXPANSION = 6  # inner width over input width, in all blocks but the first


def _widths(stages: list[tuple[int, int]], stem: int, last: int) -> dict[str, int]:
    """Width groups of stages (output channels, blocks); blocks are numbered as in the paper, from 1."""
    groups, block, width_in = {"stem": stem}, 0, stem
    for number, (width, count) in enumerate(stages, 1):
        groups[f"stage{number}"] = width
        for _ in range(count):
            block += 1
            if block > 1:
                groups[f"block{block}"] = EXPANSION * width_in
            width_in = width
    return groups | {"last": last}


WIDTHS = _widths([(width, count) for width, count, _ in STAGES], 32, 1280)
SHALLOW = _widths([(8, 1), (8, 2)], 8, 8)  # every kind of block once: for tests


class InvertedResidual(nnx.Module):
    """1x1 convolution to the inner width, 3x3 depthwise, linear 1x1 convolution; and a skip where sizes are equal."""

    def __init__(
        self,
        width_in: int,
        inner: int,
        width: int,
        stride: int,
        rngs: nnx.Rngs,
        *,
        expands: bool = True,
        skips: bool = False,
        norm: Norm = BATCH_NORM,
    ):
        self.skips, self.removed = skips, inner == 0
        if self.removed:
            return
        self.expand = ConvNorm(width_in, inner, 1, rngs, norm=norm, activation=nnx.relu6) if expands else nnx.identity
        self.depthwise = ConvNorm(inner, inner, 3, rngs, stride=stride, groups=inner, norm=norm, activation=nnx.relu6)
        self.project = ConvNorm(inner, width, 1, rngs, norm=norm, activation=nnx.identity)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H / stride, W / stride, width]."""
        if self.removed:
            return x
        branch = self.project(self.depthwise(self.expand(x)))
        return x + unless_removed(branch, self.depthwise.conv.kernel[...]) if self.skips else branch


class MobileNetV2(nnx.Module):
    """The stem, stages of inverted residuals, the last 1x1 convolution, global average pooling, the classifier."""

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
        self.stem = ConvNorm(channels, widths["stem"], 3, rngs, stride=stem_stride, norm=norm, activation=nnx.relu6)
        (width_in, _), *stages = stages_of(widths)
        blocks = [InvertedResidual(widths["stem"], widths["stem"], width_in, 1, rngs, expands=False, norm=norm)]
        for (width, inner), (_, _, stride) in zip(stages, STAGES[1:], strict=False):
            for n, expanded in enumerate(inner.values()):
                step = 1 if n else stride
                blocks.append(InvertedResidual(width_in, expanded, width, step, rngs, skips=n > 0, norm=norm))
                width_in = width
        self.blocks = nnx.List(blocks)
        self.last = ConvNorm(width_in, widths["last"], 1, rngs, norm=norm, activation=nnx.relu6)
        self.classifier = nnx.Linear(widths["last"], classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(jnp.mean(self.last(x), axis=(1, 2))))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network of a config; `stem_stride` 1 is for small images."""
    norm, dropout = norm_of(config, "batch"), dropout_of(config, 0.0)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return MobileNetV2(w, shape[-1], classes, config.stem_stride, norm, dropout, rngs)

    removable = [block for _, inner in stages_of(widths) for block in list(inner)[1:]]
    return from_nnx("mobilenet_v2", make, widths, shape, dict.fromkeys(widths, norm.block), removable)
