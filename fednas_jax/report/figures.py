"""All figures of one run, each with the sentence that says what is seen: its family and its bill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fednas_jax.phones import ledger
from fednas_jax.report import charts, client_figures, findings, search_figures, theme, wording
from fednas_jax.report.draw import label
from fednas_jax.report.theme import Shown, Sketch
from fednas_jax.run.finished import Run, members


def of_run(run: Run, spent: findings.Bill, scores: Sequence[findings.Score]) -> list[Shown]:
    """All figures of a run that it has the data for; raises as `Run.events` and `Run.ledger`.

    Args:
      run: finished.
      spent: its bill (`findings.bill`).
      scores: of its search (`findings.scores`).
    """
    found = [front(run), *(limited_front(run, *each) for each in _limited(run)), bill(spent)]
    if scores:
        found.append(search_figures.candidates(run, scores))
    if run.result["models"]:
        found += [search_figures.cuts(run), search_figures.widths(run), search_figures.phases(run)]
    found.append(client_figures.clients(run))
    # A run of an older version has no clock.
    if "simulated_hours" in run.result and all("simulated_hours" in member for member in members(run.result)):
        found.append(hours(run, scores))
    mix = findings.label_mix(run)
    if mix and mix["counts"] and len(set(map(len, mix["counts"]))) == 1 and all(map(sum, mix["counts"])):
        found.append(client_figures.partition(run, mix))
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
        axes.set(xlabel="multiply-accumulates of one example (millions)", ylabel="test accuracy (%)")
        axes.set_xlim(0, None)

    says = "No network of this run was tested."
    if found:
        first, last = found[0], found[-1]
        sizes = [wording.amount(m["macs"]) for m in (first, last)]
        reached = [wording.percent(m["test_accuracy"]) for m in (first, last)]
        says = f"From {sizes[0]} MACs to {sizes[1]}, test accuracy goes from {reached[0]} to {reached[1]}."
        if first is last:
            says = f"At {sizes[0]} MACs test accuracy is {reached[0]}."
        if findings.tested(run, last):
            says += f" Bars are 95 % intervals by {run.result['data']['test_examples']:,} test examples."
    return Shown("front", "Accuracy against size", says, Sketch(draw), chart=charts.front(run))


def limited_front(run: Run, number: int, name: str, unit: str) -> Shown:
    """Test accuracy against another resource that the search limited, such as a latency.

    Args:
      run: finished.
      number: of the resource, for the file's name.
      name: of the resource.
      unit: its own.
    """
    found = [m for m in members(run.result) if m["test_accuracy"] is not None and name in m.get("resources", {})]
    x = [m["resources"][name] for m in found]
    y = np.asarray([100 * m["test_accuracy"] for m in found])
    ends = [findings.tested(run, m) or (m["test_accuracy"],) * 2 for m in found]

    def draw(_: Any, axes: Any) -> None:
        bars = np.abs(100 * np.asarray(ends).reshape(-1, 2).T - y)
        axes.errorbar(x, y, bars, fmt="o-", color=theme.colour(0), elinewidth=0.8)
        axes.set(xlabel=f"{label(name, 40)} ({label(unit, 20)})", ylabel="test accuracy (%)")
        axes.set_xlim(0, None)

    says = f"The same networks by {label(name)}, in {label(unit)}, which the search limited too."
    return Shown(f"front-{number}", f"Accuracy against {label(name, 60)}", says, Sketch(draw))


def _limited(run: Run) -> list[tuple[int, str, str]]:
    """Number, name and unit of each resource that was limited, but for MACs."""
    found = {
        budget["resource"]: budget["unit"] for budget in run.result.get("budgets", []) if budget["resource"] != "macs"
    }
    return [(number, name, unit) for number, (name, unit) in enumerate(found.items(), 2)][:4]


def bill(spent: findings.Bill) -> Shown:
    """The whole bill of an average client, and the bill where one member alone is fine-tuned."""
    lines = [("whole family", spent.stages)]
    if spent.saved is not None:
        assert spent.one is not None
        lines.append(("one network", spent.stages | {"finetune": spent.tuning[spent.one]}))

    def draw(_: Any, axes: Any) -> None:
        names = {stage: wording.STAGES[stage] for stage in ledger.STAGES}
        theme.stack_seconds(axes, [stages for _, stages in lines], names)
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
    if spent.saved is not None:
        says += f" {saving(spent.saved, spent.whole)}"
    return Shown("bill", "The whole bill", says, Sketch(draw, height=1.5))


def saving(saved: float, whole: float) -> str:
    """What is saved by who fine-tunes the smallest network alone, of a bill's whole."""
    return (
        f"Who fine-tunes the smallest network alone saves {wording.digits(saved)} s, "
        f"{wording.share(saved / whole if whole else 0)} of the whole."
    )


def hours(run: Run, scores: Sequence[findings.Score]) -> Shown:
    """Accuracy of the networks found so far against the simulated clock, pretraining included."""
    began = run.result["simulated_hours"]["pretrain"]
    found = members(run.result)
    validated, metric = findings.validated(run, scores), run.result.get("metric", "accuracy")
    last = began + found[-1]["simulated_hours"]
    units = (("hours", 1.0), ("minutes", 60.0), ("seconds", 3600.0))
    unit, size = next((each for each in units if each[1] * last >= 2), units[-1])
    series = [("test, after fine-tuning", "o-", 0, [(m["test_accuracy"], findings.tested(run, m)) for m in found])]
    if metric == "accuracy":  # another metric has no place on an axis of accuracies
        validation = [(m["score"], validated.get(m["iteration"])) for m in found]
        series.insert(0, ("validation, as found", "s--", 1, validation))

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
        if axes.get_legend_handles_labels()[0]:
            axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1)

    says = (
        f"The parent is ready after {wording.digits(size * began)} simulated {unit}, the smallest network is found "
        f"{wording.digits(size * (last - began))} {unit} later. Bars are 95 % intervals by the examples of each score."
    )
    if metric != "accuracy":
        says += f" Validation is by {label(metric)}, which is no accuracy."
    return Shown("hours", "Accuracy against simulated time", says, Sketch(draw))
