"""Every optimiser, the project's own and a user's, is an optax transformation that leaves removed channels removed."""

import jax
import numpy as np
import optax
import oracle
import pytest
from rounds import CONFIG, NAMES, TASKS, WIDTHS, assert_close, fleet, one_round, round_key, with_config

from fednas_jax.config.registries import CLIENT_OPTIMIZERS, SERVER_OPTIMIZERS
from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine import optimizers
from fednas_jax.errors import ConfigError

OWN = """
import jax.numpy as jnp
import optax

def mine(train, scale=1.0):
    return optax.chain(optax.trace(train.momentum), optax.scale(-scale))

def drift(train):
    return optax.stateless(lambda updates, params: {path: 0.01 - update for path, update in updates.items()})

def broken(train):
    return 3

def raising(train):
    raise ValueError("no luck")

def late(train):
    def update(updates, state, params=None):
        raise ValueError("only when it is used")
    return optax.GradientTransformation(lambda params: (), update)

def counting(train):
    def update(updates, steps, params=None):
        return updates, steps + 0.5
    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

def growing(train):
    def update(updates, all, params=None):
        return updates, (*all, jnp.zeros(2))
    return optax.GradientTransformation(lambda params: (), update)
"""
START = {"w": np.array([0.0, 1.0, -2.0], np.float32)}
KINDS = {"client_optimizer": CLIENT_OPTIMIZERS, "server_optimizer": SERVER_OPTIMIZERS}
TEXTS = (
    "optax:adam",
    "optax:adamw(b1=0.8)",
    "optax:lion",
    "optax:rmsprop(decay=0.5)",
    "{own}:mine",
    "{own}:mine(scale=2)",
)


def chosen(field, text, **more):
    """The optimiser as the engine makes it, after the engine's check."""
    train = TrainConfig(**{field: text, "weight_decay": 0.0, "server_learning_rate": 0.1, **more})
    optimizers.check(train)
    return getattr(optimizers, field)(train)


def steps(optimizer, number=3):
    """Weights after some steps down 0.5 |w - target|^2, where the first weight's gradient is always 0."""
    params, target = START, np.array([0.0, 3.0, 5.0], np.float32)
    state = optimizer.init(params)
    for _ in range(number):
        updates, state = optimizer.update({"w": params["w"] - target}, state, params)
        params = jax.tree.map(lambda p, u: p + 0.1 * u, params, updates)
    return np.asarray(params["w"])


@pytest.mark.parametrize("field", KINDS)
def test_every_optimiser_descends_and_leaves_a_removed_weight_removed(field, own_module, monkeypatch):
    own = own_module(OWN)
    monkeypatch.setitem(KINDS[field]._homes, "registered", lambda train: optax.sgd(0.5))
    for text in (*KINDS[field], *(text.format(own=own) for text in TEXTS)):
        moved = steps(chosen(field, text))
        assert moved[0] == 0, text
        assert moved[1] > 1, text
        assert moved[2] > -2, text


def test_an_optimiser_of_optax_is_that_of_optax_at_the_round_s_learning_rate():
    ours = steps(chosen("client_optimizer", "optax:adam(b1=0.8)"))
    adam, params = optax.adam(0.1, b1=0.8), START
    state = adam.init(params)
    for _ in range(3):
        updates, state = adam.update({"w": params["w"] - np.array([0.0, 3.0, 5.0], np.float32)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(ours, params["w"], rtol=1e-6)


@pytest.mark.parametrize("field", KINDS)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optax:adamn", r"got 'optax:adamn', want one of optax's optimisers: .*adam, "),
        ("optax:chain", r"got 'optax:chain', want one of optax's optimisers"),
        ("optax:adam(b7=1)", r"got 'optax:adam' with the argument 'b7', want b1, b2, eps"),
        (
            "optax:adam(learning_rate=1)",
            r"with the argument 'learning_rate', want b1, .*\(the learning rate has a field",
        ),
        ("optax", r"got 'optax', want one of .*optax:NAME, or MODULE:FUNCTION"),
        ("adamn", r"got 'adamn', want one of .*optax:NAME, or MODULE:FUNCTION"),
        ("{own}:drift", r"which moves a weight of 0 whose gradient is 0, want one that doesn't"),
        ("{own}:broken", r"which gives a int, want an optax transformation"),
        ("{own}:raising", r"ValueError: no luck"),
        ("{own}:late", r"ValueError: only when it is used"),
        ("{own}:counting", r"whose memory is float32\[\] after a step, want int32\[\] as at the beginning"),
        ("{own}:growing", r"whose memory is \('float32\[2\]',\) after a step, want \(\) as at the beginning"),
        ("{own}:nothing", r"want one of the functions of own_\w+, which has mine, drift"),
    ],
)
def test_what_is_no_optimiser_is_refused_in_one_line(field, text, said, own_module):
    text = text.format(own=own_module(OWN))
    with pytest.raises(ConfigError, match=rf"^train\.{field}: .*{said}") as refused:
        chosen(field, text)
    assert "\n" not in str(refused.value)


@pytest.mark.exhaustive
def test_clients_with_adam_and_a_smoothed_loss_equal_the_oracle(network, dataset, packed, candidates):
    # A bias before BatchNorm has a gradient of rounding errors alone, which Adam's usual eps would make much of.
    adam, loss = "optax:adam(b1=0.8, eps=1e-3)", "cross_entropy(smoothing=0.2)"
    config = with_config(client_optimizer=adam, loss=loss, learning_rate=0.01)
    trained = one_round(fleet(network, dataset, packed, 3, 2, config), candidates, TASKS, config)
    pairs = list(zip(TASKS.candidate.tolist(), TASKS.client.tolist(), strict=True))
    mean, std, key = dataset.mean, dataset.std, round_key()
    wanted = oracle.train_round(network, WIDTHS, candidates, packed, mean, std, config, pairs, key, NAMES)
    assert_close(trained, wanted, atol=5e-5)
    plain = one_round(fleet(network, dataset, packed, 3, 2), candidates, TASKS, CONFIG)
    assert np.abs(trained[0].params["conv/kernel"] - plain[0].params["conv/kernel"]).max() > 1e-3
