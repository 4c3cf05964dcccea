"""What every method keeps to, the project's own and a user's; and what is refused."""

import dataclasses

import own_search
import pytest

from fednas_jax.cli.parsing import parse_fitted
from fednas_jax.cli.search import SearchArgs
from fednas_jax.config.methods import resolve, with_method
from fednas_jax.config.presets import PRESETS
from fednas_jax.config.registries import METHODS
from fednas_jax.config.schema import Config, SearchConfig
from fednas_jax.errors import ConfigError

NAMES = (*METHODS, "own_search:quick", "sample")
OPEN = ("policy", "proposals", "centralised", "partial_clients", "early_dropping", "dynamic_rounds")


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """A method that a user registered under a name, which is forgotten again."""
    METHODS.register("sample", lambda: own_search.quick() | METHODS.get("naive")())
    yield
    del METHODS._homes["sample"]


def with_open_switches_closed(name):
    """A config whose open switches the user set, so that any method leaves nothing open."""
    said = dict(policy="none", proposals="random", centralised=False, partial_clients=False)
    return Config(method=name, search=SearchConfig(**said, early_dropping=True, dynamic_rounds=False))


@pytest.mark.parametrize("name", NAMES)
def test_resolving_and_applying_a_method_twice_changes_nothing(name):
    applied = with_method(Config(method=name))
    assert with_method(applied) == applied
    once = resolve(applied)
    assert resolve(once) == once
    assert with_method(once) == once


@pytest.mark.parametrize("name", NAMES)
def test_a_method_keeps_what_the_user_set(name):
    given = with_open_switches_closed(name)
    assert resolve(given).search == given.search
    applied = with_method(given)
    assert {switch: getattr(applied.search, switch) for switch in OPEN} == {
        switch: getattr(given.search, switch) for switch in OPEN
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_method_leaves_no_switch_open(name):
    search = resolve(Config(method=name)).search
    assert None not in [getattr(search, switch) for switch in OPEN]
    assert search.policy == "rungs"


def test_a_users_method_sets_any_field_before_the_options_of_the_user():
    config = with_method(Config(method="own_search:quick"))
    assert (config.search.groups, config.search.rungs, config.train.momentum) == (4, ((1, 2), (1, 1)), 0.5)
    assert config.search.proposals is None  # an open switch, left to resolve
    assert resolve(config).search.proposals == "groups"
    # Nobody can tell a default from what the user gave: resolve alone does not touch such fields.
    assert resolve(Config(method="own_search:quick")).search.groups == 8
    hash(config)


def test_on_the_command_line_a_method_changes_the_presets_fields_and_options_change_the_methods():
    def parsed(*options):
        args = ["--out", "x", "--method", "own_search:quick", *options]
        return parse_fitted(SearchArgs, args, "fednas search", PRESETS["digits"]).config

    assert (parsed().search.groups, parsed().search.reduction) == (4, PRESETS["digits"].search.reduction)
    typed = parsed("--search.groups", "5")
    assert (typed.search.groups, typed.train.momentum, typed.method) == (5, 0.5, "own_search:quick")
    assert parsed("--tiny").search.groups == 2


def test_the_projects_methods_change_nothing_of_a_preset_but_its_switches():
    for config in PRESETS.values():
        for name in ("fednas", "naive", "netadapt", "random", "uniform"):
            of = dataclasses.replace(config, method=name)
            assert with_method(of) == of


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("nas", "method: got 'nas', want one of fednas, naive, netadapt, random, uniform, sample, or MODULE:FUNCTION"),
        ("own_search:slow", "method: got 'own_search:slow', want one of the functions of own_search"),
        ("own_search:a_list", "returned list, want a dict such as {'search.groups': 4}"),
        ("own_search:of_no_field", "sets 'search.grups', want a field of the config with its section, such as"),
        ("own_search:of_a_field_without_its_section", "sets 'groups', want search.groups"),
        ("own_search:of_itself", "sets 'method', want a field of the config with its section, such as search.groups"),
        ("own_search:of_a_text", "sets search.groups to 'four', want a value such as 8"),
    ],
)
@pytest.mark.parametrize("step", [resolve, with_method])
def test_a_method_that_breaks_its_contract_is_refused_in_one_line(step, name, want):
    with pytest.raises(ConfigError) as caught:
        step(Config(method=name))
    said = str(caught.value)
    assert want in said
    assert said.startswith("method: ")
    assert "\n" not in said
