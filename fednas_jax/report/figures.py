"""Figures of one run, each with the sentence that says what is seen.

Letters: C clients, S clients whose labels are written down, K labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import ticker

from fednas_jax.phones import ledger
from fednas_jax.report import charts, findings, theme, wording
from fednas_jax.report.draw import label
from fednas_jax.report.theme import Shown, Sketch
from fednas_jax.run.finished import Run, members

_MOST_NAMED = 6  # series with colours and a legend entry of their own
_MOST_ROWS = 40  # of a table of colours


def of_run(run: Run) -> list[Shown]:
    """All figures of a run that it has the data for; raises as `Run.events` and `Run.ledger`."""
    scores = findings.scores(run)
    spent = findings.bill(run)
    found = [front(run), bill(spent)]
    if scores:
        found.append(candidates(run, scores))
    if run.result["models"]:
        found += [cuts(run), widths(run), phases(run)]
    found.append(clients(run))
    # A run of an older version has no clock.
    if "simulated_hours" in run.result and all("simulated_hours" in member for member in members(run.result)):
        found.append(hours(run, scores))
    mix = findings.label_mix(run)
    if mix and mix["counts"] and len(set(map(len, mix["counts"]))) == 1 and all(map(sum, mix["counts"])):
        found.append(partition(run, mix))
    return found


def front(run: Run) -> Shown:
    """Test accuracy against MACs."""
    found = [m for m in members(run.result) if m["test_accuracy"] is not None]
    macs, accuracy = (np.asarray([m[name] for m in found], float) for name in ("macs", "test_accuracy"))
    ends = [findings.tested(run, m) or (m["test_accuracy"],) * 2 for m in found]

    def draw(_: Any, axes: Any) -> None:
        x, y = macs / 1e6, 100 * accuracy
        bars = 100 * np.abs(np.asarray(ends).reshape(-1, 2).T - accuracy)
        axes.errorbar(x, y, bars, fmt="o-", color=theme.colour(0), elinewidth=0.8)
        if found and not found[0]["iteration"]:
            axes.plot(x[:1], y[:1], "s", color=theme.colour(1), markersize=6, zorder=3)
            axes.annotate("parent", (x[0], y[0]), xytext=(-4, 7), textcoords="offset points", ha="right", fontsize=7)
        axes.set(xlabel="multiply-accumulates of one image (millions)", ylabel="test accuracy (%)")
        axes.set_xlim(0, None)

    if found:
        first, last = found[0], found[-1]
        says = (
            f"From {wording.amount(first['macs'])} MACs to {wording.amount(last['macs'])}, test accuracy goes from "
            f"{wording.percent(first['test_accuracy'])} to {wording.percent(last['test_accuracy'])}."
        )
        if findings.tested(run, last):
            says += f" Bars are 95 % intervals by {run.result['data']['test_examples']:,} test images."
    else:
        says = "No network of this run was tested."
    return Shown("front", "Accuracy against size", says, Sketch(draw), chart=charts.front(run))


def bill(spent: findings.Bill) -> Shown:
    """The whole bill of an average client, and the bill where one member alone is fine-tuned."""
    lines = [("whole family", spent.stages)]
    if spent.alone is not None and len(spent.tuning) > 1:
        assert spent.one is not None
        lines.append(("one member", spent.stages | {"finetune": spent.tuning[spent.one]}))

    def draw(_: Any, axes: Any) -> None:
        for place, (_, stages) in enumerate(lines):
            left = 0.0
            for number, (stage, name) in enumerate((stage, wording.STAGES[stage]) for stage in ledger.STAGES):
                axes.barh(
                    place,
                    stages[stage],
                    left=left,
                    height=0.6,
                    color=theme.colour(number),
                    label=None if place else name,
                )
                left += stages[stage]
            axes.annotate(
                f"{wording.digits(left)} s", (left, place), xytext=(3, 0), textcoords="offset points", va="center"
            )
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="seconds of an average client", xlim=(0, 1.18 * max(spent.whole, 1e-9)))
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1, handlelength=1.2)

    says = (
        f"The search is {wording.share(spent.search_share)} of a client's {wording.digits(spent.whole)} s; "
        f"pretraining takes {wording.digits(spent.stages['pretrain'])} s, fine-tuning "
        f"{wording.digits(spent.stages['finetune'])} s."
    )
    if len(lines) > 1:
        says += f" {saving(spent)}"
    return Shown("bill", "The whole bill", says, Sketch(draw, height=1.5))


def saving(spent: findings.Bill) -> str:
    """What is saved by who fine-tunes the smallest member alone."""
    assert spent.alone is not None
    saved = spent.whole - spent.alone
    return (
        f"Who fine-tunes the smallest member alone saves {wording.digits(saved)} s, "
        f"{wording.share(saved / spent.whole if spent.whole else 0)} of the whole."
    )


def candidates(run: Run, scores: Sequence[findings.Score]) -> Shown:
    """Candidates' curves of validation accuracy; dropped ones end where they were dropped."""
    names = _named(run, [s.candidate for s in scores])
    curves: dict[tuple[int, str], list[findings.Score]] = {}
    for s in scores:
        curves.setdefault((s.iteration, s.candidate), []).append(s)

    def draw(_: Any, axes: Any) -> None:
        labelled: set[str] = set()
        ring = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": theme.INK, "zorder": 4}
        for (_, name), curve in curves.items():
            number = names.get(name, _MOST_NAMED)
            shade = theme.colour(number) if name in names else theme.GREY
            x, y = [s.at for s in curve], [100 * s.score for s in curve]
            for s in curve:
                if s.low is not None and s.high is not None:
                    axes.vlines(s.at, 100 * s.low, 100 * s.high, color=shade, alpha=0.35, linewidth=1)
            shown = name if name in names else "others"
            said = None if shown in labelled else label(shown)
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
        axes.set(xlabel="round of the search (lines part iterations)", ylabel="validation accuracy (%)")
        axes.legend(ncols=len(labelled) + 2, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1.2)

    dropped = sum(s.dropped for s in scores)
    says = f"{len(curves):,} candidates were scored; {dropped:,} of them end where they were dropped, at a cross."
    examples = {s.examples for s in scores if s.low is not None}
    if examples:
        least, most = min(filter(None, examples)), max(filter(None, examples))
        of = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        says += f" Bars are 95 % intervals: a score is of {of} validation images, so it jumps from round to round."
    chart = charts.candidates(scores, [*names, *sorted({s.candidate for s in scores} - set(names))])
    sketch = Sketch(draw, theme.WIDE, 2.6)
    return Shown("candidates", "The search as it went", says, sketch, wide=True, chart=chart)


def cuts(run: Run) -> Shown:
    """What each iteration cut: the share of the parent's MACs that it took, by the group that shrank."""
    found = findings.cuts(run)
    named = [_cut_name(cut) for cut in found]
    names = _named(run, named)

    def draw(_: Any, axes: Any) -> None:
        labelled: set[str] = set()
        for cut, name in zip(found, named, strict=True):
            shown = name if name in names else "others"
            said = None if shown in labelled else label(shown)
            labelled.add(shown)
            shade = theme.colour(names[name]) if name in names else theme.GREY
            axes.bar(cut.iteration, 100 * cut.taken, color=shade, label=said, width=0.7)
            if len(found) <= 16 and len(cut.groups) == 1:
                text = f"{cut.before[0]}→{cut.after[0]}"
                axes.annotate(
                    text, (cut.iteration, 100 * cut.taken), xytext=(0, 2), textcoords="offset points", ha="center",
                    fontsize=6 if len(found) <= 10 else 5,
                )  # fmt: skip
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=10))
        axes.grid(visible=False, axis="x")
        axes.margins(y=0.15)
        axes.set(xlabel="iteration", ylabel="MACs cut (% of the parent's)")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), columnspacing=1, handlelength=1.2)

    says = (
        f"{len(found)} iterations leave {wording.share(found[-1].left)} of the parent's MACs; numbers are the group's "
        "channels before and after."
    )
    return Shown("cuts", "What each iteration cut", says, Sketch(draw))


def widths(run: Run) -> Shown:
    """Widths of each member beside the parent's."""
    family = members(run.result)
    rows = [family[n] for n in _evenly(len(family), _MOST_ROWS)]
    groups = list(family[0]["widths"])
    columns = [groups[n] for n in _evenly(len(groups), _MOST_ROWS)]
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
        slant = {"rotation": 45, "ha": "right"} if len(columns) > 4 else {}
        axes.set_xticks(range(0, len(columns), step), [label(g)[:16] for g in columns[::step]], **slant)
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
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=10))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="iteration of the search", ylabel="seconds of an average client")
        axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=0.9, handlelength=1)

    sums = {phase: sum(seconds) for phase, seconds in found.items()}
    whole = sum(sums.values())
    most = max(sums, key=lambda phase: sums[phase])
    says = f"The search takes an average client {wording.digits(whole)} s"
    says += f", {wording.share(sums[most] / whole)} of them in {wording.PHASES[most]}." if whole else "."
    return Shown("phases", "Cost of the search by phase", says, Sketch(draw))


def clients(run: Run) -> Shown:
    """How the cost is distributed over clients: the share of clients that spent at most so much."""
    found = {stage: np.sort(seconds) for stage, seconds in findings.by_client(run).items()}
    count = run.result["clients"]

    def draw(_: Any, axes: Any) -> None:
        for number, (stage, seconds) in enumerate(found.items()):
            if not seconds[-1]:
                continue
            ranks = _evenly(count, 1000)  # a step for each of so many clients is more than a figure shows
            x, y = seconds[ranks], 100 * (np.asarray(ranks) + 1) / count
            axes.step(
                np.r_[x[0], x], np.r_[0, y], where="post", color=theme.colour(number), label=wording.STAGES[stage],
                linestyle=("-", "--", ":")[number],
            )  # fmt: skip
        if all(seconds[0] > 0 or not seconds[-1] for seconds in found.values()):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,g}"))
            axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set(xlabel="seconds of a client", ylabel="clients at or below (%)", ylim=(0, 103))
        if axes.get_lines():
            axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1, handlelength=1.6)

    by = run.result["client_cost"]["search"]["seconds"]
    says = (
        f"Of {count:,} clients half spend at most {wording.digits(by['p50'])} s in the search, 95 % at most "
        f"{wording.digits(by['p95'])} s, the busiest {wording.digits(by['max'])} s."
    )
    return Shown("clients", "How cost is spread over clients", says, Sketch(draw))


def hours(run: Run, scores: Sequence[findings.Score]) -> Shown:
    """Accuracy of the networks found so far against the simulated clock, pretraining included."""
    began = run.result["simulated_hours"]["pretrain"]
    found = members(run.result)
    validated = findings.validated(run, scores)
    last = began + found[-1]["simulated_hours"]
    unit, size = ("hours", 1.0) if last >= 2 else ("minutes", 60.0)
    series = (
        ("validation, as found", "s--", 1, [(m["score"], validated.get(m["iteration"])) for m in found]),
        ("test, after fine-tuning", "o-", 0, [(m["test_accuracy"], findings.tested(run, m)) for m in found]),
    )

    def draw(_: Any, axes: Any) -> None:
        for said, form, number, values in series:
            known = [
                (size * (began + m["simulated_hours"]), value, ends or (value, value))
                for m, (value, ends) in zip(found, values, strict=True)
                if value is not None
            ]
            if not known:
                continue
            y = np.asarray([100 * value for _, value, _ in known])
            bars = np.abs(100 * np.asarray([ends for *_, ends in known]).T - y)
            x = [at for at, *_ in known]
            axes.errorbar(x, y, bars, fmt=form, color=theme.colour(number), elinewidth=0.8, label=said)
        axes.set(xlabel=f"simulated {unit} when it was found", ylabel="accuracy (%)")
        axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)

    says = (
        f"The parent is ready after {wording.digits(size * began)} simulated {unit}, the smallest network is found "
        f"{wording.digits(size * (last - began))} {unit} later. Bars are 95 % intervals by the images of each score."
    )
    return Shown("hours", "Accuracy against simulated time", says, Sketch(draw))


def partition(run: Run, mix: dict[str, Any]) -> Shown:
    """How labels and examples are divided: clients from large to small."""
    counts, sizes = np.asarray(mix["counts"], float), np.asarray(mix["sizes"], float)
    if len(sizes) != len(counts):
        sizes = counts.sum(axis=1)
    shares = (counts / counts.sum(axis=1, keepdims=True)).T  # [K, S]
    span = (0, len(counts))

    def draw(figure: Any, both: Any) -> None:
        mixes, bars = both
        extent = (*span, len(shares), 0)
        image = mixes.imshow(
            shares, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1, extent=extent
        )
        figure.colorbar(image, ax=mixes, label="share", pad=0.02).outline.set_visible(False)
        mixes.grid(visible=False)
        ticks = np.arange(0, len(shares), max(1, -(-len(shares) // 10)))
        mixes.set_yticks(ticks + 0.5, [str(t) for t in ticks])
        mixes.set(ylabel="label")
        bars.stairs(sizes, np.arange(len(sizes) + 1), fill=True, color=theme.colour(0))
        bars.set(xlabel="clients, from large to small", ylabel="examples", xlim=span, ylim=(0, None))

    size = {"nrows": 2, "sharex": True, "height_ratios": (3, 1.2)}
    says = f"Columns are {'all' if len(counts) == run.result['clients'] else f'{len(counts)} of'} "
    says += f"{run.result['clients']:,} clients."
    if "heterogeneity" in run.result:
        found = run.result["heterogeneity"]
        says += (
            f" Their label mixes are {found['label_distance']:.2f} from the overall one (0 alike, 1 apart), the Gini "
            f"coefficient of their sizes is {found['size_gini']:.2f}."
        )
    return Shown("partition", "Who holds what", says, Sketch(draw, height=2.5, axes=size))


def _cut_name(cut: findings.Cut) -> str:
    return cut.groups[0] if len(cut.groups) == 1 else "several"


def _named(run: Run, names: Sequence[str]) -> dict[str, int]:
    """The most frequent names with the numbers of their colours: width groups first, in the network's order."""
    counts = Counter(names)
    most = {name for name, _ in counts.most_common(_MOST_NAMED)}
    order = dict.fromkeys([*run.result["parent"]["widths"], *counts])
    return {name: n for n, name in enumerate(name for name in order if name in most)}


def _evenly(count: int, most: int) -> list[int]:
    """All of `count` numbers, or `most` of them, evenly, the first and the last among them."""
    return list(range(count)) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
