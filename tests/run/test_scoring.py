"""What is made of clients' counts, by a panel that grows and of a given parent, without training anything."""

from types import SimpleNamespace

import numpy as np
import pytest

from fednas_jax.config.schema import Config, SearchConfig, StageConfig, TrainConfig
from fednas_jax.engine.tasks import Effort, Tally
from fednas_jax.phones import ledger
from fednas_jax.run import diagnosis, rounds

ALIVE = np.asarray([0, 2])  # of three slots
EXAMPLES = {0: 4, 1: 0, 2: 2, 3: 0}  # labelled ones of each client


@pytest.fixture
def problem(monkeypatch):
    """Four clients; slot 0 has all examples right, slot 2 half of them."""

    def asked(problem, team, moment, clock, who):
        return rounds._Asked(who(np.arange(len(EXAMPLES)), 0), ledger.SCHEMA.empty_table(), 1.0, 0.0)

    def tally(problem, team, tasks):
        total = np.zeros(3, np.int64)
        np.add.at(total, tasks.candidate, [EXAMPLES[client] for client in tasks.client.tolist()])
        correct = np.asarray([total[0], 0, total[2] // 2])
        with np.errstate(invalid="ignore"):
            return Tally(correct / total, correct, total, total > 0, Effort())

    monkeypatch.setattr(rounds, "_asked", asked)
    monkeypatch.setattr(rounds, "_tally", tally)
    config = Config(search=SearchConfig(score_clients=1, score_most=4))
    there = lambda moment, clock: (np.ones(len(EXAMPLES), bool), np.zeros(len(EXAMPLES)), 0.0)  # noqa: E731
    return SimpleNamespace(slots=3, config=config, there=there)


def scored(problem):
    moment = ledger.Moment("search", 1, 1, 1)
    return rounds.score_until_clear(problem, None, ALIVE, moment, 0.0, lambda counts, finite: False).tally


def test_clients_of_whose_examples_none_has_a_label_spoil_nobodys_score(problem):
    tally = scored(problem)
    np.testing.assert_array_equal(tally.score, [1.0, np.nan, 0.5])
    assert tally.total.tolist() == [6, 0, 6]
    assert tally.finite.tolist() == [True, False, True]


def test_where_no_example_has_a_label_there_is_no_score(problem, monkeypatch):
    for client in EXAMPLES:
        monkeypatch.setitem(EXAMPLES, client, 0)
    assert np.isnan(scored(problem).score).all()


@pytest.mark.parametrize(("score", "said"), [(0.5, 0.5), (np.nan, None)])
def test_a_given_parent_without_a_score_is_none_which_a_checkpoint_can_hold(score, said):
    fleet = SimpleNamespace(evaluate=lambda *args: Tally(np.asarray([score]), *[np.zeros(1)] * 3, Effort()))
    problem = SimpleNamespace(clients=2, fleet=fleet, filled=lambda variables: variables)
    assert diagnosis.score_of(problem, SimpleNamespace(physical_widths=(1,), variables=None)) == said


@pytest.mark.parametrize(
    ("rounds", "why"), [(0, "pretrain.rounds=0 left it as it was"), (3, "train.learning_rate=0.5 may be too high")]
)
def test_a_parent_at_chance_is_told_what_may_be_the_cause(rounds, why):
    config = Config(pretrain=StageConfig(rounds=rounds), train=TrainConfig(learning_rate=0.5))
    dataset = SimpleNamespace(train=SimpleNamespace(labels=np.arange(100) % 2), classes=2)
    counts = [np.asarray([n]) for n in (52, 100, True)]
    tally = Tally(np.asarray([0.52]), *counts, Effort())
    (said,) = diagnosis.of_parent(SimpleNamespace(config=config, dataset=dataset), tally, None)
    assert said.endswith(f"naming the largest class gives 0.500; the search compares nothing. {why}")


def test_a_run_without_a_score_is_told_of_its_metric_and_of_its_bound_too():
    said = "iteration 2: no candidate has a finite score (got nan); try a lower train.learning_rate"
    for metric, more in (("accuracy", ""), ("auc", ", or more search.score_clients where auc has no value on the ")):
        config = Config(search=SearchConfig(metric=metric))
        error = diagnosis.without_score(config, "iteration 2", "no candidate has a finite score (got nan)")
        assert str(error).startswith(said + more)
    bounded = Config(train=TrainConfig(update_bound=0.5))
    error = diagnosis.without_score(bounded, "iteration 2", "no candidate has a finite score (got nan)")
    assert str(error) == f"{said}, or a train.update_bound above 0.5"
