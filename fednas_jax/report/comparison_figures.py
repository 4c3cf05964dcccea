"""Figures of methods over seeds, each with the sentence that says what is seen."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from fednas_jax.phones import ledger
from fednas_jax.report import charts, contrasts, theme, wording
from fednas_jax.report.contrasts import Contrast
from fednas_jax.report.draw import label
from fednas_jax.report.statistics import Estimate
from fednas_jax.report.theme import Shown, Sketch
from fednas_jax.run.finished import RATIOS, Run, members

MOST = 12  # methods in a figure


def of_methods(found: Sequence[Contrast], against: contrasts.Method) -> list[Shown]:
    """All figures of a comparison; raises as `Run.ledger`."""
    few = found[:MOST]
    shown = [front(few), seconds(found, against)]
    if len(found) > 1:
        shown.append(gains(few, against))
    return [*shown, stacked(few, "bill", "The whole bill", ledger.STAGES, contrasts.stages, "all stages"),
            stacked(few, "phases", "The search by phase", ledger.PHASES, contrasts.phases, "the search")]  # fmt: skip


def front(found: Sequence[Contrast]) -> Shown:
    """Accuracy at equal MACs: means with intervals over seeds, single runs behind them."""
    points = [(number, c, at, e) for number, c in enumerate(found) for at, e in _points(c)]

    def place(number: int, at: float) -> float:  # beside each other, so that no interval hides another
        return 100 * at + 1.2 * (number - (len(found) - 1) / 2)

    names = [label(c.method.name, 48) for c in found]

    def draw(_: Any, axes: Any) -> None:
        for number, c in enumerate(found):
            for run in c.method.runs:
                x, y = _line(run)
                axes.plot(x, y, color=theme.colour(number), alpha=0.25, linewidth=0.7)
            known = _points(c)
            x = [place(number, at) for at, _ in known]
            y = [100 * e.value for _, e in known]
            bars, form = interval_bars([e.times(100) for _, e in known]), theme.mark(number) + "-"
            axes.errorbar(x, y, bars, fmt=form, color=theme.colour(number), label=names[number], elinewidth=0.9)
        axes.set(xlabel="MACs within (% of the parent's)", ylabel="test accuracy (%)", xlim=(0, 108))
        axes.legend(ncols=theme.columns(names), loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)

    rows = [
        {
            "method": charts.text(c.method.name),
            "share": 100 * at,
            "place": place(number, at),
            "accuracy": 100 * e.value,
            "low": None if e.low is None else 100 * e.low,
            "high": None if e.high is None else 100 * e.high,
            "mean": wording.estimate(e, 100, 1),
            "runs": e.values,
        }
        for number, c, at, e in points
    ]
    says = (
        "Mean test accuracy of the largest tested network within a share of the parent's MACs; thin lines are single "
    )
    says += f"runs. {_how_sure(found)}"
    single = [
        {"method": charts.text(c.method.name), "run": f"{number} {n}", "share": x, "accuracy": y}
        for number, c in enumerate(found)
        for n, run in enumerate(c.method.runs)
        for x, y in zip(*_line(run), strict=True)
    ]
    chart = charts.methods_front(rows, single, says) if rows else None
    sketch = Sketch(draw, height=2.3 + theme.legend_height(names))
    return Shown("front", "Accuracy at equal size", says, sketch, chart=chart)


def seconds(found: Sequence[Contrast], against: contrasts.Method) -> Shown:
    """How many times cheaper a search is than the baseline's."""
    others = [c for c in found if c.cheaper is not None]
    estimates = [(_name(c.method.name), c.cheaper) for c in others if c.cheaper is not None]
    says = f"Client seconds of the search of {label(against.name)}, divided by each method's"
    if estimates:
        best = max(others, key=lambda c: c.cheaper.value if c.cheaper else 0.0)
        none = "" if best.cheaper and best.cheaper.value > 1 else "none is cheaper; "
        says += (
            f": {none}{label(best.method.name)} is {wording.estimate(best.cheaper)} times cheaper. {_paired(others)}"
        )
    elif len(found) > 1:
        says += ": there is no ratio, since a search costs nothing."
    else:
        says += ": there is nothing else to compare it with."
    few = estimates[:MOST]
    draw = _forest(few, "times cheaper (search seconds of a client)", 1.0, log=True)
    return Shown(
        "cheaper", "What the search costs, as a ratio", says, Sketch(draw, height=_height([name for name, _ in few]))
    )


def gains(found: Sequence[Contrast], against: contrasts.Method) -> Shown:
    """Accuracy less the baseline's, at each share of the parent's MACs."""
    estimates = [
        (f"{_name(c.method.name, 2)}\nwithin {100 * ratio:.0f} % MACs", gain)
        for c in found
        for ratio, gain in c.gain.items()
        if gain is not None
    ]
    scaled = [(name, gain.times(100)) for name, gain in estimates]
    says = f"Test accuracy less that of {label(against.name)}, within each share of the parent's MACs."
    if not estimates:
        says += " No share of the MACs is reached by both."
    else:
        says += f" {_paired([c for c in found if any(gain is not None for gain in c.gain.values())])}"
    draw = _forest(scaled, "test accuracy, difference in points", 0.0)
    return Shown(
        "gains", "Accuracy beside the baseline's", says, Sketch(draw, height=_height([name for name, _ in scaled]))
    )


def stacked(
    found: Sequence[Contrast],
    name: str,
    title: str,
    parts: Sequence[str],
    of: Callable[[contrasts.Method], dict[str, float]],
    what: str,
) -> Shown:
    """Seconds of an average client, part by part, for each method."""
    values = [of(c.method) for c in found]
    names = [_name(c.method.name) for c in found]
    most = max([sum(each.values()) for each in values] + [1e-9])

    def draw(figure: Any, axes: Any) -> None:
        theme.stack_seconds(axes, values, {part: (wording.STAGES | wording.PHASES)[part] for part in parts})
        _rows(axes, names)
        axes.set(xlim=(0, 1.3 * most))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=(1, 2, 2.5, 5, 10)))
        figure.supxlabel(f"seconds of an average client, {what}", fontsize=8)
        figure.legend(ncols=len(parts), loc="outside upper center", columnspacing=0.9, handlelength=1)

    shares = [each["search"] / sum(each.values()) for each in values if "search" in each and sum(each.values()) > 0]
    says = f"Means over seeds of the seconds of an average client in {what}."
    if shares:
        of_all = " to ".join(dict.fromkeys(wording.share(f(shares)) for f in (min, max)))
        says += f" The search is {of_all} of the whole."
    return Shown(name, title, says, Sketch(draw, height=_height(names, 1.0)))


def _points(c: Contrast) -> list[tuple[float, Estimate]]:
    """Share of the parent's MACs, from small to large, and the mean accuracy within it."""
    known = [(ratio, c.accuracy[ratio]) for ratio in sorted(RATIOS)] + [(1.0, c.parent)]
    return [(ratio, e) for ratio, e in known if e is not None]


def _line(run: Run) -> tuple[list[float], list[float]]:
    tested = [m for m in members(run.result) if m["test_accuracy"] is not None]
    whole = run.result["parent"]["macs"]
    return [100 * m["macs"] / whole for m in tested], [100 * m["test_accuracy"] for m in tested]


def interval_bars(found: Sequence[Estimate]) -> np.ndarray:
    """[2, N]: how far below and above an interval reaches."""
    ends = [(0.0, 0.0) if e.low is None or e.high is None else (e.value - e.low, e.high - e.value) for e in found]
    return np.maximum(0.0, np.asarray(ends, float).reshape(-1, 2).T)


def _forest(found: Sequence[tuple[str, Estimate]], title: str, none: float, log: bool = False) -> Callable[..., None]:
    """A drawing of estimates below each other, beside the value that means no difference."""

    def draw(figure: Any, axes: Any) -> None:
        axes.axvline(none, color=theme.GREY, linewidth=0.8)
        for place, (_name, e) in enumerate(found):
            axes.errorbar(e.value, place, xerr=interval_bars([e]), fmt="o", color=theme.colour(0), elinewidth=1)
        _rows(axes, [name for name, _ in found])
        if log:
            theme.logarithmic(axes)
        figure.supxlabel(title, fontsize=8)  # names may leave the axes less room than it needs

    return draw


def _name(name: str, most: int = 3) -> str:
    """A method's name in lines of a width that leaves room for the figure beside them."""
    return "\n".join(textwrap.wrap(label(name), 24, max_lines=most, placeholder=" ..."))


def _rows(axes: Any, names: Sequence[str]) -> None:
    """Names beside horizontal rows, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _height(names: Sequence[str], least: float = 0.8) -> float:
    lines = max((name.count("\n") + 1 for name in names), default=1)
    return least + (0.14 + 0.1 * lines) * max(2, len(names))


def _how_sure(found: Sequence[Contrast]) -> str:
    most = max(len(c.method.runs) for c in found)
    return "Bars are 95 % intervals over seeds (Student's t)." if most > 1 else "One run each: there are no intervals."


def _paired(found: Sequence[Contrast]) -> str:
    """How the intervals came about."""
    if max((len(c.method.runs) for c in found), default=0) < 2:
        return "One run each: there are no intervals."
    return "In parentheses and as bars 95 % intervals, paired where seeds are shared."
