"""How figures look: colours, sizes of a paper's columns, and the two files that each becomes.

Colours are of Okabe and Ito's palette, which those who see fewer colours tell apart (https://jfly.uni-koeln.de/color/),
in an order whose first four have a contrast of 3 to 1 and more with white and with the page's dark ground; each also
has a mark of its own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import matplotlib
import numpy as np

from fednas_jax.report import wording

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = ("o", "s", "^", "D", "v", "P")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")  # the same in Vega
INK, GROUND, GREY = "#1b1b1a", "#fefefe", "#767676"
COLUMN, WIDE = 3.4, 7.0  # inches: a column of a paper of two, and the page
_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#88888840",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "errorbar.capsize": 1.5,
    "hatch.linewidth": 0.5,
    "figure.facecolor": GROUND,
    "axes.facecolor": "none",
    "savefig.facecolor": GROUND,
    **{name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
    "svg.fonttype": "path",  # the same letters wherever the file is opened
    "pdf.fonttype": 42,  # journals refuse type 3
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
}


class Sketch(NamedTuple):
    """How a figure is drawn."""

    draw: Callable[[Any, Any], None]  # into (figure, axes)
    width: float = COLUMN  # inches
    height: float = 2.3
    axes: Mapping[str, Any] = MappingProxyType({})  # for `pyplot.subplots`


class Files(NamedTuple):
    """A figure as it is written down."""

    svg: str
    pdf: bytes | None


class Shown(NamedTuple):
    """A figure of a page."""

    name: str  # of its files
    title: str
    says: str  # a sentence: what is seen
    sketch: Sketch
    wide: bool = False  # takes the page's whole width
    chart: dict[str, Any] | None = None  # the same as a Vega-Lite chart, which takes the figure's place


def drawn(shown: Shown, pdf: bool = True) -> Files:
    """Draws a figure in the theme.

    Args:
      shown: the figure, from whose name the SVG's ids are made.
      pdf: make that file too, which takes as long again.
    """
    sketch = shown.sketch
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": shown.name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in letters that it lacks
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # labels of a stranger's length
        figure, made = plt.subplots(figsize=(sketch.width, sketch.height), **sketch.axes)
        try:
            sketch.draw(figure, made)
            svg, papers = io.StringIO(), io.BytesIO()
            # No date: the same figure is the same file.
            figure.savefig(svg, format="svg", metadata={"Date": None})
            if pdf:
                figure.set_layout_engine("none")  # everything is where it belongs
                figure.savefig(papers, format="pdf", metadata={"CreationDate": None})
        finally:
            plt.close(figure)
    return Files(svg.getvalue(), papers.getvalue() if pdf else None)


def inline(name: str, svg: str) -> str:
    """An SVG as a part of a page: in the page's own ink, on its ground, with ids of its own.

    Args:
      name: of the figure, of letters, digits and '-'.
      svg: the file's text.
    """
    body = svg[svg.index("<svg") :].replace(INK, "currentColor").replace(GROUND, "none")
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)


def colour(number: int) -> str:
    """The colour of the n-th series; they repeat, with the same mark."""
    return COLOURS[number % len(COLOURS)]


def mark(number: int) -> str:
    """The mark of the n-th series."""
    return MARKS[number % len(MARKS)]


def columns(names: Sequence[str], width: float = COLUMN) -> int:
    """Columns of a legend that is not wider than its figure, of so many inches: 4.2 points a letter, 28 a handle."""
    widest = max(map(len, names), default=0)
    return max(1, min(len(names), int(72 * width / (4.2 * widest + 28))))


def legend_height(names: Sequence[str], width: float = COLUMN) -> float:
    """Inches that a legend takes of a figure beyond those of its first row."""
    return 0.14 * (-(-len(names) // columns(names, width)) - 1)


def logarithmic(axes: Any, room: float = 100) -> None:
    """Makes an x axis, on which everything is drawn, logarithmic, labelled in plain numbers.

    Args:
      axes: to be changed.
      room: times that the axis may span with room for labels at 1, 2 and 5; beyond, powers of ten have one.
    """
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if high < room * low else (1,)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def stack_seconds(axes: Any, rows: Sequence[Mapping[str, float]], names: Mapping[str, str]) -> None:
    """Horizontal bars below each other, each of parts, with the sum beside it.

    Args:
      axes: to draw into.
      rows: seconds by part, of each bar.
      names: of the parts, in the order of their colours.
    """
    for place, row in enumerate(rows):
        left = 0.0
        for number, (part, name) in enumerate(names.items()):
            said = None if place else name
            axes.barh(place, row[part], left=left, height=0.6, color=colour(number), label=said)
            left += row[part]
        said = f"{wording.digits(left)} s"
        axes.annotate(said, (left, place), xytext=(3, 0), textcoords="offset points", va="center")


def evenly(count: int, most: int) -> list[int]:
    """All of `count` numbers, or `most` of them, evenly, the first and the last among them."""
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
