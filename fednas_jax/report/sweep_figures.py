"""Figures of a sweep, each with the sentence that says what is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, colors, patheffects, ticker
from matplotlib.cm import ScalarMappable

from fednas_jax.report import sweep_charts, theme, trials, wording
from fednas_jax.report.comparison_figures import interval_bars
from fednas_jax.report.draw import label
from fednas_jax.report.theme import Shown, Sketch, evenly
from fednas_jax.report.trials import Level, Sweep

_MOST_FIELDS, _MOST_PANELS, _MOST_LINES = 8, 9, 500
_COLUMNS = 2  # panels beside each other
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
    shades = _shades(sweep, factors)
    field = factors[0]

    def draw(_: Any, axes: Any) -> None:
        _scatter(axes, sweep, rows, field, shades)
        _scaled(axes, rows)
        axes.set(xlabel="search, seconds of an average client", ylabel=f"{NAMES[sweep.accuracy]} (%)")
        placed = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "columnspacing": 1}
        axes.legend(title=label(_short(field))[:22], ncols=3, handletextpad=0.2, **placed)

    best = max(sweep.finished, key=lambda row: row[sweep.accuracy])
    says = (
        f"A point for each of {len(rows):,} trials, coloured by {label(field)}; the most accurate is "
        f"{label(best['trial'])} with {wording.percent(best[sweep.accuracy])}."
    )
    chart = sweep_charts.trade(sweep, rows, field, [wording.value(value) for value in shades], NAMES[sweep.accuracy])
    return Shown("trials", "Accuracy against the cost of the search", says, Sketch(draw), chart=chart)


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
                    label(text)[:14], (x, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6
                )
                said.set_path_effects([patheffects.withStroke(linewidth=2, foreground=theme.GROUND)])
        axes.set_xticks(range(len(axes_of)), [label(_short(name))[:22] for name in axes_of])
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

    def draw(figure: Any, made: Any) -> None:
        places = np.ravel(made)
        for axes, (field, level) in zip(places, found.items(), strict=False):
            numbers = all(trials.is_number(each.value) for each in level)
            if numbers and len(level) > trials.LEVELS:
                x: list[Any] = [row[field] for row in sweep.finished]
                axes.plot(x, [100 * row[sweep.accuracy] for row in sweep.finished], ".", color=theme.colour(0))
            else:
                x = list(range(len(level)))
                y = [100 * each.accuracy.value for each in level]
                bars = interval_bars([each.accuracy.times(100) for each in level])
                axes.errorbar(x, y, bars, fmt="o-" if numbers else "o", color=theme.colour(0), elinewidth=0.9)
                step = max(1, -(-len(level) // trials.LEVELS))
                axes.set_xticks(x[::step], [label(wording.value(each.value))[:12] for each in level[::step]])
                axes.margins(x=0.25)
            axes.set_title(label(field)[:40])
        for axes in places[len(found) :]:
            axes.set_axis_off()
        figure.supylabel("test accuracy (%)", fontsize=8)

    most, levels = next(iter(found.items()))
    says = (
        f"Mean {NAMES[sweep.accuracy]} of all trials with that value, with 95 % intervals; the other fields vary. "
        f"{label(most)} moves it most, by {100 * trials.spread(levels):.1f} points."
    )
    grid = {"nrows": lines, "ncols": min(len(found), _COLUMNS), "sharey": True, "squeeze": False}
    return Shown("effects", "What each field does", says, Sketch(draw, height=0.4 + 1.35 * lines, axes=grid))


def multiples(sweep: Sweep, factors: Sequence[str]) -> Shown:
    """Small multiples: accuracy against search cost, a panel for each value of the second field."""
    first, second = factors[:2]
    values = trials.kinds(sweep.finished, second)
    chosen = [values[n] for n in evenly(len(values), _MOST_PANELS)]
    lines, shades = -(-len(chosen) // _COLUMNS), _shades(sweep, factors)

    def draw(figure: Any, made: Any) -> None:
        places = np.ravel(made)
        for axes, value in zip(places, chosen, strict=False):
            rows = [row for row in sweep.finished if row[second] == value and row["search_seconds"] is not None]
            _scatter(axes, sweep, rows, first, shades)
            _scaled(axes, sweep.finished)
            axes.set_title(f"{label(_short(second))[:20]} {label(wording.value(value))[:20]}")
        for axes in places[len(chosen) :]:
            axes.set_axis_off()
        figure.supylabel("test accuracy (%)", fontsize=8)
        figure.supxlabel("search, seconds of an average client", fontsize=8)
        handles, names = places[0].get_legend_handles_labels()
        if handles:
            title = label(_short(first))[:22]
            figure.legend(handles, names, title=title, ncols=3, loc="outside upper center", handletextpad=0.2)

    says = f"The same trials, a panel for each value of {label(second)}, coloured by {label(first)}."
    if len(chosen) < len(values):
        says += f" {len(chosen)} of its {len(values)} values are shown."
    columns = min(len(chosen), _COLUMNS)
    grid = {"nrows": lines, "ncols": columns, "sharey": True, "sharex": True, "squeeze": False}
    return Shown("multiples", "Side by side", says, Sketch(draw, height=0.7 + 1.35 * lines, axes=grid))


def _scatter(axes: Any, sweep: Sweep, rows: Sequence[dict[str, Any]], field: str, shades: dict[Any, int]) -> None:
    for value, number in shades.items():
        own = [row for row in rows if _binned(row[field], shades) == value]
        x, y = [row["search_seconds"] for row in own], [100 * row[sweep.accuracy] for row in own]
        said = label(wording.value(value))[:20]
        axes.plot(x, y, theme.mark(number), color=theme.colour(number), label=said, markersize=4, alpha=0.85)


def _scaled(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """The axis of costs, logarithmic where they span much, labelled in plain numbers."""
    if trials.spans([row["search_seconds"] for row in rows if row["search_seconds"] is not None]):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _shades(sweep: Sweep, factors: Sequence[str]) -> dict[Any, int]:
    """The first field's values with the numbers of their colours; those too many are one."""
    values = trials.kinds(sweep.finished, factors[0])
    few = values if len(values) <= len(theme.COLOURS) else [*values[: len(theme.COLOURS) - 1], _OTHERS]
    return {value: number for number, value in enumerate(few)}


_OTHERS = "others"


def _binned(value: Any, shades: dict[Any, int]) -> Any:
    return value if value in shades else _OTHERS


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
