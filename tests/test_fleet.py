"""The fast engine equals the readable oracle, for any number of lanes and devices, and wastes no step."""

import jax
import numpy as np
import oracle
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax import local
from fednas_jax.config import DataConfig, EngineConfig, TrainConfig
from fednas_jax.data import chunks, load, pack, partition
from fednas_jax.fleet import Fleet, Tasks
from fednas_jax.nets import from_nnx
from fednas_jax.space import Variables, probe

WIDTHS = (4, 6)
MOMENT = (3, 2, 1)
NAMES = [7, 0, 5]
CONFIG = TrainConfig(local_epochs=1.5, batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=1e-3, proximal=0.3)


class ConvNorm(nnx.Module):
    def __init__(self, widths, rngs):
        self.conv = nnx.Conv(1, widths["conv"], (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(widths["conv"], momentum=0.9, rngs=rngs)
        self.dense = nnx.Linear(16 * widths["conv"], widths["dense"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense"], 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.classifier(nnx.relu(self.dense(x.reshape(x.shape[0], -1))))


@pytest.fixture(scope="module")
def dataset():
    return load(DataConfig(), 0)


@pytest.fixture(scope="module")
def packed(dataset):
    """Nine clients of very uneven sizes; the smallest holds fewer examples than a batch."""
    config = DataConfig(clients=9, size_sigma=1.0, min_examples=4)
    few = type(dataset.train)(dataset.train.images[:260], dataset.train.labels[:260])
    return pack(few, partition(few.labels, config, 1), 0.3, 1)


@pytest.fixture(scope="module")
def network():
    return from_nnx("conv_norm", ConvNorm, {"conv": 4, "dense": 6}, (8, 8, 1))


@pytest.fixture(scope="module")
def candidates(network):
    return [jax.device_get(network.init(WIDTHS, jax.random.key(k))) for k in range(3)]


def fleet(network, dataset, packed, lanes, devices, config=CONFIG):
    engine = EngineConfig(lanes=lanes, eval_batch=4)
    return Fleet(network, packed, dataset.mean, dataset.std, config, engine, 0, 3, jax.devices()[:devices])


def stacked(candidates):
    return jax.tree.map(lambda *a: np.stack(a), *candidates)


def one_round(engine, candidates, tasks, config=CONFIG):
    stack = stacked(candidates)
    trained, _ = engine.train(WIDTHS, stack, engine.init_server(stack), tasks, MOMENT, NAMES, config.learning_rate)
    return [jax.tree.map(lambda a, k=k: np.asarray(a[k]), trained) for k in range(len(candidates))]


TASKS = Tasks(np.array([0, 0, 0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 1, 2, 3, 8, 4, 5, 6, 7, 8]))


@pytest.fixture(scope="module")
def expected(network, dataset, packed, candidates):
    key = jax.random.key(0)
    for part in MOMENT:
        key = jax.random.fold_in(key, part)
    pairs = list(zip(TASKS.candidate.tolist(), TASKS.client.tolist(), strict=True))
    mean, std = dataset.mean, dataset.std
    return oracle.train_round(network, WIDTHS, candidates, packed, mean, std, CONFIG, pairs, key, NAMES)


@pytest.mark.parametrize(("lanes", "devices"), [(1, 1), (3, 1), (8, 1), (1, 8), (3, 8), (8, 8)])
def test_a_round_equals_the_oracle_on_any_lanes_and_devices(
    network, dataset, packed, candidates, expected, lanes, devices
):
    assert packed.train_count.min() < CONFIG.batch_size < packed.train_count.max()
    engine = fleet(network, dataset, packed, lanes, devices)
    trained = one_round(engine, candidates, TASKS)
    for k in range(3):
        for ours, theirs in zip(jax.tree.leaves(trained[k]), jax.tree.leaves(expected[k]), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    moved = np.abs(trained[0].params["conv/kernel"] - candidates[0].params["conv/kernel"]).max()
    assert moved > 1e-3
    untouched = zip(jax.tree.leaves(trained[1]), jax.tree.leaves(candidates[1]), strict=True)
    assert all(np.array_equal(a, b) for a, b in untouched)

    tally = engine.evaluate(WIDTHS, stacked(trained), TASKS)
    for k in (0, 2):
        clients = TASKS.client[TASKS.candidate == k]
        right, count = oracle.accuracy(network, WIDTHS, trained[k], packed, clients, dataset.mean, dataset.std)
        assert (tally.correct[k], tally.total[k]) == (right, count)
    assert np.isnan(tally.accuracy[1])  # nobody scored it
    assert engine.meter.steps == local.local_steps(packed.train_count, CONFIG)[TASKS.client].sum()


def test_many_short_calls_equal_one_long_one(network, dataset, packed, candidates, expected, monkeypatch):
    monkeypatch.setattr("fednas_jax.schedule.TASKS_PER_LANE", 1)
    trained = one_round(fleet(network, dataset, packed, 3, 1), candidates, TASKS)
    np.testing.assert_allclose(trained[0].params["conv/kernel"], expected[0].params["conv/kernel"], atol=1e-5)


def test_half_the_candidates_take_half_the_steps_and_no_other_program(network, dataset, packed, candidates):
    engine = fleet(network, dataset, packed, 1, 1)
    clients = np.arange(packed.clients)
    both = Tasks(np.repeat([0, 2], len(clients)), np.tile(clients, 2))
    one_round(engine, candidates, both)
    whole, lane_steps = engine.meter.steps, engine.meter.lane_steps
    one_round(engine, candidates, Tasks(np.zeros(len(clients), int), clients))
    assert engine.meter.steps - whole == whole / 2
    assert engine.meter.lane_steps - lane_steps == lane_steps / 2
    assert engine.meter.compilations == 1


def test_a_diverged_candidate_scores_nan_and_harms_no_other(network, dataset, packed, candidates):
    broken = jax.tree.map(np.copy, candidates[0])
    broken.params["classifier/bias"][:] = np.nan
    engine = fleet(network, dataset, packed, 3, 1)
    stack = [broken, candidates[1], candidates[2]]
    trained = one_round(engine, stack, TASKS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained[2]))
    tally = engine.evaluate(WIDTHS, stacked(trained), TASKS)
    assert np.isnan(tally.accuracy[0])
    assert np.isfinite(tally.accuracy[2])


def test_test_examples_are_each_counted_once(network, dataset, candidates):
    split = chunks(dataset.test, 50)
    engine = fleet(network, dataset, split, 3, 2)
    clients = np.arange(split.clients)
    tally = engine.evaluate(WIDTHS, stacked(candidates), Tasks(np.zeros(len(clients), int), clients))
    assert tally.total[0] == len(dataset.test.labels)


@pytest.mark.parametrize("name", ["momentum", "adam", "yogi", "adagrad"])
def test_a_server_optimiser_sees_the_averaged_update_as_its_descent(name, network, dataset, packed, candidates):
    """Two rounds by hand: the first moments and rates of FedOpt's algorithm 2 on what plain averaging would add."""
    plain = fleet(network, dataset, packed, 3, 1)
    rate = 0.1
    adaptive = TrainConfig(**{**vars(CONFIG), "server_optimizer": name, "server_learning_rate": rate})
    engine = fleet(network, dataset, packed, 3, 1, adaptive)
    stack = stacked(candidates)
    averaged, _ = plain.train(WIDTHS, stack, plain.init_server(stack), TASKS, MOMENT, NAMES, 0.05)
    server = engine.init_server(stack)
    moved, server = engine.train(WIDTHS, stack, server, TASKS, MOMENT, NAMES, 0.05)
    path = "conv/kernel"
    update = np.asarray(averaged.params[path][0]) - candidates[0].params[path]
    first = {
        "momentum": update,
        "adam": update / (np.abs(update) + 1e-3),
        "yogi": update / (np.sqrt(np.square(update) + 1e-6 / 0.01) + 1e-3),  # optax starts its v at 1e-6
        "adagrad": update / np.sqrt(np.square(update) + 1e-3),
    }[name]
    step = np.asarray(moved.params[path][0]) - candidates[0].params[path]
    np.testing.assert_allclose(step, rate * first, rtol=0.02, atol=2e-4)
    np.testing.assert_allclose(moved.stats["norm/mean"][0], averaged.stats["norm/mean"][0], atol=1e-6)
    assert np.array_equal(moved.params[path][1], candidates[1].params[path])


def test_the_proximal_term_pulls_towards_the_start(network, dataset, packed, candidates):
    def distance(mu):
        config = TrainConfig(**{**vars(CONFIG), "proximal": mu, "weight_decay": 0.0})
        trained = one_round(fleet(network, dataset, packed, 3, 1, config), candidates, TASKS, config)
        return sum(np.square(trained[0].params[p] - candidates[0].params[p]).sum() for p in candidates[0].params)

    assert distance(3.0) < 0.9 * distance(0.0)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_stream_is_fresh_permutations_and_its_start_ignores_the_capacity(count, extra, seed):
    key = jax.random.key(seed)
    epochs = 3
    order = np.asarray(local.stream(key, np.int32(count), 120 + 5 * 40))
    for epoch in range(epochs):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
    longer = np.asarray(local.stream(key, np.int32(count), 120 + (5 + 1) * 40))
    assert np.array_equal(order[: epochs * count], longer[: epochs * count])
    assert np.array_equal(order[: epochs * count], oracle.batch_stream(key, count, epochs * count))


def test_shuffles_of_different_epochs_differ():
    order = np.asarray(local.stream(jax.random.key(0), np.int32(50), 200))
    assert not np.array_equal(order[:50], order[50:100])


def test_local_steps_are_full_batches_of_the_epochs():
    config = TrainConfig(local_epochs=1.5, batch_size=8)
    counts = np.array([1, 5, 6, 16, 17])
    # ceil(1.5 n / 8)
    assert local.local_steps(counts, config).tolist() == [1, 1, 2, 3, 4]
    thirds = TrainConfig(local_epochs=0.1, batch_size=1)
    assert local.local_steps(np.array([30]), thirds).tolist() == [3]  # not 4 for 0.1 x 30 = 3.0000000000000004


def test_masked_candidates_stay_masked_through_a_round(network, dataset, packed, candidates):
    found = probe(network, (2,), check=False)
    keep = (np.array([True, False, True, False]), np.array([False, True, True, False, True, True]))
    masked = found.mask(candidates[0], keep)
    trained = one_round(fleet(network, dataset, packed, 3, 1), [masked] * 3, TASKS)[0]
    inverse = tuple(~k for k in keep)
    for path, leaf in {**trained.params, **trained.stats}.items():
        for axis, dim in enumerate(found.labels[path]):
            if dim is not None:
                removed = np.compress(np.tile(inverse[dim.group], dim.repeat), leaf, axis=axis)
                assert not removed.any(), path
    assert isinstance(trained, Variables)
