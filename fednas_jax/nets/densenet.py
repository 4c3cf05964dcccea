"""DenseNet-BC (arXiv 1608.06993): each layer reads the concatenation of all before it.

At 224x224x3 and 1,000 classes DenseNet-121 has 7,978,856 parameters, as torchvision's. DenseNet-BC-100-12 for small
images has 769,162 parameters for 32x32x3 and 10 classes, 0.8 M in the paper's table 2.

Width groups: the stem; for each block of layers its growth, the channels that every layer adds, and its inner width,
that of every layer's 1x1 convolution; and each transition between blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import BATCH_NORM, ConvNorm, dropout_of
from fednas_jax.nets.pool import max_pool
from fednas_jax.space.network import Network

LARGE, SMALL = (6, 12, 24, 16), (16, 16, 16)  # layers in each block


def _widths(layers: Sequence[int], growth: int) -> dict[str, int]:
    """As published: inner widths of 4 x growth, transitions that halve, a stem of 2 x growth."""
    groups = {"stem": 2 * growth}
    width = groups["stem"]
    for number, count in enumerate(layers, 1):
        groups |= {f"inner{number}": 4 * growth, f"growth{number}": growth}
        width += count * growth
        if number < len(layers):
            width //= 2
            groups[f"transition{number}"] = width
    return groups


DENSENET121 = _widths(LARGE, 32)
DENSENET100 = _widths(SMALL, 12)
SHALLOW = _widths((2, 2), 8)  # two blocks: for tests
SHALLOW_LAYERS = 2


class Preactivated(nnx.Module):
    """BatchNorm, ReLU and a convolution without bias."""

    def __init__(self, width_in: int, width: int, size: int, rngs: nnx.Rngs):
        self.norm = BATCH_NORM.make(width_in, rngs)
        pads = (size // 2, size // 2)
        self.conv = nnx.Conv(width_in, width, (size, size), padding=(pads, pads), use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H, W, width]."""
        return self.conv(nnx.relu(self.norm(x)))


class DenseLayer(nnx.Module):
    """A 1x1 convolution to the inner width and a 3x3 one to the growth, which is put behind the input."""

    def __init__(self, width_in: int, inner: int, growth: int, dropout: float, rngs: nnx.Rngs):
        self.first = Preactivated(width_in, inner, 1, rngs)
        self.second = Preactivated(inner, growth, 3, rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to [B, H, W, width_in + growth]."""
        return jnp.concatenate([x, self.dropout(self.second(self.first(x)))], axis=-1)


class DenseNet(nnx.Module):
    """The stem, blocks with a transition and 2x2 mean pooling between them, a BatchNorm, mean pooling, the classifier.

    Pooling stops where a side has one pixel left, so that images of any size will do.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        layers: Sequence[int],
        large: bool,
        stem_stride: int,
        channels: int,
        classes: int,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        width, self.large = widths["stem"], large
        if large:
            self.stem: nnx.Module = ConvNorm(channels, width, 7, rngs, stride=stem_stride)
        else:
            self.stem = nnx.Conv(channels, width, (3, 3), use_bias=False, rngs=rngs)
        blocks: list[nnx.List] = []
        transitions: list[nnx.Module] = []
        for number, count in enumerate(layers, 1):
            inner, growth = widths[f"inner{number}"], widths[f"growth{number}"]
            blocks.append(nnx.List(DenseLayer(width + n * growth, inner, growth, dropout, rngs) for n in range(count)))
            width += count * growth
            if number < len(layers):
                transitions.append(Preactivated(width, widths[f"transition{number}"], 1, rngs))
                width = widths[f"transition{number}"]
        self.blocks, self.transitions = nnx.List(blocks), nnx.List(transitions)
        self.norm = BATCH_NORM.make(width, rngs)
        self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.stem(images)
        if self.large:
            x = max_pool(x, size=3, stride=2, padding=1) if min(x.shape[1:3]) > 1 else x
        for n, block in enumerate(self.blocks):
            for layer in block:
                x = layer(x)
            if n < len(self.transitions):
                x = self.transitions[n](x)
                x = _halved(x) if min(x.shape[1:3]) > 1 else x
        return self.classifier(jnp.mean(nnx.relu(self.norm(x)), axis=(1, 2)))


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2x2 pixels; a row and column left over are dropped."""
    rows, columns = x.shape[1] // 2, x.shape[2] // 2
    pairs = x[:, : 2 * rows, : 2 * columns].reshape(len(x), rows, 2, columns, 2, x.shape[3])
    return jnp.mean(pairs, axis=(2, 4))


def _build(
    layers: Sequence[int], large: bool, widths: Mapping[str, int], shape: tuple[int, ...], classes: int, c: NetConfig
) -> Network:
    """The network of a config; `stem_stride` 1 is for small images, where the stem is the large one."""
    if c.norm not in (None, "batch"):
        raise ConfigError(f"net.norm: got {c.norm}, want batch: {c.name} normalises what it concatenates")
    dropout = dropout_of(c, 0.0)
    counts = [SHALLOW_LAYERS] * 2 if len(widths) == len(SHALLOW) else layers

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return DenseNet(w, counts, large, c.stem_stride, shape[-1], classes, dropout, rngs)

    return from_nnx(c.name, make, widths, shape)


build_large = functools.partial(_build, LARGE, True)
build_small = functools.partial(_build, SMALL, False)
