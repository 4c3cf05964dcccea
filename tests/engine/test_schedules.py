"""Every schedule is a table of learning rates; the constant one is what there was before."""

import math

import pytest

from fednas_jax.config.registries import SCHEDULES
from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine.schedules import rates
from fednas_jax.errors import ConfigError

OWN = """
def mine(rounds, least=0.5):
    return lambda n: max(least, 1 - n / rounds)

def negative(rounds):
    return lambda n: -1.0

def words(rounds):
    return lambda n: "fast"

def late(rounds):
    return lambda n: [1, 1][n]
"""


def factors(text, rounds):
    return rates(TrainConfig(learning_rate=1.0, schedule=text), rounds)


def test_every_schedule_gives_a_rate_for_each_round(own_module, monkeypatch):
    own = own_module(OWN)
    monkeypatch.setitem(SCHEDULES._homes, "registered", lambda rounds: lambda n: 0.3)
    for text in (*SCHEDULES, f"{own}:mine", f"{own}:mine(least=0.1)"):
        for rounds in (0, 1, 7):
            found = factors(text, rounds)
            assert len(found) == rounds, text
            assert all(isinstance(rate, float) and 0 < rate <= 1 for rate in found), text


def test_a_constant_rate_decays_as_before_to_the_last_digit():
    train = TrainConfig(learning_rate=0.07, learning_rate_decay=0.93)
    assert rates(train, 50) == [train.learning_rate * train.learning_rate_decay**n for n in range(50)]


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("constant", [1, 1, 1, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]),
        ("cosine(final=0.5)", [1, (3 + math.sqrt(0.5)) / 4, 0.75, (3 - math.sqrt(0.5)) / 4]),
        ("step(every=2, factor=0.1)", [1, 1, 0.1, 0.1]),
        ("step(every=1)", [1, 0.5, 0.25, 0.125]),
        ("warmup(rounds=1)", [0.5, 1, 1, 1]),
        ("warmup(rounds=2, then='cosine')", [1 / 3, 2 / 3, 1, 0.5]),
        ("warmup(rounds=9)", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_schedules_are_these_tables(text, table):
    assert factors(text, 4) == pytest.approx(table)


def test_the_decay_multiplies_the_schedule():
    train = TrainConfig(learning_rate=0.5, learning_rate_decay=0.5, schedule="step(every=1, factor=0.1)")
    assert rates(train, 3) == pytest.approx([0.5, 0.025, 0.00125])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slope", "got 'slope', want one of constant, cosine, step, warmup, or MODULE:FUNCTION"),
        ("cosine(last=0)", "with the argument 'last', want final"),
        ("step(every=0)", r"got step\(every=0\), want every at least 1"),
        ("warmup(rounds=-1)", r"got warmup\(rounds=-1\), want rounds at least 0"),
        ("warmup(then='slope')", "got 'slope', want one of constant"),
        ("{own}:negative", r"gives -1\.0 in round 0 of 3, want a finite number of at least 0"),
        ("{own}:late", "in round 2 of 3: IndexError: list index out of range"),
        ("cosine(final='low')", "in round 0 of 3: TypeError"),
        ("{own}:words", "gives 'fast' in round 0 of 3, want a finite number of at least 0"),
    ],
)
def test_what_is_no_schedule_is_refused(text, said, own_module):
    with pytest.raises(ConfigError, match=rf"^train\.schedule: .*{said}"):
        factors(text.format(own=own_module(OWN)), 3)


@pytest.mark.parametrize(("schedule", "rounds"), [("constant", 2000), ("step(every=1, factor=1e30)", 5)])
def test_a_learning_rate_that_grows_beyond_all_numbers_is_refused(schedule, rounds):
    train = TrainConfig(learning_rate=1.0, learning_rate_decay=2.0, schedule=schedule)
    said = rf"^train\.learning_rate: got 1\.0, which schedule and decay make .* in round \d+ of {rounds}, want at most"
    with pytest.raises(ConfigError, match=said):
        rates(train, rounds)
