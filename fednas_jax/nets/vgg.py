"""VGG-11 and VGG-16 with BatchNorm (Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, configurations A and D).

At 224x224x3 and 1,000 classes: 132,866,088 parameters and 7,609,090,048 multiply-accumulates (vgg11), 138,361,768 and
15,470,264,320 (vgg16). torchvision's vgg11_bn has 132,868,840 and its vgg16_bn 138,365,992: 2,752 and 4,224 more, a
bias for each convolution, which the BatchNorm after it subtracts again. Without normalisation our convolutions have
them too, and vgg11 and vgg16 are torchvision's: 132,863,336 and 138,357,544.

As in torchvision, last images larger than 7x7 are averaged down to 7x7. Smaller ones are not enlarged: at 32x32 the
first dense layer sees one pixel of 512 channels. Networks for CIFAR have dense layers of 512, or none; `net.widths`
sets theirs.
"""

from collections.abc import Mapping

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets.layers import dropout_of, norm_of
from fednas_jax.nets.pooled_nets import Plan, pooled
from fednas_jax.space.network import Network


def _widths(*stages: tuple[int, ...]) -> dict[str, int]:
    """A stage ends in pooling; conv3_1 is the first convolution of the third."""
    convolutions = {f"conv{s}_{n}": width for s, stage in enumerate(stages, 1) for n, width in enumerate(stage, 1)}
    return convolutions | {"dense1": 4096, "dense2": 4096}


VGG11 = _widths((64,), (128,), (256, 256), (512, 512), (512, 512))
VGG16 = _widths((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
SHALLOW = _widths((64,), (128,), (256, 256))


def build(widths: Mapping[str, int], shape: tuple[int, ...], classes: int, config: NetConfig) -> Network:
    """The network of these groups for images of any size; BatchNorm and dropout of 0.5 as torchvision has them."""
    groups = [group for group in widths if group.startswith("conv")]
    stages = [group.split("_")[0] for group in groups]
    ends = (stage != following for stage, following in zip(stages, [*stages[1:], ""], strict=True))
    dense = tuple(group for group in widths if group not in groups)
    plan = Plan(config.name, tuple(zip(groups, ends, strict=True)), dense, 7)
    return pooled(plan, widths, shape, classes, norm_of(config, "batch"), dropout_of(config, 0.5))
