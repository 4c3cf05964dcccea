"""GoogLeNet (arXiv 1409.4842) with BatchNorm: blocks of four branches side by side, whose outputs are concatenated.

At 224x224x3 and 1,000 classes 6,624,904 parameters, as torchvision's has without its auxiliary classifiers: like there,
the branch that the paper gives a 5x5 convolution has a 3x3 one. Every convolution is a width group.
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

BRANCHES = ("one", "reduce", "three", "reduce_more", "more", "pooled")
# Table 1 of the paper: channels of the branches of each block, in the order of BRANCHES.
BLOCKS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _widths(blocks: Mapping[str, tuple[int, ...]], stem: tuple[int, int, int]) -> dict[str, int]:
    inside = {f"{n}_{b}": w for n, widths in blocks.items() for b, w in zip(BRANCHES, widths, strict=True)}
    return dict(zip(("stem1", "stem2", "stem3"), stem, strict=True)) | inside


GOOGLENET = _widths(BLOCKS, (64, 64, 192))
SHALLOW = _widths({"3a": (8,) * 6}, (8, 8, 8))  # one block: for tests


class Inception(nnx.Module):
    """1x1; 1x1 and 3x3; 1x1 and 3x3; 3x3 max pooling and 1x1: concatenated."""

    def __init__(self, width_in: int, widths: Mapping[str, int], norm: Norm, rngs: nnx.Rngs):
        sources = {"three": widths["reduce"], "more": widths["reduce_more"]}
        self.branches = nnx.Dict(
            {
                name: ConvNorm(sources.get(name, width_in), width, 3 if name in sources else 1, rngs, norm=norm)
                for name, width in widths.items()
            }
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, width_in] to the same height and width."""
        b = self.branches
        pooled = b["pooled"](max_pool(x, size=3, stride=1, padding=1))
        return jnp.concatenate([b["one"](x), b["three"](b["reduce"](x)), b["more"](b["reduce_more"](x)), pooled], -1)


class GoogLeNet(nnx.Module):
    """The stem, the blocks with max pooling where their first number changes, mean pooling, dropout, the classifier.

    Pooling stops where a side has one pixel left, so that images of any size will do.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        stem_stride: int,
        channels: int,
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        one, two, width = (widths[f"stem{n}"] for n in (1, 2, 3))
        self.stem1 = ConvNorm(channels, one, 7, rngs, stride=stem_stride, norm=norm)
        self.stem2 = ConvNorm(one, two, 1, rngs, norm=norm)
        self.stem3 = ConvNorm(two, width, 3, rngs, norm=norm)
        self.names = tuple(dict.fromkeys(group.split("_")[0] for group in widths if not group.startswith("stem")))
        blocks = []
        for name in self.names:
            inside = {branch: widths[f"{name}_{branch}"] for branch in BRANCHES}
            blocks.append(Inception(width, inside, norm, rngs))
            width = sum(inside[branch] for branch in ("one", "three", "more", "pooled"))
        self.blocks = nnx.List(blocks)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = _halved(self.stem1(images))
        x = _halved(self.stem3(self.stem2(x)))
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n + 1 < len(self.names) and self.names[n][0] != self.names[n + 1][0]:
                x = _halved(x)
        return self.classifier(self.dropout(jnp.mean(x, axis=(1, 2))))


def _halved(x: jax.Array) -> jax.Array:
    """3x3 max pooling with stride 2, where there is something to pool."""
    return max_pool(x, size=3, stride=2, padding=1) if min(x.shape[1:3]) > 1 else x


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network of a config; `stem_stride` 1 is for small images."""
    norm, dropout = norm_of(config, "batch"), dropout_of(config, 0.2)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return GoogLeNet(w, config.stem_stride, shape[-1], classes, norm, dropout, rngs)

    return from_nnx("googlenet", make, widths, shape, dict.fromkeys(widths, norm.block))
