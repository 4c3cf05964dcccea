"""ShuffleNetV2 (arXiv 1807.11164): units that change one half of the channels and shuffle both halves.

At 224x224x3 and 1,000 classes 2,278,604 parameters, as torchvision's x1.0, and 144.9 M multiply-accumulates in
convolutions and products, of the 146 M that the paper's table 5 names.

Width groups: the stem; for each stage half of its channels, since a unit splits them in two; each unit's inner width;
and the last convolution. Which half a channel will be in, shuffle after shuffle, depends on the width, so that
candidates are sliced and not masked.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.nets.pool import max_pool
from fednas_jax.space.network import Network

# Table 5 of the paper: half of the channels of each stage, and its units.
STAGES = {2: (58, 4), 3: (116, 8), 4: (232, 4)}
SHALLOW_STAGES = {2: (8, 3)}  # shuffled twice before it is split: for tests


def _widths(stages: Mapping[int, tuple[int, int]], stem: int, last: int) -> dict[str, int]:
    widths = {"stem": stem}
    for stage, (half, count) in stages.items():
        widths |= {f"stage{stage}": half, **{f"stage{stage}_{n}": half for n in range(1, count + 1)}}
    return widths | {"last": last}


WIDTHS = _widths(STAGES, 24, 1024)
SHALLOW = _widths(SHALLOW_STAGES, 8, 8)


class Unit(nnx.Module):
    """One half stays, or is halved in size; the other goes through 1x1, 3x3 depthwise and 1x1; both are shuffled."""

    def __init__(self, width_in: int, inner: int, half: int, stride: int, norm: Norm, rngs: nnx.Rngs):
        self.halves = stride > 1
        changed = width_in if self.halves else half
        if self.halves:
            self.depthwise = ConvNorm(
                width_in, width_in, 3, rngs, stride=stride, groups=width_in, norm=norm, activation=nnx.identity
            )
            self.pointwise = ConvNorm(width_in, half, 1, rngs, norm=norm)
        self.first = ConvNorm(changed, inner, 1, rngs, norm=norm)
        self.middle = ConvNorm(inner, inner, 3, rngs, stride=stride, groups=inner, norm=norm, activation=nnx.identity)
        self.last = ConvNorm(inner, half, 1, rngs, norm=norm)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H / stride, W / stride, 2 x half]."""
        if self.halves:
            stays, changes = self.pointwise(self.depthwise(x)), x
        else:
            stays, changes = jnp.split(x, 2, axis=-1)
        both = jnp.stack([stays, self.last(self.middle(self.first(changes)))], axis=-1)
        return both.reshape(*both.shape[:3], -1)  # channels of the two in turn


class ShuffleNetV2(nnx.Module):
    """The stem, max pooling, the stages, the last 1x1 convolution, mean pooling, the classifier."""

    def __init__(
        self,
        widths: Mapping[str, int],
        stages: Mapping[int, int],
        stem_stride: int,
        channels: int,
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        self.stem = ConvNorm(channels, widths["stem"], 3, rngs, stride=stem_stride, norm=norm)
        width_in, units = widths["stem"], []
        for stage, count in stages.items():
            half = widths[f"stage{stage}"]
            for n in range(1, count + 1):
                units.append(Unit(width_in, widths[f"stage{stage}_{n}"], half, 2 if n == 1 else 1, norm, rngs))
                width_in = 2 * half
        self.units = nnx.List(units)
        self.last = ConvNorm(width_in, widths["last"], 1, rngs, norm=norm)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classifier = nnx.Linear(widths["last"], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.stem(images)
        x = max_pool(x, size=3, stride=2, padding=1) if min(x.shape[1:3]) > 1 else x
        for unit in self.units:
            x = unit(x)
        return self.classifier(self.dropout(jnp.mean(self.last(x), axis=(1, 2))))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network of a config; `stem_stride` 1 is for small images."""
    norm, dropout = norm_of(config, "batch"), dropout_of(config, 0.0)
    table = STAGES if len(widths) == len(WIDTHS) else SHALLOW_STAGES
    stages = {stage: count for stage, (_, count) in table.items()}

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return ShuffleNetV2(w, stages, config.stem_stride, shape[-1], classes, norm, dropout, rngs)

    return from_nnx("shufflenet_v2", make, widths, shape, dict.fromkeys(widths, norm.block))
