"""Figures of a sweep, each with the sentence that says what is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, colors, patheffects
from matplotlib.cm import ScalarMappable

from fednas_jax.report import sweep_charts, theme, trials, wording
from fednas_jax.report.comparison_figures import interval_bars
from fednas_jax.report.draw import label
from fednas_jax.report.theme import Shown, Sketch, evenly
from fednas_jax.report.trials import Level, Sweep

_MOST_FIELDS, _MOST_PANELS, _MOST_LINES = 8, 9, 500
_COLUMNS = 2  # panels beside each other
_NARROW = 10  # times that a panel's logarithmic axis may span with more labels than those of powers of ten
NAMES = {
    **{f"accuracy_{n}": f"test accuracy within {n} % MACs" for n in (25, 50, 75)},
    "parent_accuracy": "test accuracy of the parent",
}


def of_sweep(sweep: Sweep, found: Mapping[str, Sequence[Level]]) -> list[Shown]:
    """All figures of a sweep; none where its trials differ in nothing.

    Args:
      sweep: that they are of.
      found: its main effects (`trials.effects`).
    """
    factors = list(found)[:_MOST_FIELDS]
    if not factors:
        return []
    shown = [trade(sweep, factors), parallel(sweep, factors), effects(sweep, {name: found[name] for name in factors})]
    return [*shown, multiples(sweep, factors)] if len(factors) > 1 else shown


def trade(sweep: Sweep, factors: Sequence[str]) -> Shown:
    """Accuracy against what the search costs a client, a point for each trial."""
    rows = [row for row in sweep.finished if row["search_seconds"] is not None]
    field = factors[0]
    kinds = _coloured(sweep, field)
    names = [label(kind, 24) for kind in kinds]

    def draw(_: Any, axes: Any) -> None:
        _scatter(axes, sweep, rows, kinds)
        _scaled(axes, rows)
        axes.set(xlabel="search, seconds of an average client", ylabel=f"{NAMES[sweep.accuracy]} (%)")
        placed = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "columnspacing": 1}
        axes.legend(title=label(_short(field), 22), ncols=theme.columns(names), handletextpad=0.2, **placed)

    best, ties = trials.best(sweep)
    says = (
        f"A point for each of {len(rows):,} trials, coloured by {label(field)}; the most accurate is "
        f"{label(best['trial'])} with {wording.percent(best[sweep.accuracy])}{as_others(ties)}."
    )
    chart = sweep_charts.trade(sweep, rows, field, kinds, NAMES[sweep.accuracy])
    sketch = Sketch(draw, height=2.3 + theme.legend_height(names))
    return Shown("trials", "Accuracy against the cost of the search", says, sketch, chart=chart)


def parallel(sweep: Sweep, factors: Sequence[str]) -> Shown:
    """Parallel coordinates: a line for each trial through its fields and what it came to."""
    finished = sweep.finished
    rows = [finished[n] for n in evenly(len(finished), _MOST_LINES)]
    axes_of = [*factors, "search_seconds", sweep.accuracy]
    places = {name: _positions(rows, name) for name in axes_of}
    values = [row[sweep.accuracy] for row in rows]
    low, high = min(values), max(max(values), min(values) + 1e-9)

    def draw(figure: Any, axes: Any) -> None:
        for number in sorted(range(len(rows)), key=lambda n: values[n]):
            y = [places[name][0][number] for name in axes_of]
            shade = colormaps["cividis"]((values[number] - low) / (high - low))
            axes.plot(range(len(axes_of)), y, color=shade, alpha=0.8, linewidth=0.9)
        for x, name in enumerate(axes_of):
            axes.axvline(x, color=theme.INK, linewidth=0.6)
            for at, text in places[name][1]:
                said = axes.annotate(
                    label(text, 14), (x, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6
                )
                said.set_path_effects([patheffects.withStroke(linewidth=2, foreground=theme.GROUND)])
        axes.set_xticks(range(len(axes_of)), [label(_short(name), 22) for name in axes_of])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlim(-0.1, len(axes_of) - 0.55)
        shades = ScalarMappable(colors.Normalize(100 * low, 100 * high), "cividis")
        bar = figure.colorbar(shades, ax=axes, pad=0.01, label="test accuracy (%)")
        bar.outline.set_visible(False)

    says = "Each line is a trial, from its fields to what its search cost and how accurate it is; light lines are good."
    chart = sweep_charts.parallel(sweep, rows, axes_of, places, [_short(name) for name in axes_of])
    return Shown("parallel", "Fields and outcomes", says, Sketch(draw, theme.WIDE, 2.8), wide=True, chart=chart)


def effects(sweep: Sweep, found: Mapping[str, Sequence[Level]]) -> Shown:
    """Main effects: mean accuracy at each value of each field."""
    lines = -(-len(found) // _COLUMNS)
    many = {field for field in found if trials.many(sweep.finished, field)}

    def draw(figure: Any, made: Any) -> None:
        places = np.ravel(made)
        for axes, (field, level) in zip(places, found.items(), strict=False):
            if field in many:
                x: list[Any] = [row[field] for row in sweep.finished]
                axes.plot(x, [100 * row[sweep.accuracy] for row in sweep.finished], ".", color=theme.colour(0))
                if trials.spans(x):
                    theme.logarithmic(axes, _NARROW)
            else:
                numbers = all(trials.is_number(each.value) for each in level)
                x = list(range(len(level)))
                y = [100 * each.accuracy.value for each in level]
                bars = interval_bars([each.accuracy.times(100) for each in level])
                axes.errorbar(x, y, bars, fmt="o-" if numbers else "o", color=theme.colour(0), elinewidth=0.9)
                step = max(1, -(-len(level) // trials.LEVELS))
                axes.set_xticks(x[::step], [label(wording.value(each.value), 12) for each in level[::step]])
                axes.margins(x=0.25)
            axes.set_title(label(field, 40))
        for axes in places[len(found) :]:
            axes.set_axis_off()
        figure.supylabel("test accuracy (%)", fontsize=8)

    most, levels = next(iter(found.items()))
    says = (
        f"Mean {NAMES[sweep.accuracy]} of all trials with that value, with 95 % intervals; the other fields vary. "
        f"{'Points are single trials, where a field has many values. ' if many else ''}"
        f"{label(most)} explains it best; means of its {'quarters' if most in many else 'values'} are up to "
        f"{100 * trials.spread(levels):.1f} points apart."
    )
    grid = {"nrows": lines, "ncols": min(len(found), _COLUMNS), "sharey": True, "squeeze": False}
    return Shown("effects", "What each field does", says, Sketch(draw, height=0.4 + 1.35 * lines, axes=grid))


def multiples(sweep: Sweep, factors: Sequence[str]) -> Shown:
    """Small multiples: accuracy against search cost, a panel for each value of the second field."""
    first, second = factors[:2]
    parts = trials.parts(sweep, second)
    chosen = [list(parts)[n] for n in evenly(len(parts), _MOST_PANELS)]
    lines, kinds = -(-len(chosen) // _COLUMNS), _coloured(sweep, first)
    shown = [label(kind, 24) for kind in kinds]

    def draw(figure: Any, made: Any) -> None:
        places = np.ravel(made)
        for axes, value in zip(places, chosen, strict=False):
            _scatter(axes, sweep, [row for row in parts[value] if row["search_seconds"] is not None], kinds)
            _scaled(axes, sweep.finished, _NARROW)
            axes.set_title(f"{label(_short(second), 20)} {label(wording.value(value), 24)}")
        for axes in places[len(chosen) :]:
            axes.set_axis_off()
        figure.supylabel("test accuracy (%)", fontsize=8)
        figure.supxlabel("search, seconds of an average client", fontsize=8)
        handles, names = places[0].get_legend_handles_labels()
        if handles:
            title = label(_short(first), 22)
            ncols = theme.columns(shown)
            figure.legend(handles, names, title=title, ncols=ncols, loc="outside upper center", handletextpad=0.2)

    each = "quarter of the values" if trials.many(sweep.finished, second) else "value"
    says = f"The same trials, a panel for each {each} of {label(second)}, coloured by {label(first)}."
    if len(chosen) < len(parts):
        says += f" {len(chosen)} of its {len(parts)} values are shown."
    columns = min(len(chosen), _COLUMNS)
    grid = {"nrows": lines, "ncols": columns, "sharey": True, "sharex": True, "squeeze": False}
    height = 0.7 + 1.35 * lines + theme.legend_height(shown)
    return Shown("multiples", "Side by side", says, Sketch(draw, height=height, axes=grid))


def _scatter(axes: Any, sweep: Sweep, rows: Sequence[dict[str, Any]], kinds: Mapping[str, set[str]]) -> None:
    for number, (kind, own) in enumerate(kinds.items()):
        some = [row for row in rows if row["trial"] in own]
        x, y = [row["search_seconds"] for row in some], [100 * row[sweep.accuracy] for row in some]
        said = label(kind, 24)
        axes.plot(x, y, theme.mark(number), color=theme.colour(number), label=said, markersize=4, alpha=0.85)


def _scaled(axes: Any, rows: Sequence[dict[str, Any]], room: float = 100) -> None:
    """The axis of costs, logarithmic where they span much, labelled in plain numbers."""
    if trials.spans([row["search_seconds"] for row in rows if row["search_seconds"] is not None]):
        theme.logarithmic(axes, room)


def as_others(ties: int) -> str:
    """That so many others are as good, as the end of a clause."""
    return f", as {wording.counted(ties, 'other')}" if ties else ""


def _coloured(sweep: Sweep, field: str) -> dict[str, set[str]]:
    """Names of trials by their value of a field as text, in the order of colours; values too many are one."""
    parts, found = trials.parts(sweep, field), dict[str, set[str]]()
    most = len(parts) if len(parts) <= len(theme.COLOURS) else len(theme.COLOURS) - 1
    for number, (value, rows) in enumerate(parts.items()):
        said = wording.value(value) if number < most else "others"
        found.setdefault(said, set()).update(row["trial"] for row in rows)
    return found


def _positions(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each row's value lies on its axis, from 0 to 1, and the texts beside the axis."""
    values = [row[name] for row in rows]
    numbers = [value for value in values if trials.is_number(value)]
    if numbers and len(numbers) == len(values):
        low, high = min(values), max(values)
        scale = (high - low) or 1
        ends = (low, high) if high > low else (low,)
        written = wording.percent if name in NAMES else wording.digits if name == "search_seconds" else wording.value
        at = [(value - low) / scale if high > low else 0.5 for value in values]
        return at, [((end - low) / scale if high > low else 0.5, written(end)) for end in ends]
    distinct = trials.kinds(rows, name)
    rank = {value: n / max(1, len(distinct) - 1) if len(distinct) > 1 else 0.5 for n, value in enumerate(distinct)}
    step = max(1, -(-len(distinct) // 10))
    return [rank[value] for value in values], [(rank[value], wording.value(value)) for value in distinct[::step]]


def _short(name: str) -> str:
    """A field's or outcome's name on an axis."""
    if name in NAMES:
        return "accuracy"
    return "search, s" if name == "search_seconds" else name.rpartition(".")[2]


assert set(NAMES) == set(trials.ACCURACIES)
