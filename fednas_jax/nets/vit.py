"""Vision transformers (arXiv 2010.11929) in the sizes of DeiT (arXiv 2012.12877).

DeiT-Ti at 224x224x3 and 1,000 classes: 5,717,416 parameters, as timm's `deit_tiny_patch16_224` has; 1.254 G
multiply-accumulates in convolutions and products, of the 1.26 G that timm's table names.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import dropout_of
from fednas_jax.space.network import Network

LARGEST_PATCH = 16  # pixels a side, as published
EPSILON = 1e-6  # of LayerNorm, as published


def sizes(blocks: int, embedding: int, head_width: int, heads: int, mlp: int) -> dict[str, int]:
    """Widths by group: the embedding and the heads' width of the whole network, heads and inner width of each block."""
    each = {f"{group}{n}": width for n in range(1, blocks + 1) for group, width in (("heads", heads), ("mlp", mlp))}
    return {"embedding": embedding, "head_width": head_width, **each}


DEIT_TINY = sizes(blocks=12, embedding=192, head_width=64, heads=3, mlp=768)
VIT = sizes(blocks=4, embedding=64, head_width=16, heads=4, mlp=128)
SHALLOW = sizes(blocks=1, embedding=64, head_width=16, heads=4, mlp=128)


class Attention(nnx.Module):
    """Self-attention of several heads, behind a LayerNorm."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.query = nnx.LinearGeneral(width, (heads, head_width), rngs=rngs)
        self.key = nnx.LinearGeneral(width, (heads, head_width), rngs=rngs)
        self.value = nnx.LinearGeneral(width, (heads, head_width), rngs=rngs)
        self.out = nnx.LinearGeneral((heads, head_width), width, axis=(-2, -1), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, tokens, width] to the same shape."""
        x = self.norm(x)
        mixed = nnx.dot_product_attention(self.query(x), self.key(x), self.value(x))
        return self.dropout(self.out(mixed))


class Perceptron(nnx.Module):
    """Two dense layers behind a LayerNorm."""

    def __init__(self, width: int, inner: int, dropout: float, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.first = nnx.Linear(width, inner, rngs=rngs)
        self.second = nnx.Linear(inner, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, tokens, width] to the same shape."""
        return self.dropout(self.second(nnx.gelu(self.first(self.norm(x)), approximate=False)))


class VisionTransformer(nnx.Module):
    """Patches and a class token, blocks of attention and perceptron with a skip around each, the classifier.

    A block's attention is left out where it has no heads, its perceptron where its inner width is 0.
    """

    def __init__(self, widths: Mapping[str, int], shape: tuple[int, ...], classes: int, dropout: float, rngs: nnx.Rngs):
        height, wide, channels = shape
        patch, width = patch_of(height, wide), widths["embedding"]
        tokens = (height // patch) * (wide // patch)
        draw = nnx.initializers.normal(0.02)
        self.patches = nnx.Conv(channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.token = nnx.Param(draw(rngs.params(), (1, 1, width), jnp.float32))
        self.positions = nnx.Param(draw(rngs.params(), (1, 1 + tokens, width), jnp.float32))
        parts: dict[str, nnx.Module] = {}
        for group, size in widths.items():
            if group.startswith("heads") and size:
                parts[group] = Attention(width, size, widths["head_width"], dropout, rngs)
            if group.startswith("mlp") and size:
                parts[group] = Perceptron(width, size, dropout, rngs)
        self.parts, self.order = nnx.Dict(parts), tuple(parts)
        self.norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = self.patches(images).reshape(len(images), -1, self.token.shape[-1])
        token = jnp.broadcast_to(self.token[...], (len(images), 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.positions[...]
        for group in self.order:
            x = x + self.parts[group](x)
        return self.classifier(self.norm(x[:, 0]))


def patch_of(height: int, width: int) -> int:
    """Pixels a side of a patch: the largest that divides the image, up to 16, and leaves 7 a side, small images 4."""
    least = 7 if min(height, width) >= 28 else 4
    fits = [p for p in range(1, LARGEST_PATCH + 1) if height % p == width % p == 0 and min(height, width) // p >= least]
    return max(fits, default=1)


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of any size; here without dropout."""
    if config.norm:
        raise ConfigError(f"net.norm: got {config.norm}, want none given: {config.name} normalises by LayerNorm")
    dropout = dropout_of(config, 0.0)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return VisionTransformer(w, shape, classes, dropout, rngs)

    heads = [group for group in widths if group.startswith("heads")]
    inner = [group for group in widths if group.startswith("mlp")]
    return from_nnx("vit", make, widths, shape, removable=[*heads, *inner], counted=heads)
