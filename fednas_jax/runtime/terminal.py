"""What reaches the terminal: text of files and names without control sequences, and never read as markup."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from rich.console import Console

# Sequences that a terminal obeys: those that end in a letter (CSI), texts up to a terminator (OSC, DCS, SOS, PM, APC),
# and short ones. Each begins with ESC or with the one character that stands for ESC and its second.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|\x1b[ -/]*[0-~]"
)
# Other control characters, those that turn the direction of writing, and halves of characters.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """Text without what a terminal would obey instead of show; line ends and tabs stay.

    Args:
      text: from a file, a name or an error; what is no text yet becomes it.
    """
    return _CONTROLS.sub("", _SEQUENCES.sub("", str(text)))


class PlainConsole(Console):
    """A console that shows every string as it is, `plain`: no markup, no emoji codes.

    Where its reader goes away, as `fednas search ... | head` does, it is `quiet` from then on: the work goes on.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Any:
        """The string as rich lays it out, in a table's cells too."""
        return super().render_str(plain(text), **options)

    def on_broken_pipe(self) -> None:
        """Says nothing more; rich would end the program with exit code 1."""
        self.quiet = True
        close_output()


def close_output() -> None:
    """What is still written to standard output, at the process's end too, goes nowhere: nobody can read it."""
    _lead_nowhere(sys.stdout)


def flush_output() -> None:
    """Writes what standard output holds back, instead of Python when it ends, which makes exit code 120 of an error.

    Raises:
      OSError: it cannot be written; it goes nowhere, then.
    """
    try:
        sys.stdout.flush()
    except OSError:
        close_output()
        raise


def complain(text: str) -> None:
    """Shows a line on standard error, if anybody reads it."""
    try:
        print(plain(text), file=sys.stderr, flush=True)
    except OSError:
        _lead_nowhere(sys.stderr)


def _lead_nowhere(stream: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show_what_can_be_shown() -> None:
    """Characters that the terminal or file does not have are shown as '?', instead of ending the program.

    A stream that the shell has closed is opened and leads nowhere: libraries take for granted that it is there, and the
    next file that is opened would take its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  as long as the process
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
