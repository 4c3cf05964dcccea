"""Networks by name. A builder registered here is checked by the tests without anyone remembering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import (
    alexnet,
    celeba_cnn,
    cnn,
    densenet,
    googlenet,
    lenet5,
    mobilenet_v1,
    mobilenet_v2,
    own,
    resnet,
    shufflenet_v2,
    vgg,
    vit,
)
from fednas_jax.nets.adapters import from_linen, from_nnx
from fednas_jax.nets.conv import conv_general_dilated
from fednas_jax.nets.residual import unless_removed
from fednas_jax.registry import own_function, source_checksum
from fednas_jax.space.network import Network

__all__ = ["NETWORKS", "Entry", "build", "conv_general_dilated", "from_linen", "from_nnx", "register", "unless_removed"]

Shape = tuple[int, ...]  # one example: height, width, channels
Builder = Callable[[Mapping[str, int], Shape, int, NetConfig], Network]


@dataclass(frozen=True)
class Entry:
    """A registered network: its own widths, and `build(widths, input_shape, classes, config)`."""

    widths: Mapping[str, int]
    build: Builder
    shallow: Mapping[str, int]  # widths of the shallowest network with all kinds of its layers, for quick tries


NETWORKS: dict[str, Entry] = {}


def register(name: str, widths: Mapping[str, int], build: Builder, shallow: Mapping[str, int] | None = None) -> None:
    """Makes a network known by name to the command line, to `build` and to the tests.

    Args:
      name: the value of `net.name`.
      widths: the network's own width of each group.
      build: `build(widths, input_shape, classes, config)`.
      shallow: fewer groups, where `build` makes a network of fewer layers of them; for tests of deep networks.
    """
    NETWORKS[name] = Entry(dict(widths), build, dict(widths if shallow is None else shallow))


def build(config: NetConfig, input_shape: Shape, classes: int) -> Network:
    """The network of a config for images of one shape: a registered one, or `MODULE:FUNCTION`, the user's own.

    Raises:
      ConfigError: for an unknown name or a number of widths that does not fit.
      NetworkError: the user's own network fails.
    """
    if ":" in config.name:
        network = own.make(config.name, input_shape, classes)
        return own.resized(network, _widths(config, network.widths))
    if config.name not in NETWORKS:
        want = f"want one of {', '.join(NETWORKS)}, or MODULE:FUNCTION for your own"
        raise ConfigError(f"net.name: got {config.name!r}, {want}")
    entry = NETWORKS[config.name]
    own_widths = entry.shallow if config.shallow else entry.widths
    return entry.build(_widths(config, own_widths), input_shape, classes, config)


def checksum(name: str) -> str | None:
    """SHA-256 of the source of a network of the user's own; None for registered ones."""
    return source_checksum(own_function(name, "net.name")) if ":" in name else None


def _widths(config: NetConfig, widths: Mapping[str, int]) -> dict[str, int]:
    """The parent's widths by group: those of the config, or the network's own ones scaled."""
    scaled = {group: max(1, int(width * config.width_multiplier)) for group, width in widths.items()}
    given = config.widths or tuple(scaled.values())
    if len(given) != len(scaled):
        raise ConfigError(f"net.widths: got {len(given)} widths, want {len(scaled)}: {', '.join(scaled)}")
    return dict(zip(scaled, given, strict=True))


register("cnn", cnn.WIDTHS, cnn.build)
register("lenet5", lenet5.WIDTHS, lenet5.build)
register("celeba_cnn", celeba_cnn.WIDTHS, celeba_cnn.build)
register("alexnet", alexnet.WIDTHS, alexnet.build)
register("vgg11", vgg.VGG11, vgg.build, vgg.SHALLOW)
register("vgg16", vgg.VGG16, vgg.build, vgg.SHALLOW)
register("mobilenet_v1", mobilenet_v1.WIDTHS, mobilenet_v1.build, mobilenet_v1.SHALLOW)
register("mobilenet_v2", mobilenet_v2.WIDTHS, mobilenet_v2.build, mobilenet_v2.SHALLOW)
register("resnet20", resnet.RESNET20, resnet.build_small, resnet.SHALLOW)
register("resnet32", resnet.RESNET32, resnet.build_small, resnet.SHALLOW)
register("resnet56", resnet.RESNET56, resnet.build_small, resnet.SHALLOW)
register("resnet18", resnet.RESNET18, resnet.build_large, resnet.SHALLOW)
register("resnet34", resnet.RESNET34, resnet.build_large, resnet.SHALLOW)
register("vit", vit.VIT, vit.build, vit.SHALLOW)
register("deit_tiny", vit.DEIT_TINY, vit.build, vit.SHALLOW)
register("densenet100", densenet.DENSENET100, densenet.build_small, densenet.SHALLOW)
register("densenet121", densenet.DENSENET121, densenet.build_large, densenet.SHALLOW)
register("googlenet", googlenet.GOOGLENET, googlenet.build, googlenet.SHALLOW)
register("shufflenet_v2", shufflenet_v2.WIDTHS, shufflenet_v2.build, shufflenet_v2.SHALLOW)
