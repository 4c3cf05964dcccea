"""Compressed updates: what is sent is what the server gets, and no more bytes than are charged."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fednas_jax.config.checks import validate
from fednas_jax.config.schema import Config, TrainConfig
from fednas_jax.engine import compression, local
from fednas_jax.errors import ConfigError
from fednas_jax.space import probing
from fednas_jax.space.network import RUN_ONCE

INT8, TOPK = TrainConfig(compression="int8"), TrainConfig(compression="topk", compression_keep=0.25)
values = hnp.arrays(np.float32, 12, elements=st.floats(-100, 100, width=32, allow_subnormal=False))


@given(values)
def test_eight_bits_are_255_steps_and_zero_stays_zero(update):
    found = np.asarray(compression.compress(INT8, {"a": jnp.asarray(update)})["a"])
    step = np.abs(update).max() / 127
    np.testing.assert_allclose(found, update, atol=0.51 * step + 1e-30)
    assert len(np.unique(found)) <= 255
    assert (found[update == 0] == 0).all()


def test_the_largest_entries_of_all_variables_together_are_sent():
    update = {"a": jnp.asarray([[1.0, -8.0], [0.0, 2.0]]), "b": jnp.asarray([3.0, -4.0, 0.0, 0.0, 7.0])}
    third = TrainConfig(compression="topk", compression_keep=0.34)
    found = compression.compress(third, update)  # 6 entries are not zero, a third of them are 2
    np.testing.assert_array_equal(found["a"], [[0, -8], [0, 0]])
    np.testing.assert_array_equal(found["b"], [0, 0, 0, 0, 7])


@given(values, st.floats(0.01, 1))
def test_never_more_entries_are_sent_than_charged(update, keep):
    config = TrainConfig(compression="topk", compression_keep=keep)
    found = np.asarray(compression.compress(config, {"a": jnp.asarray(update)})["a"])
    assert (found != 0).sum() <= np.ceil(keep * len(update))
    assert ((found == update) | (found == 0)).all()


@pytest.mark.parametrize("config", [INT8, TOPK], ids=["int8", "topk"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_compression_hides_no_entry_that_is_no_finite_number(config, number):
    sent = compression.compress(config, {"a": jnp.array([3.0, 1.0, number, 2.0]), "b": jnp.arange(100.0)})
    assert not all(np.isfinite(leaf).all() for leaf in sent.values())


def test_bytes_are_counted_by_hand_and_jax_can_trace_them():
    found = probing.probe(networks.norm(), (1,), check=False)
    widths = (4, 6)
    # conv 3x3x2x4, norm 2x4, depthwise 3x3x4 + 4, dense 36x6 + 6, classifier 6x3 + 3; statistics 2x4.
    params = 72 + 8 + 36 + 4 + 216 + 6 + 18 + 3
    variables = 9
    want = {
        TrainConfig(): 4 * params + 32,
        INT8: params + 4 * variables + 32,
        TOPK: 8 * -(-params // 4) + 32,
    }
    for config, size in want.items():
        count = compression.upload_bytes(config, found)
        assert count(widths) == size
        assert int(jax.jit(count)(jnp.asarray(widths))) == size


@pytest.mark.parametrize("config", [INT8, TOPK], ids=["int8", "topk"])
def test_a_client_hands_in_its_compressed_update_and_whole_statistics(config):
    network, widths = networks.norm(), (8, 8)
    start = networks.start(network, widths)
    images, labels = networks.batch(network)
    said = []
    for chosen in (TrainConfig(), config):
        client = local.make_local(network, widths, chosen)

        def train(variables, client=client):
            state = client.step(client.init(variables), images, labels, jnp.float32(0.1), jax.random.key(0))
            return client.final(variables, state.variables)

        said.append(jax.jit(train, compiler_options=RUN_ONCE)(start))
    whole, sent = said
    jax.tree.map(np.testing.assert_array_equal, sent.stats, whole.stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        sent.params,
        compression.compress(config, whole.params),
    )
    assert any((a != b).any() for a, b in zip(sent.params.values(), whole.params.values(), strict=True))


def test_a_fraction_of_nothing_is_refused():
    config = Config(train=TrainConfig(compression="topk", compression_keep=0.0))
    with pytest.raises(ConfigError, match=r"train\.compression_keep: got 0\.0, want above 0 and at most 1"):
        validate(config)
