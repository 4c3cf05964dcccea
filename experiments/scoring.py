"""What does it cost to know which candidate is best, and how few phones can say it?

Claim: with partial clients and early dropping most of what a client still spends is scoring, and it can be made cheaper
by asking fewer phones, and nobody where nothing is decided, at no loss in accuracy. Five settings of one search: each
candidate's own cohort scores (`own`), a common sample of 20 phones (`20`), the same without the score of a candidate
that is alone (`20, not alone`), a panel that grows from 5 to 20 until the decision is clear (`5 to 20, not alone`), 5
phones (`5, not alone`).

Command:  python experiments/scoring.py --preset fashion_mnist --examples 7500
          (--tiny: made-up images, one iteration, in seconds)
Hardware: 2 cores
Minutes:  about 20 with 7,500 images
Expected: docs/results.md, "Who scores". Seeds 0 to 2: own cohort 9.9 s of a client, 20 phones 19.0, not alone 15.3,
          5 to 20 12.5, 5 phones 9.5; 86.3 and 86.4 %
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import claims
import matplotlib
import numpy as np

import fednas_jax as fn

matplotlib.use("svg")
from matplotlib import pyplot as plt

PHASES = ("train", "evaluate", "download", "upload")
PARTS = {  # of a bar: name -> colour of Okabe and Ito's palette
    "train": "#0072b2",
    "download to train": "#56b4e9",
    "upload": "#009e73",
    "download to score": "#d55e00",
    "evaluate": "#e69f00",
}


def settings(tiny: bool = False) -> dict[str, dict[str, Any]]:
    """Name of a setting -> its fields."""
    few, many = (2, 4) if tiny else (5, 20)

    def fields(clients: int, most: int = 0, alone: bool = False) -> dict[str, Any]:
        return {"search.score_clients": clients, "search.score_most": most, "search.score_alone": alone}

    return {
        "own cohort": fields(0, alone=True),
        f"{many}": fields(many, alone=True),
        f"{many}, not alone": fields(many),
        f"{few} to {many}, not alone": fields(few, many),
        f"{few}, not alone": fields(few),
    }


def spent(run: fn.Run) -> dict[str, float]:
    """Seconds that the search takes of an average client, by phase; of its downloads those to score; phones a score."""
    rows = fn.read_ledger(run.path).to_pandas()
    rows = rows[rows.stage == "search"]
    clients = run.result["clients"]
    found = {f"{phase} s": rows[rows.phase == phase].seconds.sum() / clients for phase in PHASES}
    scoring = rows[(rows.phase == "download") & (rows.work == "scoring")]
    panels = scoring.groupby(["iteration", "round", "candidate"]).client.nunique()
    return found | {"of them downloads to score": scoring.seconds.sum() / clients, "phones a score": panels.mean()}


def draw(claim: claims.Claim, each: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """A bar for each setting, of an average client's seconds in the search, as OUT/scoring.svg."""
    with plt.rc_context({"svg.fonttype": "path", "svg.hashsalt": "fednas", "font.size": 8}):
        figure, axes = plt.subplots(figsize=(7.0, 2.2), layout="constrained")
        left = np.zeros(len(each))
        for part, colour in PARTS.items():
            width = np.asarray([np.mean([part_of(one, part) for one in runs]) for runs in each.values()])
            axes.barh(list(each), width, left=left, color=colour, label=part, height=0.7)
            left += width
        axes.invert_yaxis()
        axes.set_xlabel("seconds of an average client in the search")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=len(PARTS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.savefig(claim.out / "scoring.svg", metadata={"Date": None})
        plt.close(figure)


def part_of(one: Mapping[str, float], part: str) -> float:
    """Seconds of a bar's part, from what `spent` says."""
    to_score = one["of them downloads to score"]
    split = {"download to score": to_score, "download to train": one["download s"] - to_score}
    return split[part] if part in split else one[f"{part} s"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "scoring", ("fashion_mnist", "digits"))
    found = claims.measured(claim, settings(claim.tiny))
    each = {name: [spent(run) for run in claim.runs(table)] for name, table in found.items()}
    more = {
        column: {name: claims.interval(one[column] for one in runs) for name, runs in each.items()}
        for column in next(iter(each.values()))[0]
    }
    draw(claim, each)
    claims.tell(claim, claims.compared(found, list(found)[1], "who scores", more))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
