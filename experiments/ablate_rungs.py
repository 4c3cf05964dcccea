"""When should candidates be dropped?

Claim [FedNAS, section 3]: inferior candidates can be told early, long before any has settled. Five ladders of rungs
with five rounds in all, from one that never drops to one that keeps a single candidate after the first round.

Command:  python experiments/ablate_rungs.py         (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 2
Expected: docs/results.md, "When to drop". Digits, seeds 0 to 2: one candidate after the first round 1.4 times cheaper
          than none dropped (12.3 against 16.9 s), no loss seen; an iteration has two candidates, so a rung that keeps
          two drops none
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

LADDERS: dict[str, tuple[tuple[int, float], ...]] = {
    "none": ((5, 1),),
    "one after 1": ((1, 1), (4, 1)),
    "one after 2": ((2, 1), (3, 1)),
    "two after 1": ((1, 2), (4, 1)),
    "two after 1, one after 3": ((1, 2), (2, 1), (2, 1)),
}


def settings(tiny: bool) -> dict[str, dict[str, Any]]:
    """Name of a setting -> its fields."""
    chosen = list(LADDERS.items())[: 2 if tiny else None]
    return {name: {"search.rungs": ladder, "search.growth": 0.0} for name, ladder in chosen}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "ablate_rungs")
    claims.tell(claim, claims.compared(claims.measured(claim, settings(claim.tiny)), "none", "dropped to"))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
