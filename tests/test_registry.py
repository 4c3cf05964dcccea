"""Names that a colon and a further name must follow, beside those that stand alone and a user's own."""

import pytest

from fednas_jax.errors import ConfigError
from fednas_jax.registry import Registry, Spec


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
