"""ResNets of basic blocks (He et al. 2016, arXiv 1512.03385), for small images and for those of ImageNet.

Small images (section 4.2), 32x32x3 and 10 classes: ResNet-20, -32 and -56 have 0.27, 0.46 and 0.85 M parameters and
41, 69 and 125 M multiply-accumulates; their shortcuts have no parameters (option A). ImageNet (table 1), 224x224x3 and
1,000 classes: ResNet-18 and -34 have 11,689,512 and 21,797,672 parameters, as torchvision's, and 1.81 and 3.66 G
multiply-accumulates, as torchvision states (1.82 and 3.67 where normalisation is counted too); their shortcuts are
projections where the size changes (option B).

Width groups: one for each stage, since its skips tie all outputs of its blocks, and one for each block between its two
convolutions. A block whose inner width is 0 is removed; its skip stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.nets.pool import max_pool
from fednas_jax.nets.residual import groups_of, stages_of, unless_removed
from fednas_jax.space.network import Network


def _widths(stages: tuple[int, ...], blocks: tuple[int, ...]) -> dict[str, int]:
    return groups_of((width, [width] * count) for width, count in zip(stages, blocks, strict=True))


RESNET20 = _widths((16, 32, 64), (3, 3, 3))
RESNET32 = _widths((16, 32, 64), (5, 5, 5))
RESNET56 = _widths((16, 32, 64), (9, 9, 9))
RESNET18 = _widths((64, 128, 256, 512), (2, 2, 2, 2))
RESNET34 = _widths((64, 128, 256, 512), (3, 4, 6, 3))
SHALLOW = _widths((8, 8), (1, 1))  # every kind of block once: for tests


class Numbered(nnx.Module):
    """Option A: every second pixel, and each channel goes on as the channel of the same number; others are zero.

    A removed channel takes its number along, so the numbers are variables: statistics, which nobody trains. A skip
    costs no multiplication, and counts none.
    """

    def __init__(self, width_in: int, width: int, stride: int):
        # From 1, since 0 is what a mask leaves.
        self.before = nnx.BatchStat(jnp.arange(1.0, 1.0 + width_in, dtype=jnp.float32))
        self.after = nnx.BatchStat(jnp.arange(1.0, 1.0 + width, dtype=jnp.float32))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H / stride, W / stride, width]."""
        before, after = self.before[...], self.after[...]
        # Half a number of room: they pass through the server's averages, which may round.
        same = (jnp.abs(before[:, None] - after) < 0.5) & (before[:, None] > 0.5)
        return jnp.sum(jnp.where(same, x[:, :: self.stride, :: self.stride, :, None], 0), axis=-2)


class Block(nnx.Module):
    """Two 3x3 convolutions beside a shortcut; with inner width 0 the shortcut alone."""

    def __init__(
        self,
        width_in: int,
        inner: int,
        width: int,
        stride: int,
        shortcut: Callable[[jax.Array], jax.Array],
        norm: Norm,
        rngs: nnx.Rngs,
    ):
        self.shortcut = shortcut
        self.removed = inner == 0
        if not self.removed:
            self.first = ConvNorm(width_in, inner, 3, rngs, stride=stride, norm=norm)
            self.second = ConvNorm(inner, width, 3, rngs, norm=norm, activation=nnx.identity)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H / stride, W / stride, width]."""
        skip = self.shortcut(x)
        if not self.removed:
            skip = skip + unless_removed(self.second(self.first(x)), self.second.conv.kernel[...])
        return nnx.relu(skip)


class ResNet(nnx.Module):
    """The stem, stages of blocks, of which every stage but the first halves the image, pooling, the classifier."""

    def __init__(
        self,
        widths: Mapping[str, int],
        stem: Callable[[int], Callable[[jax.Array], jax.Array]],
        classes: int,
        projects: bool,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        stages = stages_of(widths)
        width_in = stages[0][0]
        self.stem = stem(width_in)
        blocks = []
        for number, (width, inner) in enumerate(stages):
            for n, narrow in enumerate(inner.values()):
                stride = 2 if number and not n else 1
                shortcut: Callable[[jax.Array], jax.Array] = nnx.identity
                if stride > 1 and projects:
                    shortcut = ConvNorm(width_in, width, 1, rngs, stride=2, norm=norm, activation=nnx.identity)
                elif stride > 1:
                    shortcut = Numbered(width_in, width, stride)
                blocks.append(Block(width_in, narrow, width, stride, shortcut, norm, rngs))
                width_in = width
        self.blocks = nnx.List(blocks)
        self.classifier = nnx.Linear(width_in, classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(jnp.mean(x, axis=(1, 2))))


class PooledStem(nnx.Module):
    """ImageNet's stem: a 7x7 convolution of stride 2 and 3x3 max pooling of stride 2."""

    def __init__(self, channels: int, width: int, norm: Norm, rngs: nnx.Rngs):
        self.conv = ConvNorm(channels, width, 7, rngs, stride=2, norm=norm)

    def __call__(self, images: jax.Array) -> jax.Array:
        """[B, H, W, C] to [B, H / 4, W / 4, width]."""
        return max_pool(self.conv(images), 3, 2, padding=1)


def build_small(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for small images: a 3x3 stem, shortcuts of option A."""
    return _build(widths, shape, classes, config, small_stem=True, projects=False)


def build_large(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """ImageNet's network; `stem_stride` 1 takes the 3x3 stem without pooling, as is usual for 32x32 images."""
    return _build(widths, shape, classes, config, small_stem=config.stem_stride == 1, projects=True)


def _build(
    widths: Mapping[str, int],
    shape: tuple[int, ...],
    classes: int,
    config: NetConfig,
    *,
    small_stem: bool,
    projects: bool,
) -> Network:
    norm, dropout = norm_of(config, "batch"), dropout_of(config, 0.0)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        def stem(width: int) -> Callable[[jax.Array], jax.Array]:
            if small_stem:
                return ConvNorm(shape[-1], width, 3, rngs, norm=norm)
            return PooledStem(shape[-1], width, norm, rngs)

        return ResNet(w, stem, classes, projects, norm, dropout, rngs)

    removable = [block for _, inner in stages_of(widths) for block in inner]
    return from_nnx("resnet", make, widths, shape, dict.fromkeys(widths, norm.block), removable)
