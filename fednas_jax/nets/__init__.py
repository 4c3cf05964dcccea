"""Networks by name. A builder registered here is checked by the tests without anyone remembering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fednas_jax.config import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import cnn, mobilenet_v1, mobilenet_v2, resnet
from fednas_jax.nets.adapters import from_linen, from_nnx
from fednas_jax.nets.conv import conv_general_dilated
from fednas_jax.nets.residual import unless_removed
from fednas_jax.space import Network

__all__ = ["NETWORKS", "Entry", "build", "conv_general_dilated", "from_linen", "from_nnx", "register", "unless_removed"]

Shape = tuple[int, ...]  # one example: height, width, channels
Builder = Callable[[Mapping[str, int], Shape, int, NetConfig], Network]


@dataclass(frozen=True)
class Entry:
    """A registered network: its own widths, and `build(widths, input_shape, classes, config)`."""

    widths: Mapping[str, int]
    build: Builder
    shallow: Mapping[str, int]  # widths of the shallowest network with all kinds of its layers, which the tests train


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
    """The network of a config for images of one shape.

    Raises:
      ConfigError: for an unknown name or a number of widths that does not fit.
    """
    if config.name not in NETWORKS:
        raise ConfigError(f"net.name: got {config.name!r}, want one of {', '.join(NETWORKS)}")
    entry = NETWORKS[config.name]
    own = {group: max(1, int(width * config.width_multiplier)) for group, width in entry.widths.items()}
    given = config.widths or tuple(own.values())
    if len(given) != len(own):
        raise ConfigError(f"net.widths: got {len(given)} widths, want {len(own)}: {', '.join(own)}")
    return entry.build(dict(zip(own, given, strict=True)), input_shape, classes, config)


def _cnn(widths: Mapping[str, int], shape: Shape, classes: int, config: NetConfig) -> Network:
    del config
    if min(shape[:2]) < 4:
        raise ConfigError(f"net.name: cnn got images of {shape[0]}x{shape[1]}, want at least 4x4: it pools twice")
    return from_nnx("cnn", lambda w, rngs: cnn.CNN(w, shape, classes, rngs), widths, shape)


def _mobilenet_v1(widths: Mapping[str, int], shape: Shape, classes: int, config: NetConfig) -> Network:
    return from_nnx(
        "mobilenet_v1",
        lambda w, rngs: mobilenet_v1.MobileNetV1(w, shape[-1], classes, config.stem_stride, rngs),
        widths,
        shape,
    )


register("cnn", cnn.WIDTHS, _cnn)
register("mobilenet_v1", mobilenet_v1.WIDTHS, _mobilenet_v1)
register("mobilenet_v2", mobilenet_v2.WIDTHS, mobilenet_v2.build, mobilenet_v2.SHALLOW)
register("resnet20", resnet.RESNET20, resnet.build_small, resnet.SHALLOW)
register("resnet32", resnet.RESNET32, resnet.build_small, resnet.SHALLOW)
register("resnet56", resnet.RESNET56, resnet.build_small, resnet.SHALLOW)
register("resnet18", resnet.RESNET18, resnet.build_large, resnet.SHALLOW)
register("resnet34", resnet.RESNET34, resnet.build_large, resnet.SHALLOW)
