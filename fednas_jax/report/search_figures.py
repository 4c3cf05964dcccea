"""Figures of a run's search: candidates' curves, what each iteration cut, widths, phases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fednas_jax.report import charts, findings, theme, wording
from fednas_jax.report.draw import label
from fednas_jax.report.theme import Shown, Sketch, evenly
from fednas_jax.run.finished import Run, members

_MOST_NAMED = 6  # series with colours and a legend entry of their own
_MOST_ROWS = 40  # of a table of colours
_ROOM = 32  # letters below it, beside each other


def candidates(run: Run, scores: Sequence[findings.Score]) -> Shown:
    """Candidates' curves of validation scores; dropped ones end where they were dropped."""
    title, scale = wording.scored(run.result.get("metric", "accuracy"))
    names = _named(run, [s.candidate for s in scores])
    marks = [*(label(name, 24) for name in names), "others", "dropped", "won"]
    curves: dict[tuple[int, str], list[findings.Score]] = {}
    for s in scores:
        curves.setdefault((s.iteration, s.candidate), []).append(s)

    def draw(_: Any, axes: Any) -> None:
        labelled: set[str] = set()
        ring = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": theme.INK, "zorder": 4}
        for (_, name), curve in curves.items():
            number = names.get(name, _MOST_NAMED)
            shade = theme.colour(number) if name in names else theme.GREY
            x, y = [s.at for s in curve], [scale * s.score for s in curve]
            for s in curve:
                if s.low is not None and s.high is not None:
                    axes.vlines(s.at, scale * s.low, scale * s.high, color=shade, alpha=0.35, linewidth=1)
            shown = name if name in names else "others"
            said = None if shown in labelled else label(shown, 24)
            labelled.add(shown)
            axes.plot(x, y, marker=theme.mark(number), color=shade, label=said, linewidth=1, markersize=3.5)
            if curve[-1].dropped:
                axes.plot(x[-1:], y[-1:], "x", color=theme.INK, markersize=6, zorder=4)
            if curve[-1].won:
                axes.plot(
                    x[-1:], y[-1:], "o", markersize=8, markerfacecolor="none", markeredgecolor=theme.INK, zorder=4
                )
        starts = sorted({s.iteration: s.at for s in reversed(scores)}.values())
        for start in starts[1:]:
            axes.axvline(start - 0.5, color="#88888860", linewidth=0.6, zorder=0)
        axes.plot([], [], "x", color=theme.INK, markersize=6, label="dropped")
        axes.plot([], [], "o", **ring, label="won")
        axes.set(xlabel="round of the search (lines part iterations)", ylabel=label(title, 40))
        axes.legend(ncols=theme.columns(marks, theme.WIDE), loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1.2)

    dropped = sum(s.dropped for s in scores)
    says = (
        f"{wording.counted(len(curves), 'candidate')} scored; {dropped:,} dropped early, where curves end at a cross."
    )
    examples = {s.examples for s in scores if s.low is not None}
    if examples:
        least, most = min(filter(None, examples)), max(filter(None, examples))
        of = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        says += f" Bars are 95 % intervals: a score is of {of} validation examples, so it jumps from round to round."
    chart = charts.candidates(scores, [*names, *sorted({s.candidate for s in scores} - set(names))], title, scale)
    sketch = Sketch(draw, theme.WIDE, 2.6 + theme.legend_height(marks, theme.WIDE))
    return Shown("candidates", "The search as it went", says, sketch, wide=True, chart=chart)


def cuts(run: Run) -> Shown:
    """What each iteration cut: the share of the parent's MACs that it took, by the group that shrank."""
    found, count = findings.cuts(run), len(run.result["models"])
    named = [_cut_name(cut) for cut in found]
    names = _named(run, named)
    marks = [label(name, 24) for name in (*names, *({"others"} if set(named) - set(names) else ()))]

    def draw(_: Any, axes: Any) -> None:
        labelled: set[str] = set()
        for cut, name in zip(found, named, strict=True):
            shown = name if name in names else "others"
            said = None if shown in labelled else label(shown, 24)
            labelled.add(shown)
            shade = theme.colour(names[name]) if name in names else theme.GREY
            axes.bar(cut.iteration, 100 * cut.taken, color=shade, label=said, width=0.7)
            if len(found) <= 16 and len(cut.groups) == 1:
                text = f"{cut.before[0]}→{cut.after[0]}"
                axes.annotate(
                    text, (cut.iteration, 100 * cut.taken), xytext=(0, 2), textcoords="offset points", ha="center",
                    fontsize=6 if len(found) <= 10 else 5,
                )  # fmt: skip
        _iterations(axes, count)
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
        axes.set(xlabel="iteration", ylabel="MACs cut (% of the parent's)")
        placed = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "columnspacing": 1, "handlelength": 1.2}
        axes.legend(ncols=theme.columns(marks), **placed)

    says = (
        f"{wording.counted(count, 'iteration')} left {wording.share(found[-1].left)} of the parent's MACs; numbers are "
        "the group's channels before and after."
    )
    return Shown("cuts", "What each iteration cut", says, Sketch(draw, height=2.3 + theme.legend_height(marks)))


def widths(run: Run) -> Shown:
    """Widths of each member beside the parent's."""
    family = members(run.result)
    rows = [family[n] for n in evenly(len(family), _MOST_ROWS)]
    groups = list(family[0]["widths"])
    columns = [groups[n] for n in evenly(len(groups), _MOST_ROWS)]
    shares = np.asarray(
        [[m["widths"].get(g, 0) / max(1, family[0]["widths"][g]) for g in columns] for m in rows], float
    ).reshape(len(rows), len(columns))
    small = len(rows) <= 14 and len(columns) <= 9

    def draw(figure: Any, axes: Any) -> None:
        image = axes.imshow(shares, aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
        if small:
            for y, member in enumerate(rows):
                for x, group in enumerate(columns):
                    shade = "white" if shares[y, x] < 0.55 else "black"
                    text = str(member["widths"].get(group, 0))[:8]
                    axes.text(x, y, text, ha="center", va="center", color=shade, fontsize=7)
        bar = figure.colorbar(image, ax=axes, label="share of the parent's width", pad=0.02)
        bar.outline.set_visible(False)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        step = max(1, -(-len(rows) // 14))
        axes.set_yticks(
            range(0, len(rows), step), [str(m["iteration"]) if m["iteration"] else "parent" for m in rows[::step]]
        )
        step = max(1, -(-len(columns) // 12))
        names = [label(g, 16) for g in columns[::step]]
        slant = {"rotation": 45, "ha": "right"} if len(names) * max(map(len, names), default=0) > _ROOM else {}
        axes.set_xticks(range(0, len(columns), step), names, **slant)
        axes.tick_params(length=0)
        axes.set_ylabel("network after iteration")

    last = family[-1]["widths"]
    kept = {g: last.get(g, 0) / max(1, w) for g, w in family[0]["widths"].items()}
    most = min(kept, key=lambda g: kept[g], default=None)
    says = "Rows are the networks from large to small, columns the width groups."
    if most is not None:
        says += f" The smallest keeps {wording.share(kept[most])} of {label(most)}, its most cut group."
    return Shown("widths", "Widths beside the parent's", says, Sketch(draw))


def phases(run: Run) -> Shown:
    """Client seconds of the search by iteration and phase."""
    found = findings.phase_seconds(run)
    count = len(run.result["models"])

    def draw(_: Any, axes: Any) -> None:
        bottom = np.zeros(count)
        for number, (phase, seconds) in enumerate(found.items()):
            axes.bar(
                range(1, count + 1),
                seconds,
                bottom=bottom,
                color=theme.colour(number),
                label=wording.PHASES[phase],
                width=0.7,
            )
            bottom += seconds
        _iterations(axes, count)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="iteration of the search", ylabel="seconds of an average client")
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=0.9, handlelength=1)

    sums = {phase: sum(seconds) for phase, seconds in found.items()}
    whole = sum(sums.values())
    most = max(sums, key=lambda phase: sums[phase])
    says = f"The search takes an average client {wording.digits(whole)} s"
    says += f", {wording.share(sums[most] / whole)} of them in {wording.PHASES[most]}." if whole else "."
    return Shown("phases", "Cost of the search by phase", says, Sketch(draw))


def _iterations(axes: Any, count: int) -> None:
    """An axis of iterations from 1."""
    axes.set_xlim(0.4, count + 0.6)
    axes.set_xticks(range(1, count + 1, max(1, -(-count // 12))))


def _cut_name(cut: findings.Cut) -> str:
    return cut.groups[0] if len(cut.groups) == 1 else "several"


def _named(run: Run, names: Sequence[str]) -> dict[str, int]:
    """The most frequent names with the numbers of their colours: width groups first, in the network's order."""
    counts = Counter(names)
    most = {name for name, _ in counts.most_common(_MOST_NAMED)}
    order = dict.fromkeys([*run.result["parent"]["widths"], *counts])
    return {name: n for n, name in enumerate(name for name in order if name in most)}
