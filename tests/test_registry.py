"""Names that a colon and a further name must follow, beside those that stand alone and a user's own."""

import functools
import linecache
import os
import subprocess
import sys

import pytest

from fednas_jax.errors import ConfigError
from fednas_jax.registry import Registry, Spec, source_checksum


@pytest.fixture
def shapes():
    return Registry("draw.shape", "shape", {"circle": "math:hypot"}, prefixes={"math": "operator:add"})


def test_what_follows_a_prefix_is_given_to_its_home_first(shapes):
    assert shapes.parse("math:tau") == Spec("math", ("tau",), {})
    assert shapes.parse("math:tau(turns=2)") == Spec("math", ("tau",), {"turns": 2})
    assert shapes.get("math:tau")("s") == "taus"
    assert shapes.checksum("math:tau") is None
    assert shapes.names() == ("circle",)


def test_a_prefix_alone_is_no_choice_and_no_name_to_take(shapes):
    said = r"^draw\.shape: got 'math', want one of circle, math:NAME, or MODULE:FUNCTION for your own$"
    with pytest.raises(ConfigError, match=said):
        shapes.parse("math")
    with pytest.raises(ConfigError, match=r"^draw\.shape: got 'math', which is registered already"):
        shapes.register("math", len)


def test_any_other_word_before_a_colon_is_a_module_of_the_user_s(shapes):
    assert shapes.parse("mine:shape(a=1)") == Spec("mine:shape", (), {"a": 1})
    assert shapes.parse("mine:shape").own
    assert not shapes.parse("math:tau").own


TYPED = """
def eta(search, most={most}):
    return search in {{"a", "b", {name!r}}} and (lambda x: x + {number})


class Callable:
    def __call__(self, search):
        return {number}


instance = Callable()
"""


def typed(most=3, name="c", number=1, cell="<cell>"):
    """What a cell of a notebook defines."""
    text, found = TYPED.format(most=most, name=name, number=number), {"__name__": "__main__"}
    if not cell.startswith("<"):
        linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
    exec(compile(text, cell, "exec"), found)
    return found


@pytest.mark.parametrize("cell", ["<cell>", "/gone/cell.py"], ids=["compiled code alone", "a notebook's text"])
@pytest.mark.parametrize("change", [{"most": 4}, {"name": "d"}, {"number": 2}], ids=str)
def test_code_without_a_file_is_told_from_other_code(cell, change):
    before = typed(cell=cell)
    assert source_checksum(before["eta"]) == source_checksum(typed(cell=cell)["eta"])
    assert source_checksum(before["eta"]) != source_checksum(typed(cell=cell, **change)["eta"])
    assert source_checksum(functools.partial(before["eta"], most=1)) == source_checksum(before["eta"])


def test_a_callable_object_has_the_checksum_of_its_class_and_no_address():
    assert source_checksum(typed()["instance"]) == source_checksum(typed()["instance"])
    assert source_checksum(typed()["instance"]) != source_checksum(typed(number=2)["instance"])
    assert source_checksum(shapes) == source_checksum(Here()) == source_checksum(Here)


class Here:
    def __call__(self):
        """Nothing is to be done."""


def test_a_checksum_without_a_file_is_the_same_in_every_process():
    program = f"from fednas_jax.registry import source_checksum\n{TYPED.format(most=3, name='c', number=1)}"
    program += "print(source_checksum(eta), source_checksum(instance))"

    def said(hash_seed):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout

    assert said("1") == said("2")
