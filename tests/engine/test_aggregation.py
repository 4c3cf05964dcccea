"""Every aggregation equals its readable twin, alone and on any devices; some withstand clients that attack."""

import dataclasses

import jax
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rounds import (
    CONFIG,
    MOMENT,
    NAMES,
    TASKS,
    WIDTHS,
    assert_close,
    assert_equal,
    fleet,
    one_round,
    round_key,
    stacked,
    with_config,
)

from fednas_jax import nets
from fednas_jax.config.registries import AGGREGATIONS
from fednas_jax.config.schema import DataConfig, EngineConfig, NetConfig, ParticipationConfig, TrainConfig
from fednas_jax.data import load, pack, partition
from fednas_jax.engine import aggregation, attacks
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.tasks import Tasks, diverged
from fednas_jax.errors import ConfigError
from fednas_jax.space.network import Variables

OWN = """
import jax, jax.numpy as jnp
from fednas_jax.engine.aggregation import Aggregation

def largest(factor=1.0):
    def together(updates, examples, real):
        return jax.tree.map(lambda u: factor * u[jnp.argmax(jnp.where(real, examples, -1))], updates)
    return Aggregation(together=together)

def whole():
    return Aggregation(together=lambda updates, examples, real: updates)

def words():
    return "mean"

def places():
    return Aggregation(together=lambda updates, examples, real: jax.tree.map(lambda u: u.mean(0), updates))
"""
TWINS = (
    "median",
    "trimmed_mean(share=0.2)",
    "trimmed_mean(share=0.1)",
    "krum(malicious=0.2)",
    "krum(malicious=0.2, multi=True)",
    "clipped_mean(norm=0.1)",
)


def updates_of(seed, number):
    rng = np.random.default_rng(seed)
    shapes = {"a": (3, 4), "b": (5,)}
    return [
        Variables(
            {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()},
            {"s": rng.normal(size=2).astype(np.float32)},
        )
        for _ in range(number)
    ]


def brought_together(chosen, updates, examples, places):
    """As the engine does it: updates in some of the places, zeros in the others."""
    real = np.zeros(places, bool)
    real[np.random.default_rng(places).choice(places, len(updates), replace=False)] = True

    def spread(*leaves):
        found = np.zeros((places, *leaves[0].shape), np.float32)
        found[real] = np.stack(leaves)
        return found

    weight = np.zeros(places, np.float32)
    weight[real] = examples
    if chosen.alone:
        updates = [chosen.alone(update) for update in updates]
    stack = jax.tree.map(spread, *updates)
    if chosen.together:
        return chosen.together(stack, weight, real)
    return jax.tree.map(lambda u: np.tensordot(weight / weight.sum(), u, 1), stack)


@pytest.mark.exhaustive
@given(st.integers(1, 12), st.integers(0, 5), st.integers(0, 100), st.sampled_from(TWINS))
def test_an_aggregation_equals_its_readable_twin_whatever_room_is_left(number, room, seed, text):
    updates = updates_of(seed, number)
    examples = np.random.default_rng(seed).integers(1, 50, number)
    chosen = aggregation.aggregation_of(text, updates[0])
    found = brought_together(chosen, updates, examples, number + room)
    assert_close(found, oracle.aggregate(text, updates, examples), atol=1e-6)


def test_every_aggregation_of_equal_updates_is_that_update(own_module, monkeypatch):
    own = own_module(OWN)
    monkeypatch.setitem(AGGREGATIONS._homes, "registered", aggregation.median)
    for text in (*AGGREGATIONS, f"{own}:largest", f"{own}:largest(factor=1.0)"):
        for number in (1, 2, 5):
            updates = updates_of(0, 1) * number
            chosen = aggregation.aggregation_of(text, updates[0])
            found = brought_together(chosen, updates, np.arange(1, number + 1), 8)
            assert_close(found, updates[0], atol=1e-6)


@pytest.mark.parametrize("share", [0.49999, 0.4999999999, 0.29, 0.1, 0.0])
def test_a_trimmed_mean_cuts_off_the_share_rounded_down_and_leaves_somebody(share):
    for number in (1, 2, 10, 100):
        updates = [Variables({"w": np.array([n**2], np.float32)}, {}) for n in range(number)]
        cut = min(int(np.floor(share * number + 1e-9)), (number - 1) // 2)
        found = brought_together(aggregation.trimmed_mean(share), updates, np.ones(number), 128)
        assert found.params["w"][0] == pytest.approx(np.mean(np.arange(cut, number - cut) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mode", "got 'mode', want one of mean, median, trimmed_mean, clipped_mean, krum, or MODULE:FUNCTION"),
        ("trimmed_mean(share=0.5)", "want at least 0 and below 0.5"),
        ("krum(malicious=0.5)", "want at least 0 and below 0.5"),
        ("clipped_mean(norm=0)", "want above 0"),
        ("clipped_mean(norm=1e39)", "want above 0, 1e-09 to 1e\\+09"),
        ("clipped_mean(norm=1e-46)", "want above 0, 1e-09 to 1e\\+09"),
        ("{own}:places", "whose result depends on places without an update, want what is not real left out"),
        ("median(share=1)", "with the argument 'share', want none"),
        ("{own}:whole", "whose result has another form, want that of one update"),
        ("{own}:words", "gives a str, want an Aggregation"),
    ],
)
def test_what_is_no_aggregation_is_refused(text, said, own_module):
    with pytest.raises(ConfigError, match=rf"^train\.aggregation: .*{said}"):
        aggregation.aggregation_of(text.format(own=own_module(OWN)), updates_of(0, 1)[0])


PAIRS = list(zip(TASKS.candidate.tolist(), TASKS.client.tolist(), strict=True))


def wanted(network, dataset, packed, candidates, config, **more):
    mean, std, key = dataset.mean, dataset.std, round_key()
    return oracle.train_round(network, WIDTHS, candidates, packed, mean, std, config, PAIRS, key, NAMES, **more)


@pytest.mark.parametrize(
    "text",
    [
        "trimmed_mean(share=0.2)",
        pytest.param("krum(malicious=0.2, multi=True)", marks=pytest.mark.exhaustive),
        pytest.param("clipped_mean(norm=0.3)", marks=pytest.mark.exhaustive),
    ],
)
def test_a_round_so_aggregated_equals_the_oracle_on_one_device_and_eight(network, dataset, packed, candidates, text):
    config = with_config(aggregation=text)
    engines = [fleet(network, dataset, packed, *size, config) for size in ((3, 1), (1, 8))]
    one, eight = (one_round(engine, candidates, TASKS, config) for engine in engines)
    expected = wanted(network, dataset, packed, candidates, config)
    assert_close(one, expected)
    assert_close(eight, expected)
    assert_equal(one[1], candidates[1])  # it has no tasks


def test_updates_are_kept_over_all_parts_of_a_round(network, dataset, packed, candidates, monkeypatch):
    monkeypatch.setattr("fednas_jax.engine.lane_plan.TASKS_PER_LANE", 1)
    config = with_config(aggregation="median")
    engine = fleet(network, dataset, packed, 1, 2, config, data_share=0.0)
    assert_close(one_round(engine, candidates, TASKS, config), wanted(network, dataset, packed, candidates, config))


def test_more_updates_than_memory_are_refused_with_numbers(network, dataset, packed, candidates, monkeypatch):
    config = with_config(aggregation="median")
    engine = fleet(network, dataset, packed, 1, 1, config)
    monkeypatch.setattr("fednas_jax.engine.fleet.least_memory", lambda layout: 2**16)
    said = r"got 'median', which keeps the updates of 10 tasks: \d+ MiB of a device, want at most 0 MiB: fewer clients"
    with pytest.raises(ConfigError, match=rf"^train\.aggregation: {said}"):
        one_round(engine, candidates, TASKS, config)


@pytest.mark.parametrize("text", ["mean", pytest.param("median", marks=pytest.mark.exhaustive)])
def test_updates_beyond_the_bound_are_left_out_and_counted(network, dataset, packed, candidates, text):
    def norms(config):
        for pair in PAIRS:
            alone = oracle.train_round(
                network, WIDTHS, candidates, packed, dataset.mean, dataset.std, config, [pair], round_key(), NAMES
            )
            yield float(oracle.norm(jax.tree.map(np.subtract, alone[pair[0]], candidates[pair[0]])))

    found = np.array(list(norms(CONFIG)))
    ordered = np.sort(found)
    bound = float(ordered[6] + ordered[7]) / 2
    config = with_config(update_bound=bound, aggregation=text)
    expected = wanted(network, dataset, packed, candidates, config)
    for lanes, devices in ((3, 1), (1, 8)):
        engine, stack = fleet(network, dataset, packed, lanes, devices, config), stacked(candidates)
        trained = engine.train(WIDTHS, stack, engine.init_server(stack), TASKS, MOMENT, NAMES, config.learning_rate)
        assert trained.left_out.tolist() == [(found > bound)[TASKS.candidate == k].sum() for k in range(3)]
        assert trained.left_out.sum() == 3
        assert_close([jax.tree.map(lambda a, k=k: a[k], trained.stack) for k in range(3)], expected)


def test_clients_whose_updates_are_no_numbers_are_left_out_of_those_that_are(network, dataset, packed, candidates):
    participation = ParticipationConfig(malicious=0.3, attack="scaled", attack_scale=float("inf"))
    engine, stack = fleet(network, dataset, packed, 3, 2, participation=participation), stacked(candidates)
    trained = engine.train(WIDTHS, stack, engine.init_server(stack), TASKS, MOMENT, NAMES, CONFIG.learning_rate)
    who = set(np.flatnonzero(engine.malicious))
    assert trained.left_out.tolist() == [sum((k, c) in PAIRS for c in who) for k in range(3)]
    assert 0 < trained.left_out[0] < 5
    with np.errstate(invalid="ignore"):
        expected = wanted(network, dataset, packed, candidates, CONFIG, malicious=who, attack=participation)
    assert_close([jax.tree.map(lambda a, k=k: a[k], trained.stack) for k in range(3)], expected)


@pytest.mark.parametrize("text", ["mean", pytest.param("krum", marks=pytest.mark.exhaustive)])
def test_a_candidate_all_of_whose_updates_are_left_out_stays_as_it_was(network, dataset, packed, candidates, text):
    config = with_config(aggregation=text, server_optimizer="momentum")
    engine = fleet(network, dataset, packed, 2, 2, config)
    broken = jax.tree.map(np.copy, candidates[0])
    broken.params["classifier/bias"][:] = np.inf
    stack = stacked([broken, *candidates[1:]])
    server = engine.init_server(stack)
    trained = engine.train(WIDTHS, stack, server, TASKS, MOMENT, NAMES, config.learning_rate)
    assert trained.left_out.tolist() == [5, 0, 0]
    assert diverged(TASKS, trained.left_out).tolist() == [True, False, False]
    for now, before in zip(jax.tree.leaves(trained.stack), jax.tree.leaves(stack), strict=True):
        np.testing.assert_array_equal(now[:2], before[:2])  # as it was: all its updates were left out
        assert np.isfinite(now[2]).all()
    for now, before in zip(jax.tree.leaves(trained.server), jax.tree.leaves(server), strict=True):
        np.testing.assert_array_equal(now[:2], before[:2])
        assert np.isfinite(now).all()


@pytest.mark.parametrize(
    "attack", ["sign_flip", *(pytest.param(a, marks=pytest.mark.exhaustive) for a in ("label_flip", "scaled"))]
)
def test_malicious_clients_attack_as_in_the_oracle(network, dataset, packed, candidates, attack):
    config = with_config(momentum=0.0)
    participation = ParticipationConfig(malicious=0.3, attack=attack, attack_scale=4.0)
    engine = fleet(network, dataset, packed, 3, 2, config, participation=participation)
    who = np.flatnonzero(engine.malicious)
    assert len(who) == 3  # of 9
    expected = wanted(network, dataset, packed, candidates, config, malicious=set(who), attack=participation)
    assert_close(one_round(engine, candidates, TASKS, config), expected)


def test_who_is_malicious_is_drawn_once_by_the_seed_alone():
    config = ParticipationConfig(malicious=0.2)
    drawn = [attacks.malicious_clients(config, 50, seed) for seed in (0, 0, 1)]
    assert [mask.sum() for mask in drawn] == [10, 10, 10]
    assert_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert not attacks.malicious_clients(ParticipationConfig(), 50, 0).any()
    other = dataclasses.replace(config, attack="scaled")
    assert_equal(attacks.malicious_clients(other, 50, 0), drawn[0])


@pytest.mark.exhaustive
def test_with_a_fifth_of_malicious_clients_the_mean_is_lost_and_robust_aggregations_learn_on():
    """Updates sent ten times over, the other way round; sign and label flips slow a mean of IID clients more than they
    break it, so that they would tell nothing here.
    """
    data = DataConfig(source="synthetic", clients=20, synthetic_examples=1600, synthetic_classes=4)
    dataset = load(data, 0)
    packed = pack(dataset.train, partition(dataset.train.labels, data, 0), 0.2, 0)
    network = nets.build(NetConfig(widths=(8, 8, 16), multiple=(1,)), (8, 8, 1), 4)
    widths = tuple(network.widths.values())
    start = jax.tree.map(lambda a: np.asarray(a)[None], network.init(widths, jax.random.key(0)))
    tasks = Tasks(np.zeros(20, int), np.arange(20))
    attack = ParticipationConfig(malicious=0.2, attack="scaled", attack_scale=-10.0)

    def accuracy(text, participation=attack):
        train = TrainConfig(batch_size=8, learning_rate=0.1, aggregation=text)
        about = (network, packed, dataset.mean, dataset.std, 4, train, EngineConfig(lanes=1), 0, 1, jax.devices()[:1])
        engine = Fleet(FleetSpec(*about, participation=participation))
        stack, server = start, engine.init_server(start)
        for number in range(13):
            stack, server, *_ = engine.train(widths, stack, server, tasks, (1, 0, number), [0], train.learning_rate)
        return engine.evaluate(widths, stack, tasks).score[0]

    assert accuracy("mean", ParticipationConfig()) > 0.75
    assert accuracy("mean") < 0.4  # a quarter is chance
    assert accuracy("median") > 0.7
    assert accuracy("trimmed_mean(share=0.2)") > 0.7
    assert accuracy("krum(malicious=0.2)") > 0.5  # it learns from one client a round
