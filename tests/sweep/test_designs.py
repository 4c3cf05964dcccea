"""Designs give the trials that they say, as plain data."""

import json
import math

import numpy as np
import pytest

from fednas_jax.errors import ConfigError
from fednas_jax.sweep.designs import chained, crossed, grid, sampled, sobol, zipped


def test_a_grid_has_every_combination_and_the_last_field_changes_first():
    assert grid({"a": [1, 2], "b": ["xy", "z"]}) == [
        {"a": 1, "b": "xy"},
        {"a": 1, "b": "z"},
        {"a": 2, "b": "xy"},
        {"a": 2, "b": "z"},
    ]


def test_zipped_takes_values_together():
    assert zipped({"a": range(2), "b": (3, 4)}) == [{"a": 0, "b": 3}, {"a": 1, "b": 4}]


def test_crossed_and_chained_join_designs():
    seeds = grid({"seed": range(2)})
    assert crossed([{"a": 1}], seeds) == [{"a": 1, "seed": 0}, {"a": 1, "seed": 1}]
    assert chained([{"a": 1}], seeds) == [{"a": 1}, {"seed": 0}, {"seed": 1}]
    assert crossed([{"seed": 9, "a": 1}], [{"seed": 0}]) == [{"seed": 0, "a": 1}]


@pytest.mark.parametrize("draw", [sampled, sobol])
def test_draws_keep_their_bounds_and_more_leave_the_first_as_they_are(draw):
    space = {
        "rate": {"low": 1e-3, "high": 1e-1, "log": True},
        "groups": {"low": 2, "high": 4, "whole": True},
        "share": {"low": -1, "high": 1},
        "method": ["fednas", "naive"],
    }
    trials = draw(space, 64, seed=3)
    assert draw(space, 10, seed=3) == trials[:10] != draw(space, 10, seed=4)
    assert all(1e-3 <= t["rate"] <= 1e-1 and -1 <= t["share"] <= 1 for t in trials)
    assert {t["groups"] for t in trials} == {2, 3, 4}
    assert {t["method"] for t in trials} == {"fednas", "naive"}
    below = sum(math.log10(t["rate"]) < -2 for t in trials)  # half of them, since it is even by the logarithm
    assert 20 <= below <= 44
    assert json.loads(json.dumps(trials)) == trials


@pytest.mark.parametrize("draw", [sampled, sobol])
def test_rounding_leads_no_draw_out_of_its_bounds(draw):
    space = {"momentum": {"low": 0.9, "high": 0.999999}, "rate": {"low": 0.1234567, "high": 0.12346, "log": True}}
    trials = draw(space, 4096)
    assert all(0.9 <= t["momentum"] <= 0.999999 and 0.1234567 <= t["rate"] <= 0.12346 for t in trials)
    assert max(t["momentum"] for t in trials) == 0.999999


def test_a_sobol_sequence_is_even():
    counts = np.histogram([t["x"] for t in sobol({"x": {"low": 0, "high": 1}}, 16)], 16, (0, 1))[0]
    assert counts.tolist() == [1] * 16


def test_values_of_numpy_become_plain():
    assert json.dumps(grid({"a": np.arange(2), "b": [np.float64(0.5)]})) == '[{"a": 0, "b": 0.5}, {"a": 1, "b": 0.5}]'


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: grid({}), "grid: got {}, want fields"),
        (lambda: grid({"a": []}), "grid: a: got no values"),
        (lambda: grid({"a": "text"}), "grid: a: got 'text', want a list"),
        (lambda: grid({"a": 3}), "grid: a: got 3, want a list"),
        (lambda: grid({"a": range(10**9)}), "grid: a: got more than 100,000 values"),
        (lambda: grid({"a": range(1000), "b": range(1000)}), "grid: got 1,000,000 trials"),
        (lambda: zipped({"a": [1], "b": [1, 2]}), "zip: got 1 of a, 2 of b"),
        (lambda: chained(), "chained: got 0 trials"),
        (lambda: crossed([{"a": 1}], []), "crossed: got 0 trials"),
        (lambda: sampled({"a": [1]}, 0), "random: got 0 trials"),
        (lambda: sampled({"a": [1]}, "9"), "random: count: got '9'"),
        (lambda: sobol({}, 4), "sobol: got {}"),
        (lambda: sobol({"a": []}, 4), "sobol: a: got []"),
        (lambda: sobol({"a": {"low": 1}}, 4), "sobol: a: got low, want low, high"),
        (lambda: sobol({"a": {"low": 2, "high": 1}}, 4), "sobol: a: got 2 to 1, want low below high"),
        (lambda: sobol({"a": {"low": 0, "high": 1, "log": True}}, 4), "both above 0"),
        (lambda: sobol({"a": {"low": 0.5, "high": 1, "whole": True}}, 4), "low: got 0.5, want a whole number"),
        (lambda: sobol({"a": {"low": 0, "high": math.inf}}, 4), "high: got inf, want a number"),
        (lambda: sobol({"a": {"low": 10**400, "high": 10**401}}, 4), "low: got 1000"),
        (lambda: sobol({"a": {"low": -1e308, "high": 1e308}}, 4), "low: got -1e+308, want a number of at most 1e+30"),
        (lambda: sobol({"a": {"low": 0, "high": 1, "log": 1}}, 4), "got log 1 and whole False"),
    ],
)
def test_what_cannot_be_is_one_line(call, said):
    with pytest.raises(ConfigError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
