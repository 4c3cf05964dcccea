"""The two-convolution network of the FedAvg (arXiv 1602.05629) and LEAF (arXiv 1812.01097) papers.

At 28x28x1 with widths 32, 64, 512 and 10 classes: 1,663,370 parameters, as the FedAvg paper states.
"""

from collections.abc import Mapping

import jax
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import Norm, dropout_of, norm_of
from fednas_jax.nets.pool import max_pool
from fednas_jax.space.network import Network

WIDTHS = {"conv1": 32, "conv2": 64, "dense": 512}


class CNN(nnx.Module):
    """5x5 convolution, 2x2 max pooling, twice; a dense layer; the classifier."""

    def __init__(
        self,
        widths: Mapping[str, int],
        shape: tuple[int, ...],
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        height, width, channels = shape
        pooled = (height // 4) * (width // 4)
        bias = norm.kind == "none"
        self.conv1 = nnx.Conv(channels, widths["conv1"], (5, 5), use_bias=bias, rngs=rngs)
        self.norm1 = norm.make(widths["conv1"], rngs)
        self.conv2 = nnx.Conv(widths["conv1"], widths["conv2"], (5, 5), use_bias=bias, rngs=rngs)
        self.norm2 = norm.make(widths["conv2"], rngs)
        self.dense = nnx.Linear(pooled * widths["conv2"], widths["dense"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense"], classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)  # takes a key, which weights before it need not care for

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        # relu after pooling is relu before it, on a quarter of the pixels.
        x = nnx.relu(max_pool(self.norm1(self.conv1(images))))
        x = nnx.relu(max_pool(self.norm2(self.conv2(x))))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.classifier(self.dropout(x))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of at least 4x4; the papers have neither normalisation nor dropout."""
    if min(shape[:2]) < 4:
        raise ConfigError(f"net.name: cnn got images of {shape[0]}x{shape[1]}, want at least 4x4: it pools twice")
    norm, dropout = norm_of(config, "none"), dropout_of(config, 0.0)
    blocks = {"conv1": norm.block, "conv2": norm.block}
    return from_nnx("cnn", lambda w, rngs: CNN(w, shape, classes, norm, dropout, rngs), widths, shape, blocks)
