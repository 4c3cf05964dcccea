"""Tables for the terminal and figures for files: what everything that is shown has in common."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fednas_jax.errors import RunError
from fednas_jax.files import replacing, write_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FORMATS = (".svg", ".png")


def plain(text: str, most: int = 1000) -> str:
    """Text as it may be shown anywhere: what a terminal would obey or a page cannot hold is spelled out instead.

    Args:
      text: of a file, perhaps a stranger's.
      most: characters that are shown.
    """
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return f"{shown}..." if len(text) > most else shown


def say(console: Console, text: str) -> None:
    """Prints a line as plain text: no markup, no control sequence in it is obeyed."""
    console.print(Text(plain(text)), soft_wrap=True)


def label(text: str, most: int = 80) -> str:
    """Text in a figure: no formula, and short enough to leave room for the figure.

    matplotlib reads what stands between '$' as a formula, and leaves out of a legend what begins with '_'.

    Args:
      text: perhaps a stranger's.
      most: characters; of a longer text the beginning and the end are shown, since names mostly differ at one of them.
    """
    shown = plain(text)
    if len(shown) > most:
        shown = f"{shown[: most // 2]}…{shown[most // 2 + 1 - most :]}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, fold: bool = False) -> Table:
    """A table whose first `left` columns are text and whose others are numbers; whatever a cell says is plain text.

    Args:
      title: above it.
      header: of the columns; one of nothing is not shown.
      rows: of cells.
      left: columns of text.
      fold: the text in several lines where the terminal is narrow, so that no number is cut off.
    """
    made = Table(title=_cell(title), title_justify="left", box=box.SIMPLE_HEAD, show_header=any(header))
    for n, name in enumerate(header):
        text = n < left
        made.add_column(_cell(name), justify="left" if text else "right", no_wrap=not (text and fold), overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row))
    return made


def _cell(text: str) -> Text:
    return Text(plain(text))


def svg(figure: Any) -> str:
    """A matplotlib figure as the text of an SVG file; closes it."""
    text = io.StringIO()
    try:
        # A fixed salt and no date: the same figure is the same file.
        with matplotlib.rc_context({"svg.hashsalt": "fednas_jax"}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in letters that it lacks
            figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    finally:
        plt.close(figure)
    return text.getvalue()


def check_file(path: Path) -> None:
    """Sees whether a figure can be saved there, before the work that it shows is done.

    Raises:
      RunError: it is neither .svg nor .png, or in no folder.
    """
    if path.suffix not in FORMATS:
        raise RunError(f"--out: got {path}, want a file that ends in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise RunError(f"--out: got {path}, want a file in a folder that is there: {path.parent} is none")


def save(figure: Any, path: Path) -> None:
    """Writes a matplotlib figure to a file that `check_file` accepts; closes it.

    Raises:
      RunError: the file cannot be written.
    """
    try:
        if path.suffix == ".svg":
            write_text(path, svg(figure))
        else:
            with replacing(path) as unfinished:
                figure.savefig(unfinished, format="png", dpi=150, bbox_inches="tight")
            plt.close(figure)
    except OSError as error:
        raise RunError(f"--out: {path} cannot be written: {error.strerror or error}") from error
