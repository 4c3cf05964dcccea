"""One self-contained page of several runs: methods over seeds, beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fednas_jax.report import comparing, comparison_figures, contrasts, wording
from fednas_jax.report.contrasts import Contrast, Method
from fednas_jax.report.statistics import Estimate
from fednas_jax.report.template import Fact, Grid, Page
from fednas_jax.run.finished import RATIOS, Run, at_ratio

SECONDS = "Seconds are simulated ones of an average client."


def of_runs(paths: Sequence[Path], each: bool = True) -> Page:
    """What the page of several runs says; raises as `comparing.compare`.

    Args:
      paths: the runs' folders.
      each: list the runs one by one too.
    """
    runs, trust = comparing.read(paths, "report")
    methods = contrasts.methods(runs)
    against = contrasts.baseline(methods)
    found = [contrasts.contrast(method, against) for method in methods]
    seeds = sorted({run.result["seed"] for run in runs})
    why = "the straightforward design" if against.runs[0].result["method"] == "naive" else "whose search costs most"
    most = comparison_figures.MOST
    shown = [f"Figures show the first {most} of {len(methods)} methods, tables all."] if len(methods) > most else []
    return Page(
        title=f"{wording.counted(len(methods), 'method')} on {runs[0].data}",
        lead=(
            f"{wording.counted(len(runs), 'run')}, {wording.counted(len(seeds), 'seed')}; the baseline is "
            f"{against.name}, {why}."
        ),
        facts=_facts(found),
        warnings=[f"{run.path.name}: {said}" for run in runs for said in run.result.get("warnings", [])][:10],
        figures=comparison_figures.of_methods(found, against),
        tables=[methods_table(found), differences_table(found, against), *([runs_table(runs)] if each else [])],
        notes=[
            SECONDS,
            "Means over seeds have 95 % intervals by Student's t, which hold what other seeds would change, not what "
            "other test images would; "
            "differences and ratios are paired by the seeds that both methods ran with, else by Welch's test; a ratio "
            "is the geometric mean, its interval that of the logarithm. An interval that holds 0 (a difference) or 1 "
            "(a ratio) cannot tell the two apart; that they are equal it does not say.",
            *trust,
            *shown,
        ],
    )  # fmt: skip


def _facts(found: Sequence[Contrast]) -> list[Fact]:
    """Accuracy at the smallest share of the MACs that all of them reach, and what it cost."""
    few, facts = found[:3], []
    ratio = next((r for r in sorted(RATIOS) if all(c.accuracy[r] is not None for c in few)), None)
    for c in few:
        name, reached = c.method.name, c.parent if ratio is None else c.accuracy[ratio]
        if reached is not None:
            of = f"the parent of {name}" if ratio is None else f"{name} within {100 * ratio:.0f} % MACs"
            facts.append(Fact(wording.percent(reached.value), f"test accuracy of {of}"))
        facts.append(Fact(f"{wording.digits(c.search.value)} s", f"of a client for the search of {name}"))
    return facts


def methods_table(found: Sequence[Contrast]) -> Grid:
    """What each method reaches and costs."""
    header = (
        "method",
        "runs",
        "parent, %",
        *(f"within {100 * r:.0f} % MACs, %" for r in RATIOS),
        "search, s",
        "all, s",
    )
    header = (*header, "search of all")
    rows = [
        [
            c.method.name,
            str(len(c.method.runs)),
            *(_of_seeds(each, c.method) for each in (c.parent, *(c.accuracy[r] for r in RATIOS))),
            wording.estimate(c.search),
            wording.estimate(c.whole),
            wording.share(c.search.value / c.whole.value if c.whole.value else 0),
        ]
        for c in found
    ]
    says = "Means over seeds and, in parentheses, their 95 % intervals."
    return Grid("Methods", header, rows, 1, says)


def _of_seeds(found: Estimate | None, method: Method) -> str:
    """A mean accuracy in percent, and over which part of the seeds where some have no such network."""
    said = wording.estimate(found, 100, 1)
    return said if found is None or found.values == method.seeds else f"{said}, {found.values} of {method.seeds} seeds"


def _of_pairs(found: Estimate | None, pairs: int, most: int) -> str:
    """A difference in points, and of how many pairs where some of the most have no such network."""
    said = wording.estimate(found, 100, 2, sign=True)
    if found is None or pairs == most:
        return said
    return f"{said}, {wording.counted(pairs, 'pair')}" if pairs else f"{said}, unpaired"


def differences_table(found: Sequence[Contrast], against: contrasts.Method) -> Grid:
    """How each method differs from the baseline."""
    header = ("method", "pairs", "search, times cheaper", *(f"points within {100 * r:.0f} % MACs" for r in RATIOS))
    rows = [
        [
            c.method.name,
            str(c.searched),
            wording.estimate(c.cheaper),
            *(_of_pairs(c.gain[r], c.pairs[r], c.searched) for r in RATIOS),
        ]
        for c in found
        if c.method is not against
    ]
    says = (
        f"{against.name} is the baseline: its search seconds divided by a method's, a method's accuracy less its own. "
        "Pairs are the seeds that both have; with none, means are compared (Welch)."
    )
    return Grid("Beside the baseline", header, rows, 1, says)


def runs_table(runs: Sequence[Run]) -> Grid:
    """The runs, sortable."""
    header = ("run", "method", "seed", "parent, %", *(f"within {100 * r:.0f} %" for r in RATIOS), "search, s", "all, s")
    rows, keys = [], []
    for run in runs:
        tested = [run.result["parent"], *(at_ratio(run.result, r) for r in RATIOS)]
        accuracies = [None if m is None or m["test_accuracy"] is None else 100 * m["test_accuracy"] for m in tested]
        spent = [contrasts.search(run), contrasts.whole(run)]
        names = [run.path.name, run.result["method"]]
        rows.append(
            [
                *names,
                str(run.result["seed"]),
                *("" if a is None else f"{a:.1f}" for a in accuracies),
                *map(wording.digits, spent),
            ]
        )
        keys.append([*names, run.result["seed"], *accuracies, *spent])
    return Grid(
        "Runs", header, rows, 2, "Test accuracy of the largest tested network within each share of the MACs.", keys
    )
