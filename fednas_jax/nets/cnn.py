"""The two-convolution network of the FedAvg (arXiv 1602.05629) and LEAF (arXiv 1812.01097) papers.

At 28x28x1 with widths 32, 64, 512 and 10 classes: 1,663,370 parameters, as the FedAvg paper states.
"""

from collections.abc import Mapping

import jax
from flax import nnx

from fednas_jax.nets.pool import max_pool

WIDTHS = {"conv1": 32, "conv2": 64, "dense": 512}


class CNN(nnx.Module):
    """5x5 convolution, 2x2 max pooling, twice; a dense layer; the classifier."""

    def __init__(self, widths: Mapping[str, int], shape: tuple[int, ...], classes: int, rngs: nnx.Rngs):
        height, width, channels = shape
        pooled = (height // 4) * (width // 4)
        self.conv1 = nnx.Conv(channels, widths["conv1"], (5, 5), rngs=rngs)
        self.conv2 = nnx.Conv(widths["conv1"], widths["conv2"], (5, 5), rngs=rngs)
        self.dense = nnx.Linear(pooled * widths["conv2"], widths["dense"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense"], classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits [B, classes] of images [B, H, W, C]."""
        # relu after pooling is relu before it, on a quarter of the pixels.
        x = nnx.relu(max_pool(self.conv1(images)))
        x = nnx.relu(max_pool(self.conv2(x)))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.classifier(x)
