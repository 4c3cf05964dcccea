"""Figures of one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt

from fednas_jax.phones import ledger
from fednas_jax.report import draw
from fednas_jax.run.finished import Run, members


def front(runs: Sequence[Run]) -> str:
    """Test accuracy against MACs of each run's family, as SVG."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for run in runs:
        tested = [m for m in members(run.result) if m["test_accuracy"] is not None]
        macs, accuracy = [m["macs"] / 1e6 for m in tested], [100 * m["test_accuracy"] for m in tested]
        axes.plot(macs, accuracy, "o-", label=_label(run))
        if tested and not tested[0]["iteration"]:
            axes.annotate("parent", (macs[0], accuracy[0]), xytext=(0, 8), textcoords="offset points", ha="right")
    axes.set(xlabel="multiply-accumulates of one example (millions)", ylabel="test accuracy (%)")
    axes.set_xlim(0, None)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (high - low))
    axes.legend()
    return draw.svg(figure)


def hours(run: Run) -> str:
    """Accuracy of the networks found so far against the simulated clock, pretraining included."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    began = run.result["simulated_hours"]["pretrain"]
    found = members(run.result)
    hours = [began + m["simulated_hours"] for m in found]
    axes.plot(hours, [100 * m["score"] for m in found], "o-", label="validation, as found")
    tested = [
        (h, 100 * m["test_accuracy"]) for h, m in zip(hours, found, strict=True) if m["test_accuracy"] is not None
    ]
    if tested:
        axes.plot(*zip(*tested, strict=True), "s--", label="test, after fine-tuning")
    axes.set(xlabel="simulated hours when it was found", ylabel="accuracy (%)")
    axes.legend()
    return draw.svg(figure)


def phases(runs: Sequence[Run]) -> str:
    """Client seconds of the search by phase, as SVG."""
    names = [_label(run) for run in runs]
    found = {p: np.asarray([run.phases[p] / run.result["clients"] for run in runs]) for p in ledger.PHASES}
    figure, axes = plt.subplots(figsize=(6.5, 1.2 + 0.5 * len(runs)))
    left = np.zeros(len(runs))
    for phase, seconds in found.items():
        axes.barh(names, seconds, left=left, label=phase)
        left += seconds
    axes.set(xlabel="seconds of an average client, whole search", xlim=(0, max(1e-9, 1.05 * left.max())))
    axes.legend(ncols=len(ledger.PHASES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return draw.svg(figure)


def _label(run: Run) -> str:
    return draw.label(f"{run.result['method']}, seed {run.result['seed']}")
