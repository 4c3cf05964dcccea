"""One client's training as three functions, init, step and final; and the order in which it meets its examples.

They know nothing of lanes, masks or candidates: the fleet runs them side by side, the tests' oracle one after another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine.compression import compress
from fednas_jax.engine.losses import batch_mean, loss_of
from fednas_jax.engine.optimizers import client_optimizer, is_plain_sgd
from fednas_jax.space.network import Network, Variables, Widths


class LocalState(NamedTuple):
    """What a client holds while it trains."""

    variables: Variables
    optimizer: Any  # optax state: momentum and the like, and FedProx's anchor
    computed: Any  # the parameters in the precision that is computed in; None where that is their own


class Local(NamedTuple):
    """A client's training: `init(start)`, `step(state, inputs, labels, rate, key)`, `final(start, trained)`."""

    init: Callable[[Variables], LocalState]
    step: Callable[..., LocalState]
    final: Callable[[Variables, Variables], Variables]


def make_local(network: Network, widths: Widths, config: TrainConfig) -> Local:
    """Local training for a network at these widths, with the config's optimiser and loss.

    `step` takes inputs [B, ...], labels [B] or [B, T] int32, the learning rate and the key of the step's dropout.
    `final` gives the update, trained minus start, of parameters and statistics, as it is sent: compressed if asked.
    """
    optimizer, plain = client_optimizer(config), is_plain_sgd(config)
    forward = _forward(network, widths, config)
    loss_of_each = loss_of(config.loss)

    def init(start: Variables) -> LocalState:
        return LocalState(start, optimizer.init(start.params), _computed(config, start.params))

    def step(
        state: LocalState, inputs: jax.Array, labels: jax.Array, learning_rate: jax.Array, key: jax.Array
    ) -> LocalState:
        params, stats = state.variables

        # Where the update is the gradient times a number, the loss is multiplied by it: a product then adds to the
        # weights what it computes, and no gradient has to be written.
        factor = -learning_rate if plain else 1.0

        def loss(computed: dict[str, Any]) -> tuple[jax.Array, dict[str, Any]]:
            logits, new_stats = forward(Variables(computed, stats), inputs, train=True, key=key)
            return factor * batch_mean(loss_of_each, logits, labels), new_stats

        computed = params if state.computed is None else state.computed
        grads, stats = jax.grad(loss, has_aux=True)(computed)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        memory = state.optimizer
        if plain:
            params = jax.tree.map(jnp.add, params, grads)
        else:
            updates, memory = optimizer.update(grads, memory, params)
            params = jax.tree.map(lambda p, u: p + learning_rate * u, params, updates)
        # Rounded where they are written anyway, instead of in a pass of its own at the next step's begin.
        return LocalState(Variables(params, stats), memory, _computed(config, params))

    def final(start: Variables, trained: Variables) -> Variables:
        update = jax.tree.map(jnp.subtract, trained, start)
        return update._replace(params=compress(config, update.params))

    return Local(init, step, final)


def make_forward(network: Network, widths: Widths, config: TrainConfig) -> Callable[..., Any]:
    """`network.apply` at these widths, computed in the config's precision.

    Parameters, statistics, their gradients and the logits are float32 whatever the precision: bfloat16 is what products
    and activations are computed in.
    """
    forward = _forward(network, widths, config)

    def rounded(variables: Variables, inputs: jax.Array, **how: Any) -> tuple[jax.Array, dict[str, Any]]:
        computed = _computed(config, variables.params)
        return forward(variables if computed is None else variables._replace(params=computed), inputs, **how)

    return rounded


def _computed(config: TrainConfig, params: dict[str, Any]) -> dict[str, Any] | None:
    """The parameters in the config's precision; None where it is float32."""
    if config.precision == "float32":
        return None
    return jax.tree.map(lambda a: a.astype(config.precision), params)


def _forward(network: Network, widths: Widths, config: TrainConfig) -> Callable[..., Any]:
    """`make_forward`, of parameters that are in the config's precision already."""
    if config.precision == "float32":
        return functools.partial(network.apply, widths)
    compute = jnp.dtype(config.precision)

    def forward(
        variables: Variables, inputs: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        shown = inputs.astype(compute) if jnp.issubdtype(inputs.dtype, jnp.floating) else inputs
        logits, stats = network.apply(widths, variables, shown, train=train, key=key)
        stats = jax.tree.map(lambda new, old: new.astype(old.dtype), stats, variables.stats)
        return logits.astype(jnp.float32), stats

    return forward


def dropout_key(key: jax.Array) -> jax.Array:
    """The key of a client's dropout in a round; `fold_in` of a step's number gives that step's.

    It is folded off the client's key by a number that no position in `stream` reaches: the n-th number of
    `bits(key)` and `fold_in(key, n)` come out of the same block of the generator.
    """
    return jax.random.fold_in(key, 2**32 - 1)


def local_steps(counts: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Steps [C] that E epochs take on clients of `counts` [C] training examples: ceil(E n / B), full batches all."""
    return _steps(counts, config).astype(np.int32)


def stream_capacity(counts: np.ndarray, config: TrainConfig) -> int:
    """Room that the longest client's stream needs, in examples: whole epochs that cover all its steps."""
    examples, counts = _steps(counts, config) * config.batch_size, counts.astype(np.int64)
    return int(np.max(-(-examples // counts) * counts))


def _steps(counts: np.ndarray, config: TrainConfig) -> np.ndarray:
    """`local_steps` in int64, however many; somebody who has an example takes a step."""
    steps = np.ceil(config.local_epochs * counts.astype(float) / config.batch_size - 1e-9)
    return np.maximum(steps, counts > 0).astype(np.int64)


def stream(key: jax.Array, count: jax.Array, capacity: int) -> jax.Array:
    """The order in which a client meets its examples: one fresh permutation after another.

    Sorting positions by (epoch, random number) shuffles each epoch in its place, for any traced `count`. A batch may
    run over an epoch's end, so all batches are full and BatchNorm sees real examples only.

    Args:
      key: the client's key in this round.
      count: number n of its training examples, at least 1.
      capacity: length of the result; a multiple of n, or larger than the part that is used by n at least.

    Returns:
      [capacity] numbers of examples, 0 to n - 1. The result's start does not depend on `capacity`.
    """
    position = jnp.arange(capacity, dtype=jnp.int32)
    draws = jax.random.bits(key, (capacity,), jnp.uint32)
    _, _, shuffled = lax.sort((position // count, draws, position), num_keys=2)
    return shuffled % count
