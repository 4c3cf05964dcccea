"""A network of the user's own, by the name `MODULE:FUNCTION`: imported, called, and tried out before it is searched.

What goes wrong in the user's code is one line that says where; `space.probe` refuses what cannot be searched.
"""

from __future__ import annotations

import copy
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from fednas_jax.errors import ConfigError, FednasError, NetworkError
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
    module_name, _, function_name = name.partition(":")
    module = _imported(module_name, name)
    function = getattr(module, function_name, None)
    if not callable(function):
        defined = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        has = ", ".join(n for n in defined if callable(vars(module)[n])) or "none"
        raise ConfigError(f"net.name: got {name!r}, want one of the functions of {module_name}, which has {has}")
    network = _attempt(f"net.name: {name}", module, lambda: function(shape, classes))
    if not all(hasattr(network, part) for part in ("name", "widths", "input_shape", "abstract", "init", "apply")):
        got = type(network).__name__
        raise NetworkError(f"net.name: {name} returned {got}, want what fn.from_nnx or fn.from_linen returns")
    own = tuple(network.widths.values())
    # Every width by a factor of its own: a number written where a width belongs shows, and equal widths part ways.
    for widths in (own, tuple(w * (2 + g) for g, w in enumerate(own))):
        at = ", ".join(f"{g}={w}" for g, w in zip(network.widths, widths, strict=True))
        logits = _attempt(f"net.name: {name} at widths {at}", module, functools.partial(_traced, network, widths))
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


def _imported(module: str, name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            want = "want MODULE:FUNCTION with a module that Python finds here or among the installed ones"
            raise ConfigError(f"net.name: got {name!r}, {want}: {error}") from error
        raise ConfigError(f"net.name: {module} cannot be imported: {_said(error, None)}") from error


def _attempt(what: str, module: ModuleType, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except FednasError:  # says itself what is wrong
        raise
    except Exception as error:  # whatever the user's code does
        raise NetworkError(f"{what}: {_said(error, module)}") from error


def _said(error: Exception, module: ModuleType | None) -> str:
    """The error's kind and first line, and the line of the user's module that it came from."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == getattr(module, "__file__", None)] if module else []
    return f"{said} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else said


def _traced(network: Network, widths: tuple[int, ...]) -> Any:
    """The logits' shape, after training and evaluating abstractly: nothing is allocated."""
    images = jax.ShapeDtypeStruct((BATCH, *network.input_shape), np.float32)
    variables, key = network.abstract(widths), jax.eval_shape(lambda: jax.random.key(0))
    jax.eval_shape(lambda v, x, k: network.apply(widths, v, x, train=True, key=k), variables, images, key)
    return jax.eval_shape(lambda v, x: network.apply(widths, v, x, train=False)[0], variables, images)
