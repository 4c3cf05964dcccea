"""The page that every report is: one file, which asks nobody for anything.

Scripts are the kept libraries in `assets` and our own; the page's policy names the checksum of each and allows no
other, no request and no evaluated text, so that a stranger's text stays text even where it was not escaped.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from fednas_jax.report.draw import plain
from fednas_jax.report.theme import Shown, inline

_LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")


class Grid(NamedTuple):
    """A table of a page."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1  # columns of text, from the left; the others are numbers
    says: str = ""  # a sentence under it
    keys: Sequence[Sequence[float | str | None]] | None = None  # what each cell is sorted by; makes it sortable


class Fact(NamedTuple):
    """A number at the head of a page."""

    value: str
    what: str


class Page(NamedTuple):
    """All that a page says, in its order."""

    title: str
    lead: str
    facts: Sequence[Fact] = ()
    warnings: Sequence[str] = ()
    figures: Sequence[Shown] = ()
    tables: Sequence[Grid] = ()
    notes: Sequence[str] = ()


def render(page: Page, drawings: Mapping[str, str]) -> str:
    """The page's text.

    Args:
      page: what it says.
      drawings: SVG of each figure by its name.
    """
    charts = {f.name: f.chart for f in page.figures if f.chart is not None}
    sortable = any(table.keys is not None for table in page.tables)
    scripts = [*(map(asset, _LIBRARIES) if charts else ()), *([asset("page.js")] if charts or sortable else ())]
    sources = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    return _environment().get_template("page.html").render(
        page=page,
        style=Markup(asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        policy=Markup(
            f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {sources}; "
            "base-uri 'none'; form-action 'none'"
        ),
        charts=Markup(as_script_json(charts)) if charts else None,
        drawings={name: Markup(inline(name, svg)) for name, svg in drawings.items()},
    )  # fmt: skip


def as_script_json(value: Any) -> str:
    """JSON that may stand inside a script element: no '<', '>' or '&', and no line that ends where JSON has none.

    Numbers that are not finite are null.
    """
    said = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is spelled out
    return said.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@functools.cache
def asset(name: str) -> str:
    """The text of a file of the package's own."""
    return (importlib.resources.files("fednas_jax.report") / "assets" / name).read_text("utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def _environment() -> jinja2.Environment:
    """All that is shown is escaped, and spelled out where a page cannot hold it; figures are markup of our own."""
    return jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(asset),
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
