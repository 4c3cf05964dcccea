"""Bad input, generated from the bounds beside the fields: each is refused in one line that names the field, quickly.

And every number of a config has a least and a greatest value, so that a new field cannot be forgotten.
"""

import dataclasses
import itertools
import math
import re
import time
import types
import typing
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from fednas_jax.cli.app import main
from fednas_jax.config import bounds, needs
from fednas_jax.config.bounds import Above, AtLeast, AtMost, Below, Bound, KeptShare, NotEmpty, OneOf, Range
from fednas_jax.config.files import from_json, override
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError

FIELDS = dict(bounds.fields(Config))


def with_value(field, value):
    """The default config with one field changed, whatever the value."""
    sections = field.split(".")[:-1]
    holders = [Config()]
    for section in sections:
        holders.append(getattr(holders[-1], section))
    for holder, name in zip(reversed(holders), reversed(field.split(".")), strict=True):
        value = dataclasses.replace(holder, **{name: value})
    return value


def inside(hint):
    """The types that a type is made of."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return [args[0]]
    return [arg for arg in args if arg is not ...] if origin in (typing.Union, types.UnionType, tuple) else []


def numbers(hint, marks=()):
    """The numbers that a field of a type holds: (type, bounds that stand around it), ..."""
    if typing.get_origin(hint) is Annotated:
        marks = (*marks, *(m for m in typing.get_args(hint)[1:] if isinstance(m, Bound)))
    if hint in (int, float):
        return [(hint, marks)]
    return [found for part in inside(hint) for found in numbers(part, marks)]


def marks_of(hint):
    """All that is said beside a field, wherever in its type."""
    own = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return [*own, *(mark for part in inside(hint) for mark in marks_of(part))]


def outside(kind, bound):
    """Numbers just outside of a bound."""
    step = 1 if kind is int else None
    below = bound.value - 1 if step else math.nextafter(bound.value, -math.inf)
    above = bound.value + 1 if step else math.nextafter(bound.value, math.inf)
    if isinstance(bound, Range):
        return [bound.least - 1 if step else math.nextafter(bound.least, -math.inf), above]
    if isinstance(bound, KeptShare):
        return [0.0, -0.5, 1.5, bound.value + 1]
    return {AtLeast: [below], Above: [bound.value, below], AtMost: [above], Below: [bound.value, above]}[type(bound)]


def in_place(hint, number):
    """A number in the place of each number of a field: alone, or in a tuple of the field's form."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return in_place(args[0], number)
    if origin in (typing.Union, types.UnionType):
        return in_place(next(arg for arg in args if numbers(arg)), number)
    if origin is tuple:
        parts = args[:1] if args[-1] is ... else args
        return tuple(in_place(part, number) for part in parts)
    return int(number) if hint is int and isinstance(number, float) and number.is_integer() else number


def wrong_types(hint):
    """Values of other types than the field's."""
    wrong = [object(), [1], np.zeros(()), np.zeros(3), {"a": 1}, b"x", 1j]
    return [*wrong, "x"] if not {str, Path} & set(kinds(hint)) else [*wrong, 5, 0.5, True]


def kinds(hint):
    """The plain types in a type."""
    if typing.get_origin(hint) is Literal:
        return [str]
    return [kind for part in inside(hint) for kind in kinds(part)] or [hint]


def cases():
    """Field and bad value: outside of each bound, no finite number, another type, no choice there is."""
    for field, hint in FIELDS.items():
        for kind, marks in numbers(hint):
            for bound in marks:
                yield from ((field, in_place(hint, number)) for number in outside(kind, bound))
            endless = (math.nan, math.inf, -math.inf) if kind is float else (math.nan, 1.5, True, np.int64(1), 10**5000)
            yield from ((field, in_place(hint, number)) for number in endless)
        for mark in marks_of(hint):
            if isinstance(mark, OneOf):
                yield from ((field, text) for text in ("", "nonsense", "a b:c", "x:y(", "os:system(1)", "\x1b[2J"))
            if isinstance(mark, NotEmpty):
                yield field, ()
        if any(typing.get_origin(part) is Literal for part in (hint, *typing.get_args(hint))):
            yield from ((field, text) for text in ("", "nonsense"))
        yield from ((field, value) for value in wrong_types(hint))


CASES = list(cases())


@pytest.mark.parametrize("field", FIELDS)
def test_every_number_of_a_config_has_a_least_and_a_greatest_value(field):
    for _, marks in numbers(FIELDS[field]):
        both = [mark for mark in marks if isinstance(mark, Range | KeptShare)]
        assert both or any(isinstance(mark, AtLeast | Above) for mark in marks), "a least value is missing"
        assert both or any(isinstance(mark, AtMost | Below) for mark in marks), "a greatest value is missing"


def test_there_are_bad_values_of_every_field():
    assert {field for field, _ in CASES} == set(FIELDS)
    assert len(CASES) > 1000


@pytest.mark.parametrize("field", FIELDS)
def test_a_bad_value_is_refused_in_one_line_that_names_the_field(field):
    for value in [value for name, value in CASES if name == field]:
        with pytest.raises(ConfigError) as caught:
            resolve(with_value(field, value))
        message = str(caught.value)
        assert message.startswith(f"{field}: "), (value, message)
        assert "want" in message
        assert len(message) < 1000
        assert message.isprintable(), message


@pytest.mark.parametrize("field", [field for field, hint in FIELDS.items() if numbers(hint)])
def test_a_number_at_its_bounds_has_its_fields_type_and_keeps_them(field):
    for kind, marks in numbers(FIELDS[field]):
        for bound in marks:
            if not isinstance(bound, Above | Below):
                bounds.check_value(field, in_place(FIELDS[field], kind(bound.value)), FIELDS[field])


SECTIONS = [f.name for f in dataclasses.fields(Config) if dataclasses.is_dataclass(getattr(Config(), f.name))]


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [None, 5, {}, Config()], ids=["None", "a number", "a dict", "another section"])
def test_what_is_no_section_is_refused(section, value):
    with pytest.raises(ConfigError, match=rf"^{section}: got .*, want \w+Config$"):
        resolve(dataclasses.replace(Config(), **{section: value}))


CONTRADICTIONS = {
    "data.folder": {"data.folder": "x"},
    "data.clients": {"data.clients": 0},
    "data.size_power": {"data.size_sigma": 0.5, "data.size_power": 1.0},
    "data.size_sigma": {"data.size_sigma": 0.5, "data.partition": "classes"},
    "data.synthetic_examples": {"data.source": "synthetic", "data.synthetic_examples": 100, "data.clients": 40},
    "finetune.members": {"finetune.members": (4,), "search.max_iterations": 3},
    "search.groups": {"search.groups": 41},
    "search.clients_per_group": {"search.clients_per_group": 41},
    "pretrain.clients_per_round": {"pretrain.clients_per_round": 41},
    "finetune.clients_per_round": {"finetune.clients_per_round": 41},
    "search.score_clients": {"search.score_clients": 41},
    "search.score_most": {"search.score_most": 41},
    "search.metric": {"search.score_clients": 3, "search.score_most": 6, "search.metric": "macro_f1"},
    "search.select": {"search.score_clients": 3, "search.score_most": 6, "search.select": "ratio"},
    "search.rungs": {"search.rungs": ((5, 1),), "search.round_cap": 4},
    "search.resource": {"search.resource": "macs,macs"},
    "search.budget": {"search.resource": "macs,params", "search.budget": (0.5, 0.5, 0.5)},
    "search.budget_absolute": {"search.resource": "macs,params", "search.budget_absolute": 7.0},
    "participation.trace": {"participation.availability": "trace"},
    "participation.ready_seconds": {"participation.ready_seconds": (9.0, 3.0)},
    "net.name": {"net.name": "my net:make"},
}


@pytest.mark.parametrize("field", CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_refused_in_one_line(field):
    with pytest.raises(ConfigError, match=rf"^{field}: ") as caught:
        resolve(override(Config(), CONTRADICTIONS[field]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("resource", "refused"),
    [
        ("macs", None),
        ("latency:some (2)/table.json", None),
        ("my_module:energy(a=1, b=2),params", None),
        ("latency", "latency"),
        ("macs:pixel2", "macs:pixel2"),
        ("my_module:energy(1)", "my_module:energy(1)"),
        ("params,", ""),
    ],
)
def test_a_resource_is_registered_or_a_function_of_the_users_own(resource, refused):
    config = override(Config(), {"search.resource": resource})
    if refused is None:
        assert resolve(config).search.resource == resource
        return
    with pytest.raises(ConfigError, match=rf"^search\.resource: got {re.escape(repr(refused))}, want "):
        resolve(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.synthetic_examples": 10**9, "data.synthetic_shape": (1000, 1000, 3)},
        {"data.synthetic_classes": 10**5, "data.synthetic_shape": (10_000, 10_000, 1), "data.synthetic_examples": 161},
        {"train.batch_size": 10**5, "data.synthetic_shape": (10_000, 10_000, 1), "data.synthetic_examples": 161},
    ],
    ids=["examples", "classes", "batch"],
)
def test_made_up_data_that_does_not_fit_is_refused_before_anything_is_allocated(changes, monkeypatch):
    monkeypatch.setattr(needs, "memory", lambda: 64 << 30)
    began = time.perf_counter()
    field = next(iter(changes))
    with pytest.raises(ConfigError, match=rf"^{field}: got [\d,]+ .*, which take [\d.,]+ TB, want at most the 68\.7"):
        resolve(override(Config(), {"data.source": "synthetic", **changes}))
    assert time.perf_counter() - began < 1


def test_needs_are_held_against_the_memory_there_is():
    assert 1 << 28 < needs.memory() < 1 << 50
    needs.check_network(1000, 10, 40_000)
    with pytest.raises(ConfigError, match=r"^net\.widths: got 10 copies of 1,001 parameters, which take 40\.0 kB"):
        needs.check_network(1001, 10, 40_000)
    needs.check_network(10**15, 10, None)  # nobody says how much there is
    needs.check_lanes(1000, 5, 2, 120_000)
    with pytest.raises(
        ConfigError, match=r"^engine\.lanes: got 5 lanes of 1,001 parameters on each of 2 devices, which"
    ):
        needs.check_lanes(1001, 5, 2, 120_000)
    config = override(Config(), {"engine.lanes": 4, "train.batch_size": 100, "engine.eval_batch": 1})
    needs.check_batches(config, (10, 10, 1), 160_000)
    with pytest.raises(ConfigError, match=r"^train\.batch_size: got 100 images of 10x10x1 on 4 lanes, which take 160"):
        needs.check_batches(config, (10, 10, 1), 159_999)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": {"batch_size": "x"}}, "train.batch_size: got 'x', want int"),
        ({"train": {"batch_size": True}}, "train.batch_size: got True, want int"),
        ({"train": {"batch_size": 2.0}}, "train.batch_size: got 2.0, want int"),
        ({"train": {"momentum": None}}, "train.momentum: got None, want float"),
        ({"train": 5}, "train: got 5, want its fields"),
        ([], "config: got [], want its fields"),
        ({"data": {"root": 5}}, "data.root: got 5, want Path or None"),
        ({"data": {"synthetic_shape": [8, 8]}}, "data.synthetic_shape: got (8, 8), want tuple[int, int, int]"),
        ({"search": {"rungs": [[1]]}}, "search.rungs: got ((1,),), want tuple[tuple[int, float], ...]"),
        ({"net": {"norm": "layer"}}, "net.norm: got 'layer', want one of batch, group, none"),
        ({"search": {"depth": "yes"}}, "search.depth: got 'yes', want bool"),
        ({"train": {"augment": {"crop": []}}}, "train.augment.crop: got (), want int"),
    ],
    ids=str,
)
def test_json_of_another_type_is_refused_in_one_line(values, message):
    with pytest.raises(ConfigError) as caught:
        from_json(values)
    assert str(caught.value) == message


def test_fields_are_overridden_by_name_and_open_switches_stay_open():
    config = override(Config(), {"search.groups": 4, "seed": 3, "net.widths": [8, 16], "data.root": "/data"})
    assert (config.search.groups, config.seed, config.net.widths) == (4, 3, (8, 16))
    assert config.data.root == Path("/data")
    assert config.search.partial_clients is None
    assert override(Config(), {"train.augment.crop": 2}).train.augment.crop == 2
    assert override(config, {"search": Config().search}).search == Config().search


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search.group": 4}, r"^search\.group: no such field in SearchConfig, want one of resource, .*"),
        ({"saerch.groups": 4}, r"^saerch: no such field in Config, want one of preset, .*"),
        ({"search.groups.x": 4}, r"^search\.groups\.x: no such field, want search\.groups, which has none inside$"),
        ({"search.groups": "4"}, r"^search\.groups: got '4', want int$"),
        ({"search.groups": 0}, r"^search\.groups: got 0, want at least 1 and at most 1000000$"),
        ({"search": 4}, r"^search: got 4, want SearchConfig, or one of its fields$"),
        ({"": 4}, r"^'': no such field in Config, want one of .*"),
    ],
)
def test_an_override_that_cannot_be_is_refused_in_one_line(changes, message):
    with pytest.raises(ConfigError, match=message):
        override(Config(), changes)


def typed(value):
    """A value as it is typed on the command line."""
    return [str(part) for part in value] if isinstance(value, tuple) else [str(value)]


def option(field):
    """A field's name on the command line."""
    return f"--{field.replace('_', '-')}"


# Of every section some: one value outside of each side of the bounds of every third number.
SAMPLE = [
    (field, in_place(hint, number))
    for field, hint in itertools.islice(((f, h) for f, h in FIELDS.items() if numbers(h)), None, None, 3)
    if field not in ("search.budget", "search.budget_absolute")
    for number in [outside(kind, bound) for kind, marks in numbers(hint) for bound in marks][-1][-1:]
]


@pytest.mark.parametrize(("field", "value"), SAMPLE, ids=str)
def test_bad_input_on_the_command_line_is_one_line_and_exit_code_2(field, value, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "digits", "--out", "x", option(field), *typed(value)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert field in said.err
    assert not list(tmp_path.iterdir())


MEANINGLESS = {
    "iterations below 0": ["--search.max-iterations", "-1"],
    "a width of a milliard": ["--net.widths", "1000000000", "32", "64"],
    "a batch of 10^12": ["--train.batch-size", "1000000000000"],
    "10^12 examples": ["--data.source", "synthetic", "--data.synthetic-examples", "1000000000000"],
    "images of 10^6 x 10^6": ["--data.source", "synthetic", "--data.synthetic-shape", "1000000", "1000000", "1"],
    "images of 10^8 pixels": ["--data.source", "synthetic", "--data.synthetic-shape", "10000", "10000", "1000"],
    "a folder's name too long": ["--out", "x" * 300],
    "a folder's name with a zero": ["--out", "x\0y"],
    "10^12 epochs": ["--train.local-epochs", "1e12"],
    "phones that differ by 10^6": ["--cost.sigma", "1e6"],
    "a link that never sends": ["--cost.up-mbit-per-second", "1e-320"],
    "a mix of one label": ["--data.alpha", "1e-320"],
    "nothing to train on": ["--data.validation", "0.9999999"],
    "nothing to validate with": ["--data.validation", "1e-9"],
    "no number": ["--train.learning-rate", "0x"],
    "an option twice as text": ["--search.rungs", "1", "0.5", "1"],
}


@pytest.mark.parametrize("case", MEANINGLESS)
def test_what_would_make_a_meaningless_run_is_one_line_and_exit_code_2(case, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "digits", "--out", "x", *MEANINGLESS[case]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert not list(tmp_path.iterdir())
