"""Programs that are kept are found again by what they depend on, and by nothing else."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from fednas_jax import nets
from fednas_jax.config.registries import CLIENT_OPTIMIZERS, SERVER_OPTIMIZERS
from fednas_jax.config.schema import DataConfig, EngineConfig, NetConfig, TrainConfig
from fednas_jax.data import chunks, load
from fednas_jax.engine import warm
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.fleet_spec import form_of
from fednas_jax.engine.shared import kind_of
from fednas_jax.engine.tasks import Tasks
from fednas_jax.runtime import shelf


@pytest.fixture
def kept():
    shelf.keep_between_runs()
    yield
    shelf.keep_between_runs(False)


def test_the_same_recipe_and_forms_are_compiled_once(kept):
    made = []

    def program():
        made.append(len(made))
        return lambda: made[-1]

    x = np.zeros((3, 2), np.float32)
    first, fresh = warm.compiled("recipe", (x, {"a": 1}), program)
    assert fresh
    assert warm.compiled("recipe", (x + 1, {"a": 2}), program) == (first, False)
    for other in (("other", (x, {"a": 1})), ("recipe", (x[:2], {"a": 1})), ("recipe", (x.astype(int), {"a": 1}))):
        assert warm.compiled(*other, program)[1]
    assert warm.compiled("recipe", (x, {"b": 1}), program)[1]


def test_those_that_were_not_used_for_longest_go_first(kept, monkeypatch):
    monkeypatch.setattr(warm.PROGRAMS, "most", 2)
    fresh = [warm.compiled(name, (), lambda: print)[1] for name in ("a", "b", "a", "c", "a", "b")]
    assert fresh == [True, True, False, True, False, True]


@pytest.mark.cold
def test_nothing_is_kept_unless_it_is_asked_for():
    assert all(warm.compiled("recipe", (), lambda: print)[1] for _ in range(2))


@pytest.fixture(scope="module")
def spec():
    dataset = load(DataConfig(), 0)
    network = nets.build(NetConfig(name="cnn", widths=(2, 4, 8)), (8, 8, 1), 10)
    engine = EngineConfig(lanes=1)
    args = (network, chunks(dataset.test, 8), dataset.mean, dataset.std, 10, TrainConfig(), engine, 0, 1)
    return FleetSpec(*args, jax.devices()[:1])


def test_a_fleet_finds_its_programs_again_and_scores_the_same(kept, spec):
    widths = tuple(spec.network.widths.values())
    stack = jax.tree.map(lambda a: np.asarray(a)[None], spec.network.init(widths, jax.random.key(0)))
    tallies = [Fleet(spec).evaluate(widths, stack, Tasks(np.zeros(4, int), np.arange(4))) for _ in range(2)]
    assert [tally.effort.compile_seconds > 0 for tally in tallies] == [True, False]
    np.testing.assert_array_equal(tallies[0].correct, tallies[1].correct)


@pytest.mark.parametrize(
    ("field", "value", "same"),
    [
        ("learning_rate", 0.7, True),
        ("schedule", "cosine", True),
        ("local_epochs", 2.0, True),
        ("momentum", 0.5, False),
        ("weight_decay", 0.1, False),
        ("loss", "focal(gamma=1)", False),
        ("aggregation", "clipped_mean(norm=1)", False),
        ("server_learning_rate", 0.5, False),
        ("update_bound", 3.0, False),
    ],
)
def test_what_is_an_argument_of_the_programs_tells_none_apart(spec, field, value, same):
    other = dataclasses.replace(spec, train=dataclasses.replace(spec.train, **{field: value}))
    recipe = Fleet(spec).compiled.recipe
    assert (form_of(spec, recipe) == form_of(other, recipe)) == same


@pytest.mark.parametrize("kind", ["client", "server"])
def test_an_optimiser_of_the_user_s_own_may_look_at_the_rate_so_each_rate_has_its_programs(spec, kind, monkeypatch):
    registry = {"client": CLIENT_OPTIMIZERS, "server": SERVER_OPTIMIZERS}[kind]
    monkeypatch.setitem(registry._homes, "mine", lambda train: optax.sgd(1 / train.learning_rate))
    mine = dataclasses.replace(spec, train=dataclasses.replace(spec.train, **{f"{kind}_optimizer": "mine"}))
    other = dataclasses.replace(mine, train=dataclasses.replace(mine.train, learning_rate=0.7))
    recipe = Fleet(mine).compiled.recipe
    assert form_of(mine, recipe) != form_of(other, recipe)
    assert kind_of(mine, 1) != kind_of(other, 1)
