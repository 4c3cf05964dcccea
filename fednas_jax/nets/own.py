"""A network of the user's own, by the name `MODULE:FUNCTION`: imported, called, and tried out before it is searched.

What goes wrong in the user's code is one line that says where; `space.probe` refuses what cannot be searched.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from fednas_jax import registry
from fednas_jax.errors import NetworkError
from fednas_jax.space.network import Network

BATCH = 2  # images in the forward pass that is traced


def make(name: str, shape: tuple[int, ...], classes: int) -> Network:
    """The network that the user's function returns for images of one shape.

    Args:
      name: 'MODULE:FUNCTION'. Modules of the current directory are found too, before others, as by `python -m`.
      shape: one image's height, width and channels; the function's first argument.
      classes: number of classes; its second.

    Raises:
      ConfigError: there is no such module or function, or the module cannot be imported.
      NetworkError: the function raises or returns no network, or the network fails when it is built or applied.
    """
    function = registry.own_function(name, "net.name")
    module = registry.own_module(name, "net.name")

    def attempt(what: str, call: Callable[[], Any]) -> Any:
        return registry.attempt(what, module, call, NetworkError)

    network = attempt(f"net.name: {name}", lambda: function(shape, classes))
    if not all(hasattr(network, part) for part in ("name", "widths", "input_shape", "abstract", "init", "apply")):
        got = type(network).__name__
        raise NetworkError(f"net.name: {name} returned {got}, want what fn.from_nnx or fn.from_linen returns")
    own = tuple(network.widths.values())
    # Every width by a factor of its own: a number written where a width belongs shows, and equal widths part ways.
    for widths in (own, tuple(w * (2 + g) for g, w in enumerate(own))):
        at = ", ".join(f"{g}={w}" for g, w in zip(network.widths, widths, strict=True))
        logits = attempt(f"net.name: {name} at widths {at}", functools.partial(_traced, network, widths))
        if tuple(logits.shape) != (BATCH, classes):
            want = f"want ({BATCH}, {classes}): {classes} classes"
            raise NetworkError(f"net.name: {name} turns {BATCH} images into {tuple(logits.shape)}, {want}")
    return network


def resized(network: Network, widths: Mapping[str, int]) -> Network:
    """The same family of networks with other widths as the parent's."""
    if dict(widths) == dict(network.widths):
        return network
    other = copy.copy(network)
    other.widths = dict(widths)
    return other


def _traced(network: Network, widths: tuple[int, ...]) -> Any:
    """The logits' shape, after training and evaluating abstractly: nothing is allocated."""
    images = jax.ShapeDtypeStruct((BATCH, *network.input_shape), np.float32)
    variables, key = network.abstract(widths), jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(lambda v, x, k: network.apply(widths, v, x, train=True, key=k), variables, images, key)
    return jax.eval_shape(lambda v, x: network.apply(widths, v, x, train=False)[0], variables, images)
