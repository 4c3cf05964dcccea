"""Figures of a run's clients: what each spent, and what each holds. Letters: S clients drawn, K labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from fednas_jax.report import findings, theme, wording
from fednas_jax.report.theme import Shown, Sketch, evenly
from fednas_jax.run.finished import Run


def clients(run: Run) -> Shown:
    """How the cost is distributed over clients: the share of clients that spent at most so much."""
    found = {stage: np.sort(seconds) for stage, seconds in findings.by_client(run).items()}
    count = run.result["clients"]

    def draw(_: Any, axes: Any) -> None:
        for number, (stage, seconds) in enumerate(found.items()):
            if not seconds[-1]:
                continue
            ranks = evenly(count, 1000)  # a step for each of so many clients is more than a figure shows
            x, y = seconds[ranks], 100 * (np.asarray(ranks) + 1) / count
            axes.step(
                np.r_[x[0], x], np.r_[0, y], where="post", color=theme.colour(number), label=wording.STAGES[stage],
                linestyle=("-", "--", ":")[number],
            )  # fmt: skip
        if all(seconds[0] > 0 or not seconds[-1] for seconds in found.values()):
            theme.logarithmic(axes)
        axes.set(xlabel="seconds of a client", ylabel="clients at or below (%)", ylim=(0, 103))
        if axes.get_lines():
            axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=1, handlelength=1.6)

    by = run.result["client_cost"]["search"]["seconds"]
    says = (
        f"Of {count:,} clients half spend at most {wording.digits(by['p50'])} s in the search, 95 % at most "
        f"{wording.digits(by['p95'])} s, the busiest {wording.digits(by['max'])} s."
    )
    return Shown("clients", "How cost is spread over clients", says, Sketch(draw))


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
