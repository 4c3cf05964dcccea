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
    lstm,
    mlp,
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
from fednas_jax.nets.inputs import Inputs
from fednas_jax.nets.residual import unless_removed
from fednas_jax.registry import own_function, source_checksum
from fednas_jax.space.network import Network

__all__ = ["NETWORKS", "Entry", "build", "conv_general_dilated", "from_linen", "from_nnx", "register", "unless_removed"]

Shape = tuple[int, ...]  # one example, such as height, width, channels
Builder = Callable[[Mapping[str, int], Shape, int, NetConfig], Network]
FormBuilder = Callable[[Mapping[str, int], Inputs, int, NetConfig], Network]


@dataclass(frozen=True)
class Entry:
    """A registered network: its own widths, and `build(widths, input_shape, classes, config)`.

    A network that takes more than images is built from `Inputs` instead of a shape.
    """

    widths: Mapping[str, int]
    build: Builder | FormBuilder
    shallow: Mapping[str, int]  # widths of the shallowest network with all kinds of its layers, for quick tries
    takes: tuple[str, ...] = ("images",)  # kinds of inputs, as `Inputs.kind` calls them


NETWORKS: dict[str, Entry] = {}


def register(
    name: str,
    widths: Mapping[str, int],
    build: Builder | FormBuilder,
    shallow: Mapping[str, int] | None = None,
    takes: tuple[str, ...] = ("images",),
) -> None:
    """Makes a network known by name to the command line, to `build` and to the tests.

    Args:
      name: the value of `net.name`.
      widths: the network's own width of each group.
      build: `build(widths, input_shape, classes, config)`; where it takes more than images, `build(widths, inputs,
        classes, config)` with `Inputs`.
      shallow: fewer groups, where `build` makes a network of fewer layers of them; for tests of deep networks.
      takes: kinds of inputs, of images, rows, series and texts.
    """
    NETWORKS[name] = Entry(dict(widths), build, dict(widths if shallow is None else shallow), takes)


def build(config: NetConfig, input_shape: Shape, classes: int, tokens: int = 0, positions: bool = False) -> Network:
    """The network of a config for inputs of one form: a registered one, or `MODULE:FUNCTION`, the user's own.

    Args:
      config: its name and widths.
      input_shape: of an example: three dimensions are an image, one a row, two a series; with tokens, [T].
      classes: number of classes.
      tokens: number of token ids, where inputs are such.
      positions: whether every position has a label, instead of every example.

    Raises:
      ConfigError: for an unknown name, a number of widths that does not fit, or what the network does not have.
      NetworkError: the user's own network fails.
    """
    inputs = Inputs(tuple(input_shape), tokens, positions)
    if ":" in config.name:
        for field in ("norm", "dropout"):
            if (got := getattr(config, field)) is not None:
                want = f"want none given: {config.name} is made by your own function, which is not told"
                raise ConfigError(f"net.{field}: got {got}, {want}")
        network = own.make(config.name, inputs, classes)
        return own.resized(network, _widths(config, network.widths))
    if config.name not in NETWORKS:
        want = f"want one of {', '.join(NETWORKS)}, or MODULE:FUNCTION for your own"
        raise ConfigError(f"net.name: got {config.name!r}, {want}")
    entry = NETWORKS[config.name]
    if inputs.kind not in entry.takes:
        others = ", ".join(name for name, other in NETWORKS.items() if inputs.kind in other.takes)
        takes = " and ".join(entry.takes)
        raise ConfigError(f"net.name: {config.name} takes {takes}, got {inputs}, want one of {others}, or your own")
    widths = _widths(config, entry.shallow if config.shallow else entry.widths)
    build: Callable[..., Network] = entry.build
    return build(widths, inputs.shape if entry.takes == ("images",) else inputs, classes, config)


def checksum(name: str) -> str | None:
    """SHA-256 of the source of a network of the user's own, registered or not; None for others."""
    if ":" in name:
        return source_checksum(own_function(name, "net.name"))
    entry = NETWORKS.get(name)
    return None if entry is _OURS.get(name) or entry is None else source_checksum(entry.build)


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
register("mlp", mlp.WIDTHS, mlp.build, takes=("images", "rows", "series"))
register("lstm", lstm.WIDTHS, lstm.build, takes=("texts", "series"))
register("lstm_sent140", lstm.SENT140, lstm.build, takes=("texts",))
register("lstm_shakespeare", lstm.SHAKESPEARE, lstm.build, takes=("texts",))
register("lstm_stackoverflow", lstm.STACKOVERFLOW, lstm.build, takes=("texts",))

_OURS = dict(NETWORKS)
