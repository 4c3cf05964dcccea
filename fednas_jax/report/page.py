"""One self-contained page of a finished run, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fednas_jax.report import figures, findings, template, wording
from fednas_jax.report.assigning import assigned
from fednas_jax.report.tables import TIERS, not_counted, tier_rows
from fednas_jax.report.template import Fact, Grid, Page
from fednas_jax.report.theme import drawn
from fednas_jax.run.finished import Run, load_run, members, write_into


def write_report(path: Path | str, pdf: bool = True) -> Path:
    """Writes `RUN/figures/*.svg` and `*.pdf`, and the self-contained RUN/report.html of a finished run.

    Args:
      path: the run's folder.
      pdf: write figures as PDF too, which takes as long as all the rest.

    Returns:
      The page.

    Raises:
      RunError: as `load_run`, a file that is shown is damaged, or one cannot be written.
    """
    run = load_run(path)
    return write(run.path, of_run(run), pdf)


def write(folder: Path, page: Page, pdf: bool = True) -> Path:
    """Draws a page's figures, and writes all into a folder; raises as `write_into`."""
    files = {figure.name: drawn(figure, pdf) for figure in page.figures}
    for name, each in files.items():
        write_into(folder, f"figures/{name}.svg", each.svg)
        if each.pdf is not None:
            write_into(folder, f"figures/{name}.pdf", each.pdf)
    text = template.render(page, {name: each.svg for name, each in files.items()})
    return write_into(folder, "report.html", text)


def of_run(run: Run) -> Page:
    """What the page of a run says; raises as `figures.of_run`."""
    result, spent, scores = run.result, findings.bill(run), findings.scores(run)
    found = members(result)
    left = wording.share(found[-1]["macs"] / result["parent"]["macs"])
    lead = (
        f"{wording.counted(len(result['models']), 'network')} down to {left} of the parent's MACs, for "
        f"{result['clients']:,} clients{_mixes(result)}. The search stopped: {result['stop_reason']}. "
        f"{not_counted(result)}"
    )
    tables = [family_table(run, spent, scores), cost_table(run, spent)]
    if tiers := assigned(run.path):
        tables.append(Grid("What each class of phones runs", TIERS, tier_rows(tiers), 2))
    return Page(
        title=run.title,
        lead=lead,
        facts=_facts(run, spent),
        warnings=result.get("warnings", []),
        figures=figures.of_run(run, spent, scores),
        tables=tables,
        notes=[
            "Seconds are simulated ones of an average client, unless said otherwise. Intervals of accuracies are 95 % "
            "score intervals (Wilson): they say how much other examples would change them, not other seeds."
        ],
    )


def _facts(run: Run, spent: findings.Bill) -> list[Fact]:
    """The numbers at the head."""
    tested = [m for m in members(run.result) if m["test_accuracy"] is not None]
    facts = [
        Fact(
            wording.percent(m["test_accuracy"]),
            f"test accuracy, {'parent' if not m['iteration'] else 'smallest network'} "
            f"({wording.amount(m['macs'])} MACs)",
        )
        for m in ([tested[0], tested[-1]] if len(tested) > 1 else tested)
    ]
    facts.append(Fact(f"{wording.digits(spent.stages['search'])} s", "of a client for the search"))
    facts.append(Fact(f"{wording.digits(spent.whole)} s", "of a client in all: pretraining, search, fine-tuning"))
    facts.append(Fact(wording.share(spent.search_share), "of the whole is the search"))
    if spent.saved is not None:
        saved = spent.saved / spent.whole if spent.whole else 0.0
        facts.append(Fact(wording.share(saved), "saved by who fine-tunes the smallest network alone"))
    return facts


def family_table(run: Run, spent: findings.Bill, scores: Sequence[findings.Score]) -> Grid:
    """The family: widths, size, accuracies with intervals, what the search and the fine-tuning cost."""
    result = run.result
    metric = result.get("metric", "accuracy")
    accuracy = metric == "accuracy"
    found, whole = findings.validated(run, scores), result["parent"]["macs"]
    scored = "validation, %" if accuracy else f"validation {metric}"
    sizes = ("network", "widths", "MACs", "of parent's", "parameters")
    header = (*sizes, scored, "test accuracy, %", "search so far, s", "fine-tuning, s")
    rows = []
    for m in members(result):
        tuning = spent.tuning.get(m["iteration"])
        rows.append(
            [
                str(m["iteration"]) if m["iteration"] else "parent",
                "-".join(map(str, m["widths"].values())),
                f"{m['macs']:,}",
                wording.share(m["macs"] / whole),
                f"{m['params']:,}",
                wording.within(m["score"], found.get(m["iteration"])) if accuracy else wording.digits(m["score"], 4),
                wording.within(m["test_accuracy"], findings.tested(run, m)),
                wording.digits(m["client_seconds"]),
                "" if tuning is None else wording.digits(tuning),
            ]
        )
    names = "-".join(result["parent"]["widths"])
    says = f"Widths: {names}. Validation is the score as it was found, by which networks are chosen; test accuracy is "
    says += "after fine-tuning. In parentheses 95 % intervals."
    return Grid("The family", header, rows, 2, says)


def cost_table(run: Run, spent: findings.Bill) -> Grid:
    """What each stage cost a client, and its share of the whole."""
    header = ("stage", "seconds, mean", "of the whole", "p95", "MB up", "MB down", "joules (assumed power)")
    rows = []
    for stage, by in run.result["client_cost"].items():
        seconds = by["seconds"]["mean"]
        rows.append(
            [
                wording.STAGES[stage],
                wording.digits(seconds),
                wording.share(seconds / spent.whole if spent.whole else 0),
                wording.digits(by["seconds"]["p95"]),
                wording.digits(by["bytes_up"]["mean"] / 1e6),
                wording.digits(by["bytes_down"]["mean"] / 1e6),
                wording.digits(by["joules"]["mean"]),
            ]
        )
    says = "" if spent.saved is None else figures.saving(spent.saved, spent.whole)
    return Grid("What it cost a client", header, rows, 1, says)


def _mixes(result: dict[str, Any]) -> str:
    """How much the clients differ, where the run was recorded with it."""
    if "heterogeneity" not in result:
        return ""
    found = result["heterogeneity"]
    return f" (label distance {found['label_distance']:.2f}, Gini coefficient of sizes {found['size_gini']:.2f})"
