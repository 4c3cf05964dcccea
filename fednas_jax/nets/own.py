"""A network of the user's own, by the name `MODULE:FUNCTION`: imported, called, and tried out before it is searched.

What goes wrong in the user's code is one line that says where; `space.probe` refuses what cannot be searched.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fednas_jax import registry
from fednas_jax.errors import NetworkError
from fednas_jax.nets.inputs import Inputs
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Network, Variables, inputs_of

BATCH = 2  # examples in the forward pass that is traced


def make(name: str, inputs: Inputs, classes: int) -> Network:
    """The network that the user's function returns for inputs of one form.

    Args:
      name: 'MODULE:FUNCTION'. Modules of the current directory are found too, before others, as by `python -m`.
      inputs: their shape, such as one image's height, width and channels, is the function's first argument; of token
        ids their number is its third.
      classes: number of classes; its second.

    Raises:
      ConfigError: there is no such module or function, or the module cannot be imported.
      NetworkError: the function raises or returns no network, or the network fails when it is built or applied.
    """
    function = registry.own_function(name, "net.name")
    module = registry.own_module(name, "net.name")

    def attempt(what: str, call: Callable[[], Any]) -> Any:
        return registry.attempt(what, module, call, NetworkError)

    tokens = (inputs.tokens,) if inputs.tokens else ()
    network = attempt(f"net.name: {name}", lambda: function(inputs.shape, classes, *tokens))
    if not all(hasattr(network, part) for part in ("name", "widths", "input_shape", "abstract", "init", "apply")):
        got = type(network).__name__
        raise NetworkError(f"net.name: {name} returned {got}, want what fn.from_nnx or fn.from_linen returns")
    takes = getattr(network, "tokens", 0)
    if bool(takes) != bool(inputs.tokens) or takes < inputs.tokens:
        got = f"token ids 0 to {takes - 1}" if takes else "numbers"
        want = f"token ids 0 to {inputs.tokens - 1} (`tokens` of fn.from_nnx)" if inputs.tokens else "numbers"
        raise NetworkError(f"net.name: {name} takes {got}, want {want}, as the data has them")
    if tuple(network.input_shape) != inputs.shape:
        got = f"inputs of shape {tuple(network.input_shape)}"
        raise NetworkError(f"net.name: {name} takes {got}, want {inputs.shape}, as its first argument says")
    own = tuple(network.widths.values())
    # Every width by a factor of its own: a number written where a width belongs shows, and equal widths part ways.
    for widths in (own, tuple(w * (2 + g) for g, w in enumerate(own))):
        at = ", ".join(f"{g}={w}" for g, w in zip(network.widths, widths, strict=True))
        logits = attempt(f"net.name: {name} at widths {at}", functools.partial(_traced, network, widths))
        if not hasattr(logits, "dtype") or not jnp.issubdtype(logits.dtype, jnp.floating):
            got = f"an array of {logits.dtype}" if hasattr(logits, "dtype") else f"a {type(logits).__name__}"
            want = "want one array of floating-point logits"
            raise NetworkError(f"net.name: {name} turns {inputs.kind} into {got}, {want}")
        shape = (BATCH, inputs.shape[0], classes) if inputs.positions else (BATCH, classes)
        if tuple(logits.shape) != shape:
            every = ", one label for every position" if inputs.positions else ""
            want = f"want {shape}: {classes} classes{every}"
            raise NetworkError(f"net.name: {name} turns {BATCH} {inputs.kind} into {tuple(logits.shape)}, {want}")
    return network


def resized(network: Network, widths: Mapping[str, int]) -> Network:
    """The same family of networks with other widths as the parent's."""
    if dict(widths) == dict(network.widths):
        return network
    other = copy.copy(network)
    other.widths = dict(widths)
    return other


def _traced(network: Network, widths: tuple[int, ...]) -> Any:
    """What the network returns for logits, abstractly: nothing is allocated. Its gradient is traced too.

    Raises:
      NetworkError: training leaves other statistics than the network was made with.
    """
    inputs = inputs_of(network, BATCH)
    variables, key = network.abstract(widths), jax.eval_shape(lambda: jax.random.key(0, impl=KEYS))

    def loss(params: Any, stats: Any, x: jax.Array, key: jax.Array) -> Any:
        found, new = network.apply(widths, Variables(params, stats), x, train=True, key=key)
        return sum(jnp.sum(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(found)), new

    _, new = jax.eval_shape(jax.grad(loss, has_aux=True, allow_int=True), *variables, inputs, key)
    before, after = ({path: leaf.shape for path, leaf in stats.items()} for stats in (variables.stats, new))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            got, had = (f"of shape {shapes[path]}" if path in shapes else "gone" for shapes in (after, before))
            had = had if path in before else "none, as it was made"
            raise NetworkError(f"{network.name}: after a training step the statistic '{path}' is {got}, want {had}")
    return jax.eval_shape(lambda v, x: network.apply(widths, v, x, train=False)[0], variables, inputs)
