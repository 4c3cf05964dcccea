"""What clients and the server do with a gradient: `train.client_optimizer` and `train.server_optimizer`.

A choice is a function of the training's config, and of the arguments that stand in the config's text, that gives an
optax transformation: its updates are added to the weights, as optax's own are. A client's is made for a learning rate
of 1, since the round's multiplies what it gives; the server's has `train.server_learning_rate` in it. The server's
gradient is the averaged update, negated [FedOpt, algorithm 2].
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fednas_jax.config.registries import CLIENT_OPTIMIZERS, SERVER_OPTIMIZERS
from fednas_jax.config.schema import TrainConfig
from fednas_jax.errors import ConfigError
from fednas_jax.registry import Registry, attempt
from fednas_jax.space.network import RUN_ONCE, Variables


def client_sgd(train: TrainConfig) -> optax.GradientTransformation:
    """SGD with `train.momentum`."""
    return optax.sgd(1.0, momentum=train.momentum if _used(train.momentum) else None)


def client_optax(name: str, train: TrainConfig, /, **arguments: Any) -> optax.GradientTransformation:
    """Any optimiser of optax, at a learning rate of 1; `train.momentum` is not looked at."""
    del train
    return _of_optax(CLIENT_OPTIMIZERS.field, name, 1.0, arguments)


def server_avg(train: TrainConfig) -> optax.GradientTransformation:
    """Adds the averaged update; at a rate of 1 that is FedAvg."""
    return optax.sgd(train.server_learning_rate)


def server_momentum(train: TrainConfig) -> optax.GradientTransformation:
    """FedAvgM: the averaged update with momentum 0.9."""
    return optax.sgd(train.server_learning_rate, momentum=0.9)


# The adaptive ones use the constants of FedOpt's experiments: b1 = 0.9, b2 = 0.99, tau = 0.001.
def server_adam(train: TrainConfig) -> optax.GradientTransformation:
    """FedAdam."""
    return optax.adam(train.server_learning_rate, b1=0.9, b2=0.99, eps=1e-3)


def server_yogi(train: TrainConfig) -> optax.GradientTransformation:
    """FedYogi; v begins at tau^2 and m at 0: at 1e-6, where optax begins it too, it would move removed channels."""
    yogi = optax.yogi(train.server_learning_rate, b1=0.9, b2=0.99, eps=1e-3)

    def init(params: Any) -> Any:
        moments, *rest = yogi.init(params)
        return moments._replace(mu=jax.tree.map(jnp.zeros_like, moments.mu)), *rest

    return optax.GradientTransformation(init, yogi.update)


def server_adagrad(train: TrainConfig) -> optax.GradientTransformation:
    """FedAdagrad."""
    return optax.adagrad(train.server_learning_rate, initial_accumulator_value=0.0, eps=1e-3)


def server_optax(name: str, train: TrainConfig, /, **arguments: Any) -> optax.GradientTransformation:
    """Any optimiser of optax, at `train.server_learning_rate`."""
    return _of_optax(SERVER_OPTIMIZERS.field, name, train.server_learning_rate, arguments)


def client_optimizer(train: TrainConfig) -> optax.GradientTransformation:
    """The clients' optimiser up to its learning rate: weight decay, FedProx and what is chosen, in this order."""
    parts = [optax.add_decayed_weights(train.weight_decay)] if _used(train.weight_decay) else []
    if _used(train.proximal):
        parts.append(add_proximal(train.proximal))
    return optax.chain(*parts, CLIENT_OPTIMIZERS.get(train.client_optimizer)(train))


def is_plain_sgd(train: TrainConfig) -> bool:
    """Whether a client's update is its gradient times the negative learning rate, and nothing else."""
    return train.client_optimizer == "sgd" and not any(map(_used, (train.momentum, train.weight_decay, train.proximal)))


def _used(number: float | jax.Array) -> bool:
    """Whether a term is there at all; of a traced number nobody knows, so it is."""
    return isinstance(number, jax.Array) or number != 0


def add_proximal(mu: float) -> optax.GradientTransformation:
    """Adds mu x (weights - weights at init) to the gradient: it pulls back to the round's start [FedProx, eq. 2]."""

    def update(updates: Any, anchor: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(lambda u, p, a: u + mu * (p - a), updates, params, anchor), anchor

    return optax.GradientTransformation(lambda params: params, update)


def server_optimizer(train: TrainConfig) -> optax.GradientTransformation:
    """The server's optimiser of the averaged update."""
    optimizer: optax.GradientTransformation = SERVER_OPTIMIZERS.get(train.server_optimizer)(train)
    return optimizer


def server_state(train: TrainConfig, stack: Variables) -> Any:
    """The server optimiser's state for a stack, [K, ...]."""
    return jax.vmap(server_optimizer(train).init)(stack.params)


def check(train: TrainConfig) -> None:
    """Tries both optimisers on two weights, before anything is trained.

    Raises:
      ConfigError: one is no optax transformation that can be called with gradients and weights alone, or it moves a
        weight of 0 whose gradient is 0: then removed channels would not stay removed.
    """
    (_tried.__wrapped__ if any_own(train) else _tried)(train)  # code of the user's own may have changed


def any_own(train: TrainConfig) -> bool:
    """Whether an optimiser is the user's own, by MODULE:FUNCTION or registered: it may look at all of the config."""
    return any(registry.checksum(text) is not None for registry, text in _named(train))


def _named(train: TrainConfig) -> tuple[tuple[Registry[Any], str], ...]:
    """The two optimisers that a config names, each with its registry."""
    return (CLIENT_OPTIMIZERS, train.client_optimizer), (SERVER_OPTIMIZERS, train.server_optimizer)


@functools.lru_cache(maxsize=64)  # a run has two fleets, a worker many runs
def _tried(train: TrainConfig) -> None:
    for registry, text in _named(train):
        _try(registry, text, registry.get(text)(train))


def _try(registry: Registry[Any], text: str, optimizer: Any) -> None:
    what = f"{registry.field}: got {text!r}"
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ConfigError(f"{what}, which gives a {type(optimizer).__name__}, want an optax transformation")

    def memories(params: dict[str, jax.Array]) -> tuple[Any, Any]:
        state = optimizer.init(params)
        return state, optimizer.update(params, state, params)[1]

    def twice(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        state, grads = optimizer.init(params), params
        for _ in range(2):
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p + 0.01 * u, params, updates)
        return params

    start = {"a": np.asarray([[0, 1], [2, 3]], np.float32), "b": np.asarray([0, -1], np.float32)}
    moved = attempt(f"{what}, want one that works", None, lambda: jax.jit(twice, compiler_options=RUN_ONCE)(start))
    if jax.tree.map(np.shape, moved) != jax.tree.map(np.shape, start):
        raise ConfigError(f"{what}, which changes the weights' shapes, want updates of the gradients' shapes")
    before, after = map(_form, jax.eval_shape(memories, start))
    if before != after:
        raise ConfigError(f"{what}, whose memory is {after} after a step, want {before} as at the beginning")
    if any(np.any(np.asarray(moved[path])[start[path] == 0] != 0) for path in start):
        raise ConfigError(
            f"{what}, which moves a weight of 0 whose gradient is 0, want one that doesn't: removed channels stay so"
        )


def _form(memory: Any) -> Any:
    """Types and shapes of its arrays, as text where they lie."""
    return jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", memory)


def _of_optax(field: str, name: str, learning_rate: float, arguments: dict[str, Any]) -> optax.GradientTransformation:
    """An optimiser of optax by name.

    Raises:
      ConfigError: optax has no such optimiser, or it does not take these arguments.
    """
    known = _optimizers_of_optax()
    if name not in known:
        raise ConfigError(f"{field}: got 'optax:{name}', want one of optax's optimisers: {', '.join(known)}")
    takes = [n for n in inspect.signature(known[name]).parameters if n != "learning_rate"]
    for argument in arguments:
        if argument not in takes:
            want = f"want {', '.join(takes) or 'none'} (the learning rate has a field of its own)"
            raise ConfigError(f"{field}: got 'optax:{name}' with the argument {argument!r}, {want}")
    make = known[name]
    return attempt(f"{field}: optax:{name}", None, lambda: make(learning_rate=learning_rate, **arguments))


def _optimizers_of_optax() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Functions of optax that make an optimiser from a learning rate and what else has a default."""
    found: dict[str, Callable[..., Any]] = {}
    for name, value in sorted(vars(optax).items()):
        if inspect.isfunction(value) and not name.startswith(("_", "scale_by")):
            takes = inspect.signature(value).parameters
            required = [n for n, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
            if "learning_rate" in takes and set(required) <= {"learning_rate"}:
                found[name] = value
    return found
