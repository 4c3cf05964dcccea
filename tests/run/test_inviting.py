"""Whom the server asks to train, and how many of them it waits for."""

from types import SimpleNamespace

import numpy as np

from fednas_jax.config.schema import Config, ParticipationConfig
from fednas_jax.phones import availability, ledger
from fednas_jax.run import rounds
from fednas_jax.search.assignment import Draw

CLIENTS, SEED = 12, 0
EVERYBODY = np.ones(CLIENTS, bool)


def problem(**participation):
    chosen = ParticipationConfig(**participation)
    return SimpleNamespace(
        config=Config(participation=chosen, seed=SEED),
        clients=CLIENTS,
        cohort=3,
        group_of=np.repeat([0, 1, 2], 4),
        prices=SimpleNamespace(presence=availability.presence(chosen, CLIENTS, SEED)),
    )


def test_a_cohort_is_as_many_as_are_wanted_and_some_too_many_where_there_are_so_many():
    moment = ledger.Moment("pretrain", 0, 1)
    for overcommit, wanted, invited in ((1.0, 5, 5), (1.5, 5, 8), (1.5, 10, 12), (1.5, 0, 12)):
        tasks, waits = rounds.cohort(problem(overcommit=overcommit), moment, 2, wanted)(EVERYBODY)
        assert np.bincount(tasks.candidate).tolist() == [invited, invited]
        assert waits.tolist() == [wanted, wanted]


def test_a_candidate_with_two_groups_waits_for_clients_of_both():
    draw = Draw(np.asarray([[True, False, True], [False, True, False], [False, False, False]]), EVERYBODY)
    here = EVERYBODY & (np.arange(CLIENTS) != 4)
    tasks, waits = rounds.groups(problem(overcommit=1.5), ledger.Moment("search", 1, 1, 1), draw)(here)
    assert np.bincount(tasks.candidate, minlength=3).tolist() == [8, 3, 0]
    assert waits.tolist() == [6, 3, 0]
