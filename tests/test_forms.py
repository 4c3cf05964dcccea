"""Values that fit a form and values that don't, each with the words of its refusal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest

from fednas_jax import forms
from fednas_jax.config.files import to_json
from fednas_jax.config.presets import PRESETS
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.forms import Amount, Between, Count


class Record(TypedDict):
    number: Annotated[int, Between(1, 9)]
    more: NotRequired[list[float]]


@dataclass
class Section:
    folder: Path | None = None
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (0, Count),
        (0, Amount),
        (True, bool),
        (None, int | None),
        ([1, 2.5], list[float]),
        ([1, "x"], tuple[int, str]),
        ({"a": [1]}, dict[str, list[int]]),
        ("fast", Literal["fast", "slow"]),
        ({"number": 9, "unknown": object}, Record),
        ({"number": 1, "more": []}, Record),
        ({}, Section),
        ({"folder": "/tmp", "sizes": [1], "pair": [2, "b"]}, Section),
        (object, Any),
    ],
)
def test_what_fits_is_taken(value, form):
    forms.check(value, form, "file")


@pytest.mark.parametrize(
    ("value", "form", "said"),
    [
        (-1, Count, "file: got -1, want 0 to 1e+30"),
        (True, int, "file: got True, want a whole number"),
        (1.5, int, "file: got 1.5, want a whole number"),
        (10**400, float, "file: got a number too large, want a number of at most 1e+30"),
        (1e308, float, "file: got 1e+308, want a number of at most 1e+30"),
        ("1", float, "file: got '1', want a number"),
        ("1", float | None, "file: got '1', want a number or null"),
        (1, Literal["a", True], "file: got 1, want 'a' or True"),
        ([], dict[str, int], "file: got a list of 0, want an object"),
        ({}, list[int], "file: got an object of 0, want a list"),
        ([1], tuple[int, str], "file: got a list of 1, want a list of 2"),
        ([0, "\x1b[2J"], list[int], "file: [1]: got '\\x1b[2J', want a whole number"),
        ({"\x1b": 1}, dict[str, str], "file: '\\x1b': got 1, want text"),
        ({}, Record, "file: number: got nothing, want it to be there"),
        ({"number": 10}, Record, "file: number: got 10, want 1 to 9"),
        ({"number": 1, "more": [1, None]}, Record, "file: more[1]: got nothing, want a number"),
        ({"number": 1, "more": {}}, Record | None, "file: more: got an object of 0, want a list"),
        ({"sizes": 1}, Section, "file: sizes: got 1, want a list"),
        ({"other": 1}, Section, "file: other: got 1, want no such field"),
        ({"folder": 1}, Section, "file: folder: got 1, want text or null"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(value, form, said):
    with pytest.raises(RunError) as caught:
        forms.check(value, form, "file")
    assert str(caught.value) == said


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_the_form_of_a_config(preset):
    forms.check(to_json(PRESETS[preset]), Config, "config")


def test_a_file_is_read_with_the_kind_of_error_that_is_asked_for(tmp_path):
    (tmp_path / "a.json").write_text('{"number": 3}')
    assert forms.read(tmp_path / "a.json", Record) == {"number": 3}
    with pytest.raises(ConfigError, match=r"b\.json: cannot be read: No such file"):
        forms.read(tmp_path / "b.json", Record, ConfigError)
