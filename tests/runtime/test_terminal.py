"""What comes from files and names is shown, never obeyed."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from fednas_jax.runtime.terminal import PlainConsole, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a run", "a run"),
        ("größer ✓ 実験", "größer ✓ 実験"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;never ended", ""),
        ("\x1bPdevice\x1b\\text", "text"),
        ("\x1bctext", "text"),
        ("over\rwritten\x08\x07\x00\x7f", "overwritten"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("half \ud800", "half "),
        ("\x1b", ""),
        (5, "5"),
    ],
)
def test_control_sequences_are_left_out(text, shown):
    assert plain(text) == shown


@given(st.text(st.sampled_from("\x1b\x9b\x9d[]PX^_0;mc\\\x07\x00 a\u202e")))
def test_nothing_that_a_terminal_obeys_is_left(text):
    assert not set(plain(text)) & set("\x1b\x9b\x9d\x07\x00\u202e")


def test_a_console_shows_markup_and_sequences_as_text_in_tables_too():
    file = io.StringIO()
    console = PlainConsole(file=file, width=80, force_terminal=True, color_system=None)
    table = Table("[bold]head[/bold]", title="[/title]\x1b[2J")
    table.add_row("[/foo] :smile: \x1b[31mred")
    console.print("[/bar]\x1b]0;owned\x07", table)
    said = file.getvalue()
    for text in ("[/bar]", "[/title]", "[/foo] :smile: red", "[bold]head[/bold]"):
        assert text in said
    assert "owned" not in said
    assert "\x1b[2J" not in said
    assert "\x1b[31m" not in said
