"""LeNet-5 (LeCun et al. 1998, Proc. IEEE 86(11)) in the form that is common today.

At 28x28x1 or 32x32x1 and 10 classes: 61,706 parameters and 416,520 multiply-accumulates; at 32x32x3 62,006 parameters.
The paper's own has 60,000: its second convolution leaves out a part of the connections (table I); it also pools by
trained averages, and has tanh and a radial basis classifier where this one has maxima, ReLU and a dense layer.
"""

from collections.abc import Mapping

import jax
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.nets.pool import max_pool
from fednas_jax.space.network import Network

WIDTHS = {"conv1": 6, "conv2": 16, "dense1": 120, "dense2": 84}


class LeNet5(nnx.Module):
    """5x5 convolution without padding, 2x2 max pooling, twice; two dense layers; the classifier.

    Images below 32 pixels get two rows and columns more on each side: 28x28 is what the paper pads to 32x32.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        shape: tuple[int, ...],
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        *size, channels = shape
        around = _around(shape)
        height, width = (((n + 2 * around - 4) // 2 - 4) // 2 for n in size)
        self.conv1 = ConvNorm(channels, widths["conv1"], 5, rngs, padding=around, norm=norm, activation=nnx.identity)
        self.conv2 = ConvNorm(widths["conv1"], widths["conv2"], 5, rngs, padding=0, norm=norm, activation=nnx.identity)
        self.dense1 = nnx.Linear(height * width * widths["conv2"], widths["dense1"], rngs=rngs)
        self.dense2 = nnx.Linear(widths["dense1"], widths["dense2"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense2"], classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        # relu after pooling is relu before it, on a quarter of the pixels.
        x = nnx.relu(max_pool(self.conv1(images)))
        x = nnx.relu(max_pool(self.conv2(x)))
        x = nnx.relu(self.dense1(x.reshape(x.shape[0], -1)))
        x = nnx.relu(self.dense2(x))
        return self.classifier(self.dropout(x))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of at least 12x12; published without normalisation and dropout."""
    if min(shape[:2]) < 12:
        raise ConfigError(f"net.name: lenet5 got images of {shape[0]}x{shape[1]}, want at least 12x12: it pools twice")
    norm, dropout = norm_of(config, "none"), dropout_of(config, 0.0)
    blocks = {"conv1": norm.block, "conv2": norm.block}
    return from_nnx("lenet5", lambda w, rngs: LeNet5(w, shape, classes, norm, dropout, rngs), widths, shape, blocks)


def _around(shape: tuple[int, ...]) -> int:
    """Padding of the first convolution."""
    return 2 if min(shape[:2]) < 32 else 0
