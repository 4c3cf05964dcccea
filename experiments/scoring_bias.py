"""How far off is a score, by who scores: the clients that just trained the candidate, or few others?

Claim: the clients that trained a candidate score it too high, by an amount that differs from candidate to candidate,
since each has others; a common panel errs by chance alone, less in differences than in scores. Up to eight candidates
of random widths are trained for one round from the same parent, twice, by larger and smaller reductions; everything
but who scores is the same, so they are the same networks. Truth is their score by all clients.

Command:  python experiments/scoring_bias.py          (digits)
          python experiments/scoring_bias.py --preset fashion_mnist --examples 7500
          (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 4 a seed for Fashion-MNIST
Expected: docs/results.md, "Who scores". Fashion-MNIST, seed 0: own cohort 0.6 and 2.6 points too high, then off by 8;
          5 clients off by 2.5
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import claims
import numpy as np

import fednas_jax as fn

REDUCTIONS = (0.1, 0.3)
ONE_ROUND: dict[str, Any] = {
    "search.proposals": "random",
    "search.random_candidates": 8,
    "search.rungs": ((1, 1),),
    "search.max_iterations": 1,
    "search.score_most": 0,
    "finetune.rounds": 0,
    "finetune.shares": (),
    "finetune.members": (0,),
}


def scores(run: fn.Run) -> np.ndarray:
    """The candidates' scores after the round [K]."""
    (told,) = (event["scores"] for event in run.events() if event["event"] == "round" and event["stage"] == "search")
    return np.asarray([told[name] for name in sorted(told)])


def errors(some: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> dict[str, str]:
    """What scores [runs][K] are off by, in points: on average, among candidates, and in the worth of who wins."""
    off = [a - b for a, b in zip(some, true, strict=True)]
    lost = [b.max() - b[a.argmax()] for a, b in zip(some, true, strict=True)]
    return {
        "too high by": claims.interval([o.mean() for o in off], 2, 100),
        "then off by (deviation)": claims.interval([o.std(ddof=1) for o in off], 2, 100),
        "the winner lacks": claims.interval(lost, 2, 100),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "scoring_bias")
    clients = claim.base.data.clients
    panels = {"own cohort": 0} | {f"{n} clients": n for n in ((3,) if claim.tiny else (5, 10, 20))}
    panels |= {"all clients": clients}
    found = claims.measured(
        claim,
        {
            f"{name}, {reduction}": {**ONE_ROUND, "search.score_clients": number, "search.reduction": reduction}
            for (name, number), reduction in itertools.product(panels.items(), REDUCTIONS)
        },
    )
    by_name = {
        name: [scores(run) for reduction in REDUCTIONS for run in claim.runs(found[f"{name}, {reduction}"])]
        for name in panels
    }
    rows = [[name, *errors(some, by_name["all clients"]).values()] for name, some in by_name.items()]
    header = ["who scores", *errors(*[by_name["all clients"]] * 2)]
    claims.tell(claim, claims.markdown(header, rows))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
