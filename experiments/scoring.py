"""What does it cost to know which candidate is best, and how few phones can say it?

Claim: with partial clients and early dropping most of what a client still spends is scoring, and it can be made cheaper
by asking fewer phones, and nobody where nothing is decided, at no loss in accuracy. Five settings of one search: each
candidate's own cohort scores (`own`), a common sample of 20 phones (`20`), the same without the score of a candidate
that is alone (`20, not alone`), a panel that grows from 5 to 20 until the decision is clear (`5 to 20, not alone`), 5
phones (`5, not alone`).

Command:  python experiments/scoring.py --preset fashion_mnist --examples 7500 --out runs/scoring
          (--tiny: made-up images, one iteration, in seconds)
Hardware: 2 cores
Minutes:  about 25 with 7,500 images
Expected: docs/results.md, "Who scores"
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

PHASES = ("train", "evaluate", "download", "upload")


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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "scoring", ("fashion_mnist", "digits"))
    found = claims.measured(claim, settings(claim.tiny))
    each = {name: [spent(run) for run in claim.runs(table)] for name, table in found.items()}
    more = {
        column: {name: claims.interval(one[column] for one in runs) for name, runs in each.items()}
        for column in next(iter(each.values()))[0]
    }
    claims.tell(claim, claims.compared(found, list(found)[1], "who scores", more))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
