"""A setting that no run can have is refused in one line that names it; methods fill what was left open."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config import bounds
from fednas_jax.config.checks import validate, validate_clients
from fednas_jax.config.files import differences, from_json, to_json
from fednas_jax.config.methods import resolve
from fednas_jax.config.registries import METHODS
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError


def changed(path, value, config=None):
    """A config with one field changed, such as 'train.momentum' or 'train.augment.crop'."""
    config = Config() if config is None else config
    section, _, rest = path.partition(".")
    if rest:
        value = changed(rest, value, getattr(config, section))
    return dataclasses.replace(config, **{section: value})


REFUSED = [
    ("method", "darts", "want one of fednas, naive, netadapt, random, uniform"),
    ("seed", -1, "want 0 to 4294967295"),
    ("data.clients", 0, "want at least 1"),
    ("data.partition", "alphabetic", "want one of iid, dirichlet, label_dirichlet, shards, classes, natural"),
    ("data.folder", Path("x"), "got x, want none: data.source is digits"),
    ("data.alpha", 0.0, "want at least 1e-06 and at most 1000000.0"),
    ("data.shards_per_client", 0, "want at least 1"),
    ("data.classes_per_client", 0, "want at least 1"),
    ("data.size_sigma", -0.1, "want at least 0"),
    ("data.size_power", -0.1, "want at least 0"),
    ("data.size_power", math.inf, "want a finite number"),
    ("data.min_examples", 1, "want at least 2 (one to train on and one to validate with)"),
    ("data.brightness_sigma", -0.1, "want at least 0"),
    ("data.rotation_degrees", -1.0, "want 0 to 180"),
    ("data.rotation_degrees", 181.0, "want 0 to 180"),
    ("data.validation", 0.0, "want at least 0.001 and at most 0.9"),
    ("data.validation", 1.0, "want at least 0.001 and at most 0.9"),
    ("data.synthetic_examples", 0, "want at least 1"),
    ("data.synthetic_classes", 1, "want at least 2"),
    ("data.synthetic_shape", (8, 0, 1), "want every one at least 1"),
    ("net.name", "my net:make", "want MODULE:FUNCTION, as in my_module:make"),
    ("net.name", "my_net:", "want MODULE:FUNCTION, as in my_module:make"),
    ("net.widths", (8, 0), "want every one at least 1"),
    ("net.multiple", (0,), "want every one at least 1"),
    ("net.multiple", (), "got none, want at least one number"),
    ("net.width_multiplier", 0.0, "want at least 0.001"),
    ("net.stem_stride", 0, "want at least 1"),
    ("net.norm", "layer", "want one of batch, group, none"),
    ("net.group_size", 0, "want at least 1"),
    ("net.dropout", 1.0, "want at least 0 and below 1"),
    ("net.dropout", -0.1, "want at least 0 and below 1"),
    ("train.local_epochs", 0.0, "want at least 1e-06"),
    ("train.batch_size", 0, "want at least 1"),
    ("train.learning_rate", 0.0, "want at least 1e-12"),
    ("train.learning_rate", math.nan, "want a finite number"),
    ("train.learning_rate", math.inf, "want a finite number"),
    ("train.learning_rate_decay", 0.0, "want at least 0.001"),
    ("train.momentum", 1.0, "want at least 0 and below 1"),
    ("train.momentum", -0.1, "want at least 0 and below 1"),
    ("train.weight_decay", -1e-4, "want at least 0"),
    ("train.proximal", -1.0, "want at least 0"),
    ("train.server_optimizer", "sgd", "want one of avg, momentum, adam, yogi, adagrad"),
    ("train.server_learning_rate", 0.0, "want at least 1e-12"),
    ("train.augment.crop", -1, "want at least 0"),
    ("train.augment.cutout", -1, "want at least 0"),
    ("pretrain.rounds", -1, "want at least 0"),
    ("pretrain.clients_per_round", 41, "want 0 (all) to data.clients, which is 40"),
    ("pretrain.clients_per_round", -1, "want at least 0 (0 takes all)"),
    ("finetune.rounds", -1, "want at least 0"),
    ("finetune.clients_per_round", 41, "want 0 (all) to data.clients, which is 40"),
    ("search.resource", "flops", "want one of macs, params"),
    ("search.budget", 0.0, "want above 0 and at most 1 (a fraction of the parent's"),
    ("search.budget", 1.5, "search.budget_absolute takes a number"),
    ("search.budget_absolute", 0.0, "want above 0"),
    ("search.reduction", 0.0, "want at least 1e-06 and below 1"),
    ("search.reduction", 1.0, "want at least 1e-06 and below 1"),
    ("search.decay", 0.0, "want at least 0.01 and at most 1"),
    ("search.decay", 1.01, "want at least 0.01 and at most 1"),
    ("search.max_iterations", 0, "want at least 1"),
    ("search.proposals", "all", "want one of groups, random, uniform"),
    ("search.random_candidates", 0, "want at least 1"),
    ("search.groups", 0, "want at least 1"),
    ("search.groups", 41, "want at most data.clients, which is 40"),
    ("search.clients_per_group", 41, "want 0 (all) to data.clients, which is 40"),
    ("search.score_clients", 41, "want 0 (all) to data.clients, which is 40"),
    ("search.score_most", 41, "want 0 (all) to data.clients, which is 40"),
    ("search.score_error", 0.0, "want at least 1e-06 and at most 0.5"),
    ("search.score_tolerance", 1.0, "want at least 0 and below 1"),
    ("search.growth", -0.5, "want at least 0"),
    ("search.round_cap", 0, "want at least 1"),
    ("search.settle_rounds", 0, "want at least 1"),
    ("search.idle_groups", "sleep", "want one of rest, help"),
    ("search.select", "loss", "want one of accuracy, ratio"),
    ("search.compact_at", 0.0, "want at least 0.001 and below 1"),
    ("search.compact_at", 1.0, "want at least 0.001 and below 1"),
    ("search.rungs", (), "got none, want at least one pair (rounds, keep)"),
    ("search.rungs", ((0, 4), (1, 1)), "want at least 1 (rounds in a rung)"),
    ("search.rungs", ((1, 0), (1, 1)), "want a whole number or a fraction between 0 and 1"),
    ("search.rungs", ((1, 2.5), (1, 1)), "want a whole number or a fraction between 0 and 1"),
    ("search.rungs", ((1, math.nan), (1, 1)), "want a finite number"),
    ("search.rungs", ((1, 4), (1, 2)), "the last rung keeps 2, want 1, the winner"),
    ("search.rungs", ((1, 2), (1, 4), (1, 1)), "want no rung that keeps more than the one before"),
    ("cost.seconds_per_example", 0.0, "want at least 1e-09"),
    ("cost.down_mbit_per_second", 0.0, "want at least 1e-06"),
    ("cost.up_mbit_per_second", 0.0, "want at least 1e-06"),
    ("cost.watts", -1.0, "want at least 0"),
    ("cost.joules_per_megabyte", -1.0, "want at least 0"),
    ("engine.lanes", -1, "want at least 0"),
    ("engine.eval_batch", 0, "want at least 1"),
    ("engine.checkpoint_rounds", 0, "want at least 1"),
]


@pytest.mark.parametrize(("path", "value", "want"), REFUSED, ids=lambda x: str(x)[:30])
def test_a_setting_that_no_run_can_have_is_refused_in_one_line(path, value, want):
    with pytest.raises(ConfigError) as caught:
        resolve(changed(path, value))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert want in message
    assert "\n" not in message


@pytest.mark.parametrize("way", ["label_dirichlet", "classes"])
@pytest.mark.parametrize("field", ["size_sigma", "size_power"])
def test_a_spread_of_sizes_is_refused_where_sizes_follow_from_the_labels(way, field):
    with pytest.raises(
        ConfigError, match=rf"^data\.{field}: got 0.5, want 0: sizes follow from the labels with .*{way}$"
    ):
        resolve(changed(f"data.{field}", 0.5, changed("data.partition", way)))


def test_two_spreads_of_sizes_at_once_are_refused():
    with pytest.raises(ConfigError, match=r"^data\.size_power: got 1.0, want 0: data\.size_sigma is 0\.5$"):
        resolve(changed("data.size_power", 1.0, changed("data.size_sigma", 0.5)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 0),
        ("data.min_examples", 2),
        ("train.momentum", 0.0),
        ("pretrain.clients_per_round", 40),
        ("pretrain.rounds", 0),
        ("search.budget", 1.0),
        ("search.decay", 1.0),
        ("search.groups", 40),
        ("search.rungs", ((3, 1),)),
        ("search.rungs", ((2, 4), (10, 1))),
        ("search.rungs", ((1, 0.5), (1, 0.5), (4, 1))),
        ("engine.lanes", 0),
    ],
    ids=str,
)
def test_settings_at_the_edge_are_accepted(path, value):
    assert dict(leaves(resolve(changed(path, value))))[path] == value


def test_rungs_longer_than_their_cap_are_refused_where_rounds_are_dynamic():
    config = changed("search.round_cap", 2, changed("search.rungs", ((1, 2), (3, 1))))
    with pytest.raises(ConfigError, match=r"^search.rungs: got 3 rounds, want at most search.round_cap, which is 2$"):
        resolve(config)
    resolve(changed("search.dynamic_rounds", False, config))


def test_more_groups_than_clients_are_refused_only_where_groups_are_used():
    config = changed("search.groups", 41)
    resolve(changed("search.partial_clients", False, config))
    resolve(changed("method", "naive", config))
    with pytest.raises(ConfigError, match=r"search\.groups"):
        resolve(changed("search.partial_clients", True, changed("method", "naive", config)))


def test_the_source_columns_needs_a_folder():
    columns = changed("data.source", "columns")
    with pytest.raises(
        ConfigError, match=r"^data\.folder: got none, want the folder with the columns: data\.source is "
    ):
        resolve(columns)
    assert resolve(changed("data.folder", Path("x"), columns)).data.folder == Path("x")


def natural(clients, path="seed", value=0):
    return changed(path, value, changed("data.clients", clients, changed("data.partition", "natural")))


def test_only_natural_clients_can_be_all_there_are():
    assert resolve(natural(0)).data.clients == 0
    with pytest.raises(ConfigError, match=r"^data\.clients: got -1, want at least 0 and at most 10000000$"):
        resolve(natural(-1))


@pytest.mark.parametrize("path", [path for path, _, want in REFUSED if "data.clients, which is 40" in want])
def test_where_all_clients_are_taken_cohorts_are_judged_once_their_number_is_known(path):
    config = resolve(natural(0, path, 41))
    assert validate_clients(config, 41) is None
    with pytest.raises(ConfigError, match=rf"^{path}: got 41, want .* the number of the data's clients, which is 40$"):
        validate_clients(config, 40)
    if path != "search.groups":
        with pytest.raises(ConfigError, match=rf"^{path}: got -1, want at least 0 "):
            resolve(natural(0, path, -1))


# What each method says: proposals, centralised, partial clients, early dropping, dynamic rounds.
SAID = {
    "fednas": ("groups", False, True, True, True),
    "naive": ("groups", False, False, False, False),
    "netadapt": ("groups", True, False, False, False),
    "random": ("random", False, True, True, True),
    "uniform": ("uniform", False, False, False, False),
}
SWITCHES = ("proposals", "centralised", "partial_clients", "early_dropping", "dynamic_rounds")


@pytest.mark.parametrize("method", SAID)
def test_a_method_fills_the_switches_that_were_left_open(method):
    search = resolve(Config(method=method)).search
    assert tuple(getattr(search, name) for name in SWITCHES) == SAID[method]


@pytest.mark.parametrize("method", SAID)
@pytest.mark.parametrize("name", SWITCHES)
def test_a_method_leaves_a_switch_that_the_user_set(method, name):
    own = "random" if name == "proposals" else not SAID[method][SWITCHES.index(name)]
    config = changed(f"search.{name}", own, Config(method=method))
    want = dict(zip(SWITCHES, SAID[method], strict=True)) | {name: own}
    assert {s: getattr(resolve(config).search, s) for s in SWITCHES} == want


def test_every_method_is_in_the_table_above_and_resolving_twice_changes_nothing():
    assert set(METHODS) == set(SAID)
    for method in METHODS:
        once = resolve(Config(method=method))
        assert resolve(once) == once
        rest = {name: None for name in (*SWITCHES, "policy")}
        assert dataclasses.replace(once, search=dataclasses.replace(once.search, **rest)) == Config(method=method)


def test_a_config_with_open_switches_is_valid():
    assert validate(Config()) is None


def leaves(config, path=""):
    """Every field's path and value."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}{f.name}.")
        else:
            yield f"{path}{f.name}", value


def other(path, value):
    """A value of the field's type that differs."""
    hint = dict(bounds.fields(Config))[path]
    paths, texts = (
        (Path("x/y"), "x", False, True, 3, 4.5),
        (f"{value}x", "search", "none", "intervals", "float32", "high"),
    )
    others = (
        *paths,
        *texts,
        *("pretrain", "group", "bfloat16", "help", "ratio", "sign_flip", "int8", "rows", "sliced"),
    )
    tuples = ((5, 6, 7), (5.5, 6.5), (5,), ((2, 1),))
    return next(v for v in (*others, *tuples) if v != value and fits(path, v, hint))


def fits(path, value, hint):
    """Whether a field can hold a value, whatever its bounds."""
    try:
        bounds.check_type(path, value, hint)
    except ConfigError:
        return False
    return True


@given(st.sets(st.sampled_from([path for path, _ in leaves(Config())])))
def test_a_config_survives_json_and_differences_name_exactly_the_changed_fields(paths):
    config = Config()
    for path in paths:
        config = changed(path, other(path, dict(leaves(config))[path]), config)
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert [line.split(":")[0] for line in differences(Config(), config)] == sorted(paths)


def test_paths_and_nested_tuples_come_back_as_what_they_were():
    config = changed("data.root", Path("/data"), changed("search.rungs", ((1, 0.5), (2, 1))))
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again.data.root == Path("/data")
    assert again.search.rungs == ((1, 0.5), (2, 1))


def test_differences_show_both_values():
    a, b = changed("train.momentum", 0.5), changed("data.root", Path("/d"))
    assert differences(a, b) == ["data.root: None, '/d'", "train.momentum: 0.5, 0.9"]
    assert differences(a, a) == []


@pytest.mark.parametrize(("values", "name"), [({"sead": 1}, "sead"), ({"train": {"lr": 0.1}}, "train.lr")])
def test_an_unknown_field_is_refused_by_name(values, name):
    with pytest.raises(ConfigError, match=f"^{name}: no such field in ") as caught:
        from_json(values)
    assert "\n" not in str(caught.value)


def test_fields_that_json_leaves_out_keep_their_defaults():
    assert from_json({"train": {"momentum": 0.0}}) == changed("train.momentum", 0.0)
