"""Which elimination policy would have chosen as well for less?

Claim: policies are pure, so one run that records all learning curves answers for hundreds of them, without training.
The straightforward design, scored after every round, is replayed under the default grid of rungs, halving, Hyperband,
the median rule and none. Shown is each kind's cheapest policy whose winners lack at most half a point, on average, of
the best candidate's score at the end of the recorded curves; means over the seeds.

Command:  python experiments/policies.py          (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 2
Expected: docs/results.md, "When to choose". Digits, seeds 0 to 2: one round and a choice, 10 times cheaper, lacks 0.16
          points on average
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims
import pandas as pd

import fednas_jax as fn

REGRET = 0.005


def best_of(replays: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Kind of policy -> the cheapest with at most REGRET, means over the seeds' replays; only who is known in all."""
    known = [pd.DataFrame(replay["policies"]).assign(seed=n) for n, replay in enumerate(replays)]
    every = pd.concat(known).dropna(subset=["regret"])
    numbers = ["client_seconds", "regret", "worst_regret", "agreement", "rounds", "cheaper"]
    means = every.groupby("name")[numbers].mean()[every.groupby("name").size() == len(replays)].reset_index()
    means = means[means.regret <= REGRET].assign(kind=means.name.str.extract(r"^(\w+)", expand=False))
    return means.sort_values("client_seconds").groupby("kind", sort=False).head(1)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "policies")
    found = claims.measured(claim, {"curves": {"method": "naive", "search.policy": "none(score_every=1)"}})
    replays = [fn.replay(run.path) for run in claim.runs(found["curves"])]
    rows = [
        [
            f"`{row.name}`",
            f"{row.client_seconds:,.1f}",
            f"{row.cheaper:.1f}",
            f"{row.rounds:.0f}",
            f"{row.regret:.4f}",
            f"{row.worst_regret:.4f}",
            f"{row.agreement:.0%}",
        ]
        for row in best_of(replays).itertuples(index=False)
    ]
    header = ["policy", "s of a client", "times cheaper", "rounds", "regret", "worst", "same winner"]
    claims.tell(claim, claims.markdown(header, rows))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
