"""AlexNet in torchvision's layout (Krizhevsky 2014, arXiv 1404.5997).

At 224x224x3 and 1,000 classes: 61,100,840 parameters and 714,188,480 multiply-accumulates, as torchvision's.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.layers import ConvNorm, Norm, dropout_of, norm_of
from fednas_jax.nets.pool import max_pool, mean_pool_to
from fednas_jax.space.network import Network

CONVOLUTIONS = {"conv1": 64, "conv2": 192, "conv3": 384, "conv4": 256, "conv5": 256}
POOLED = ("conv1", "conv2", "conv5")
WIDTHS = CONVOLUTIONS | {"dense1": 4096, "dense2": 4096}
PARTS = 6  # larger last images are averaged down to 6x6


class Layout(NamedTuple):
    """What differs between large images and small ones."""

    stem: tuple[int, int, int]  # size, stride and padding of the first convolution
    second: int  # size of the second convolution
    pool: tuple[int, int]  # size and stride of the pooling


LARGE = Layout((11, 4, 2), 5, (3, 2))
# Below 63 pixels torchvision's last images would have none left. Networks for CIFAR take smaller steps.
SMALL = Layout((3, 2, 1), 3, (2, 2))


class AlexNet(nnx.Module):
    """Five convolutions, max pooling after three of them; two dense layers with dropout before each; the classifier."""

    def __init__(
        self,
        widths: Mapping[str, int],
        shape: tuple[int, ...],
        classes: int,
        norm: Norm,
        dropout: float,
        rngs: nnx.Rngs,
    ):
        *size, width_in = shape
        layout = layout_of(shape)
        self.pool = layout.pool
        convolutions = []
        for group in CONVOLUTIONS:
            kernel, stride, padding = layout.stem if group == "conv1" else (3, 1, 1)
            if group == "conv2":
                kernel, padding = layout.second, layout.second // 2
            # relu after pooling is relu before it, on a quarter of the pixels.
            activation = nnx.identity if group in POOLED else nnx.relu
            convolutions.append(
                ConvNorm(
                    width_in,
                    widths[group],
                    kernel,
                    rngs,
                    stride=stride,
                    padding=padding,
                    norm=norm,
                    activation=activation,
                )
            )
            width_in = widths[group]
            size = [(n + 2 * padding - kernel) // stride + 1 for n in size]
            if group in POOLED:
                size = [(n - layout.pool[0]) // layout.pool[1] + 1 for n in size]
        self.convolutions = nnx.List(convolutions)
        height, width = (min(n, PARTS) for n in size)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.dense1 = nnx.Linear(height * width * width_in, widths["dense1"], rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.dense2 = nnx.Linear(widths["dense1"], widths["dense2"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense2"], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        x = images
        for group, convolution in zip(CONVOLUTIONS, self.convolutions, strict=True):
            x = convolution(x)
            if group in POOLED:
                x = nnx.relu(max_pool(x, *self.pool))
        x = mean_pool_to(x, PARTS)
        x = nnx.relu(self.dense1(self.dropout1(x.reshape(x.shape[0], -1))))
        x = nnx.relu(self.dense2(self.dropout2(x)))
        return self.classifier(x)


def layout_of(shape: tuple[int, ...]) -> Layout:
    """Torchvision's layout where the images are large enough for it."""
    return LARGE if min(shape[:2]) >= 63 else SMALL


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of at least 15x15; no normalisation and dropout of 0.5, as torchvision has it."""
    if min(shape[:2]) < 15:
        raise ConfigError(
            f"net.name: alexnet got images of {shape[0]}x{shape[1]}, want at least 15x15: its steps end there"
        )
    norm, dropout = norm_of(config, "none"), dropout_of(config, 0.5)
    blocks = dict.fromkeys(CONVOLUTIONS, norm.block)
    return from_nnx("alexnet", lambda w, rngs: AlexNet(w, shape, classes, norm, dropout, rngs), widths, shape, blocks)
