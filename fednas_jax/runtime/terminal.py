"""What reaches the terminal: text of files and names without control sequences, and never read as markup."""

from __future__ import annotations

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
    """A console that shows every string as it is, `plain`: no markup, no emoji codes."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Any:
        """The string as rich lays it out, in a table's cells too."""
        return super().render_str(plain(text), **options)


def show_what_can_be_shown() -> None:
    """Characters that the terminal or file does not have are shown as '?', instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
