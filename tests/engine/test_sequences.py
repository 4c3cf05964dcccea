"""Texts and series train and score as the oracle does, whether an example has a label or every position of it."""

import jax
import numpy as np
import oracle
import pytest
from rounds import MOMENT, fleet, round_key, stacked, with_config

from fednas_jax import nets
from fednas_jax.config.schema import DataConfig, NetConfig
from fednas_jax.data import Examples, load, pack, partition
from fednas_jax.data.examples import dataset
from fednas_jax.engine import losses
from fednas_jax.engine.tasks import Tasks

WIDTHS = (4, 6, 4)
CONFIG = with_config(batch_size=4)
IDS = [7, 0]
MADE = {"clients": 5, "partition": "iid", "size_sigma": 0.6, "min_examples": 4}
MADE |= {"synthetic_length": 5, "synthetic_tokens": 12, "synthetic_classes": 3, "synthetic_examples": 50}


def series():
    """Series [T, F] whose class is the feature with the largest sum."""
    rng = np.random.default_rng(3)
    inputs = rng.normal(2, 3, (50, 5, 3)).astype(np.float32)
    examples = Examples(inputs, inputs.sum(1).argmax(-1).astype(np.int32))
    return dataset("series", examples, examples, 3)


@pytest.fixture(
    scope="module", params=["texts", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("tags", "series"))]
)
def task(request):
    """The data, its clients, a network and two candidates."""
    config = DataConfig(source=f"synthetic_{request.param}", **MADE)
    found = series() if request.param == "series" else load(config, 0)
    packed = pack(found.train, partition(found.train.labels, config, 1), 0.3, 1)
    form = (found.train.inputs.shape[1:], found.classes, found.tokens, found.train.labels.ndim > 1)
    network = nets.build(NetConfig("lstm", widths=WIDTHS), *form)
    return found, packed, network, [jax.device_get(network.init(WIDTHS, jax.random.key(k))) for k in range(2)]


@pytest.mark.parametrize(("lanes", "devices"), [(3, 8), pytest.param(1, 1, marks=pytest.mark.exhaustive)])
def test_a_round_and_its_scores_equal_the_oracle(task, lanes, devices):
    found, packed, network, candidates = task
    engine = fleet(network, found, packed, lanes, devices, CONFIG)
    tasks = Tasks(np.array([0, 0, 0, 1, 1], np.int32), np.array([0, 1, 2, 3, 4], np.int32))
    stack = stacked(candidates)
    done = engine.train(WIDTHS, stack, engine.init_server(stack), tasks, MOMENT, IDS, CONFIG.learning_rate).stack
    pairs = list(zip(tasks.candidate.tolist(), tasks.client.tolist(), strict=True))
    facts = (packed, found.mean, found.std, CONFIG, pairs, round_key(), IDS)
    expected = oracle.train_round(network, WIDTHS, candidates, *facts)
    moved = 0.0
    for k in range(2):
        for ours, theirs, before in zip(*map(jax.tree.leaves, (done, expected[k], candidates[k])), strict=True):
            np.testing.assert_allclose(ours[k], theirs, atol=1e-5)
            moved = max(moved, np.abs(theirs - before).max())
    assert moved > 1e-3
    everyone = Tasks(np.repeat([0, 1], 5).astype(np.int32), np.tile(np.arange(5), 2).astype(np.int32))
    tally = engine.evaluate(WIDTHS, stack, everyone)
    for k in range(2):
        wanted = oracle.accuracy(network, WIDTHS, candidates[k], packed, range(5), found.mean, found.std)
        assert (tally.correct[k], tally.total[k]) == wanted
        assert tally.score[k] == pytest.approx(wanted[0] / wanted[1])


def test_positions_without_a_label_count_for_nothing():
    """A batch of which no position is labelled has the loss 0, and no gradient."""
    loss = losses.loss_of("cross_entropy")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, 3)).astype(np.float32), np.array([[0, 2, -1, -1], [1, -1, -1, -1]])
    each = loss(logits[labels >= 0], labels[labels >= 0])
    np.testing.assert_allclose(losses.batch_mean(loss, logits, labels), each.mean(), rtol=1e-6)
    nothing = jax.grad(lambda x: losses.batch_mean(loss, x, np.full((2, 4), -1)))(logits)
    np.testing.assert_array_equal(nothing, 0)
