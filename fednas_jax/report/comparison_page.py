"""One self-contained page of several runs: methods over seeds, beside a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fednas_jax.report import comparing, comparison_figures, contrasts, wording
from fednas_jax.report.contrasts import Contrast
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
            "Means over seeds have 95 % intervals by Student's t; "
            "differences and ratios are paired by the seeds that both methods ran with, else by Welch's test; a ratio "
            "is the geometric mean, its interval that of the logarithm. An interval that holds 0 (a difference) or 1 "
            "(a ratio) shows no difference.",
            *trust,
        ],
    )  # fmt: skip


def _facts(found: Sequence[Contrast]) -> list[Fact]:
    facts = []
    for c in found[:3]:
        name = c.method.name
        smallest = next((c.accuracy[r] for r in sorted(RATIOS) if c.accuracy[r] is not None), c.parent)
        if smallest is not None:
            facts.append(Fact(wording.percent(smallest.value), f"test accuracy of {name}, smallest networks"))
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
            wording.estimate(c.parent, 100, 1),
            *(wording.estimate(c.accuracy[r], 100, 1) for r in RATIOS),
            wording.estimate(c.search),
            wording.estimate(c.whole),
            wording.share(c.search.value / c.whole.value if c.whole.value else 0),
        ]
        for c in found
    ]
    return Grid("Methods", header, rows, 1, "Means over seeds and, in parentheses, their 95 % intervals.")


def differences_table(found: Sequence[Contrast], against: contrasts.Method) -> Grid:
    """How each method differs from the baseline."""
    header = ("method", "pairs", "search, times cheaper", *(f"points within {100 * r:.0f} % MACs" for r in RATIOS))
    rows = [
        [
            c.method.name,
            str(c.cheaper.values) if c.cheaper else "-",
            wording.estimate(c.cheaper),
            *(wording.estimate(c.gain[r], 100, 2, sign=True) for r in RATIOS),
        ]
        for c in found
        if c.method is not against
    ]
    says = (
        f"{against.name} is the baseline: its search seconds divided by a method's, a method's accuracy less its own."
    )
    return Grid("Beside the baseline", header, rows, 1, says)


def runs_table(runs: Sequence[Run]) -> Grid:
    """The runs, sortable."""
    header = ("run", "method", "seed", "parent, %", *(f"within {100 * r:.0f} %" for r in RATIOS), "search, s", "all, s")
    rows, keys = [], []
    for run in runs:
        tested = [run.result["parent"], *(at_ratio(run.result, r) for r in RATIOS)]
        accuracies = [None if m is None else m["test_accuracy"] for m in tested]
        spent = [contrasts.search(run), contrasts.whole(run)]
        names = [run.path.name, run.result["method"]]
        rows.append(
            [
                *names,
                str(run.result["seed"]),
                *("" if a is None else f"{100 * a:.1f}" for a in accuracies),
                *map(wording.digits, spent),
            ]
        )
        keys.append([*names, run.result["seed"], *accuracies, *spent])
    return Grid("Runs", header, rows, 2, "Test accuracy of the largest network within each share of the MACs.", keys)
