"""Trials get the configs that the command line would make, and names that tell them apart and stay."""

import re

import pytest

from fednas_jax.cli.parsing import parse_fitted
from fednas_jax.cli.search import SearchArgs
from fednas_jax.config.files import override
from fednas_jax.config.methods import resolve
from fednas_jax.config.presets import preset
from fednas_jax.errors import ConfigError
from fednas_jax.files import plain_name
from fednas_jax.sweep.designs import crossed, grid
from fednas_jax.sweep.naming import names
from fednas_jax.sweep.planning import config_of, leaves, nested, plan


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, []),
        ({"data.alpha": 0.1, "seed": 3}, ["--data.alpha", "0.1", "--seed", "3"]),
        ({"method": "netadapt"}, ["--method", "netadapt"]),
        ({"net.name": "lenet5"}, ["--net", "lenet5"]),
        ({"parent": "runs/p"}, ["--parent", "runs/p"]),
        ({"parent": "runs/p", "pretrain.rounds": 2}, ["--parent", "runs/p", "--pretrain.rounds", "2"]),
        (
            {"method": "own_search:quick", "search.groups": 5},
            ["--method", "own_search:quick", "--search.groups", "5"],
        ),
    ],
)
def test_a_trial_is_what_the_command_line_makes_of_its_fields(fields, options):
    start = preset("digits")
    typed = parse_fitted(SearchArgs, ["--out", "x", *options], "test", start).config
    assert config_of(start, fields) == config_of(None, {"preset": "digits"} | fields) == resolve(typed)


@pytest.mark.parametrize("method", ["fednas", "naive", "random", "own_search:quick"])
def test_another_method_of_a_resolved_base_has_its_own_switches(method):
    """As a base that is the config of a run has been resolved."""
    start = preset("digits")
    assert config_of(resolve(start), {"method": method}) == config_of(start, {"method": method})
    given = override(resolve(start), {"search.dynamic_rounds": False})
    wanted = config_of(override(start, {"search.dynamic_rounds": False}), {"method": method})
    assert config_of(given, {"method": method}) == wanted


def test_names_say_what_differs_and_nothing_else():
    trials = crossed(grid({"method": ["fednas", "naive"], "data.alpha": [0.1, 1.0]}), grid({"seed": [0, 1]}))
    planned = plan("digits", [trial | {"pretrain.rounds": 2} for trial in trials])
    assert planned.fields == ("method", "data.alpha", "seed")
    assert [trial.name for trial in planned.trials][:3] == [
        "fednas-alpha0.1-seed0",
        "fednas-alpha0.1-seed1",
        "fednas-alpha1.0-seed0",
    ]
    assert planned.trials[7].differs == {"method": "naive", "data.alpha": 1.0, "seed": 1}


def test_a_field_that_only_some_trials_give_has_the_bases_value_in_the_others():
    planned = plan("digits", [{"pretrain.rounds": 1}, {"finetune.rounds": 2}])
    assert [trial.name for trial in planned.trials] == [
        "pretrain.rounds1-finetune.rounds20",
        "pretrain.rounds40-finetune.rounds2",
    ]


def test_known_trials_keep_their_names():
    few = plan("digits", [{"seed": 0}, {"seed": 1}])
    known = {trial.checksum: trial.name for trial in few.trials}
    more = plan("digits", grid({"seed": [0, 1], "pretrain.rounds": [40, 10]}), known)
    assert [trial.name for trial in more.trials] == ["seed0", "seed0-rounds10", "seed1", "seed1-rounds10"]


@pytest.mark.parametrize(
    "values",
    [
        ["../../x", "/etc/passwd", "..", "a b", "A B"],
        ["cross_entropy(smoothing=0.1)", "focal(gamma=2)", "focal(gamma=2 )"],
        ["x" * 500, "x" * 501],
        [None, True, False, (1, 2), [1, (2, 3)]],
        ["\x1b[31m", "é", "", "-", "."],
    ],
)
def test_names_are_names_of_folders_and_differ_whatever_the_values(values):
    found = names([{"a.b": value} for value in values], [str(n) * 64 for n in range(len(values))])
    assert len({name.lower() for name in found}) == len(values)
    assert all(plain_name(name, "name") == name and re.fullmatch(r"[\w.\-]+", name, re.ASCII) for name in found)
    assert ".." not in found


def test_one_trial_has_a_name_too():
    assert [trial.name for trial in plan("digits", [{}]).trials] == ["trial"]


def test_leaves_and_nested_are_opposites():
    values = {"a": {"b": {"c": 1}, "d": [2]}, "e": None}
    assert leaves(values) == {"a.b.c": 1, "a.d": [2], "e": None}
    assert nested(leaves(values)) == values


@pytest.mark.parametrize(
    ("base", "trials", "said"),
    [
        ("digits", [], "trials: got none"),
        ("digits", "seed", "trials: got 'seed', want a list"),
        ("digits", {"seed": 1}, "trials: got {'seed': 1}, want a list"),
        ("digits", [3], "trials[0]: got 3, want a dict"),
        ("digits", [{}, {"seed": "1"}], "trials[1]: seed: got '1', want int"),
        ("digits", [{"search.grups": 4}], "trials[0]: search.grups: no such field"),
        ("digits", [{"seed": 1}, {"seed": 2}, {"seed": 1}], "trials[2]: is the same run as trials[0], want each once"),
        ("digits", [{"search.groups": 8}, {}], "trials[1]: is the same run as trials[0]"),
        ("digits", [{"data.alpha": 1}, {"data.alpha": 1.0}], "trials[1]: is the same run as trials[0]"),
        ("digits", [{"method": 3}], "trials[0]: method: got 3"),
        ("digits", [{"command": "pretrain"}], "trials[0]: command: got it in a trial"),
        ("digits", [{"search.reduction": 2.0}], "trials[0]: search.reduction: got 2.0, want"),
        ("digitz", [{}], "preset: got 'digitz', want one of digits"),
        (3, [{}], "base: got 3, want a config"),
        (None, [{"seed": 1}], "trials[0]: preset: got none"),
        (None, [{"preset": "nothing"}], "trials[0]: preset: got 'nothing'"),
        (None, [{"preset": ["x"]}], "trials[0]: preset: got"),
    ],
)
def test_what_cannot_be_is_one_line(base, trials, said):
    with pytest.raises(ConfigError) as error:
        plan(base, trials)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
