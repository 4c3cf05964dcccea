"""Tables of a page as files: LaTeX with booktabs, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fednas_jax.report.draw import plain
from fednas_jax.report.template import Grid
from fednas_jax.run.finished import write_into

_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",  # \textquotedbl is unknown to LaTeX's own encoding
    **{c: f"{{{c}}}" for c in "[]*"},  # behind \\ and \midrule they would be options of these
}
_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet takes for a formula, where it is not one of the page's numbers
_NUMBER = r"[+-]?[\d.,]+(e[+-]?\d+)?"
_NUMBERS = re.compile(rf"-|{_NUMBER}( [%sx])?( \({_NUMBER} to {_NUMBER}\))?(, (\d+ pairs?|unpaired))?")


def write_tables(folder: Path, tables: Sequence[Grid], form: str) -> list[Path]:
    """Writes tables into FOLDER/tables.

    Args:
      folder: of the page.
      tables: to be written.
      form: 'latex', 'markdown' or 'csv'.

    Returns:
      The files, named by the tables' titles.

    Raises:
      RunError: one cannot be written.
    """
    ending, written = _FORMS[form]
    return [write_into(folder, f"tables/{_file(table.title)}.{ending}", written(table)) for table in tables]


def latex(table: Grid) -> str:
    r"""A tabular of booktabs (\usepackage{booktabs}); its caption is a comment."""
    columns = "l" * table.texts + "r" * (len(table.header) - table.texts)
    lines = [f"% {plain(table.title)}. {plain(table.says)}".rstrip(), f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines += [_tex(table.header), "\\midrule", *map(_tex, table.rows), "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def markdown(table: Grid) -> str:
    """A table of GitHub's Markdown under its title."""

    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(_md, cells))} |"

    rule = ["---" if n < table.texts else "---:" for n in range(len(table.header))]
    said = ["", _md(table.says)] if table.says else []
    lines = [f"**{_md(table.title)}**", "", row(table.header), f"| {' | '.join(rule)} |", *map(row, table.rows), *said]
    return "\n".join(lines) + "\n"


def as_csv(table: Grid) -> str:
    """Comma-separated values; of a sortable table the values themselves, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, table.header))
    for row in table.rows if table.keys is None else table.keys:
        writer.writerow(["" if value is None else _cell(value) if isinstance(value, str) else value for value in row])
    return text.getvalue()


_FORMS: dict[str, tuple[str, Callable[[Grid], str]]] = {
    "latex": ("tex", latex),
    "markdown": ("md", markdown),
    "csv": ("csv", as_csv),
}


def _tex(cells: Sequence[str]) -> str:
    found = ("".join(_TEX.get(c, c) for c in plain(cell)) for cell in cells)
    return " & ".join(re.sub("-(?=-)", "-{}", cell) for cell in found) + r" \\"  # two hyphens would be a dash


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|~&$])", r"\\\1", plain(text))


def _cell(text: str) -> str:
    shown = plain(text)
    return f"'{shown}" if shown.startswith(_FORMULA) and not _NUMBERS.fullmatch(shown) else shown


def _file(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")
