"""The five-convolution network that the FedNAS paper (arXiv 2002.06352) searches for CelebA, 128x128x3.

Its convolutions have 32, 64, 128, 256 and 256 channels, its dense layer 512. That they are 3x3, each followed by a 2x2
max pooling down to 4x4, without normalisation and dropout, is our reading. For 2 classes that makes 3,077,186
parameters and 280,495,104 multiply-accumulates.
"""

from collections.abc import Mapping

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.layers import dropout_of, norm_of
from fednas_jax.nets.pooled_nets import Plan, pooled
from fednas_jax.space.network import Network

CONVOLUTIONS = {"conv1": 32, "conv2": 64, "conv3": 128, "conv4": 256, "conv5": 256}
WIDTHS = CONVOLUTIONS | {"dense": 512}
PLAN = Plan("celeba_cnn", tuple((group, True) for group in CONVOLUTIONS), ("dense",), 4)


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network for images of any size; larger ones than 128x128 are averaged to 4x4 before the dense layer."""
    return pooled(PLAN, widths, shape, classes, norm_of(config, "none"), dropout_of(config, 0.0))
