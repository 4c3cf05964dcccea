"""Do later iterations need more rounds than the first?

Claim [FedNAS, section 3]: few rounds do at first, and a smaller network needs more, so rounds that grow with the
iteration cost less than as many as the last needs, for all. Dynamic rounds with several kinds of growth against a fixed
number of rounds.

Command:  python experiments/ablate_dynamic_rounds.py   (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 2
Expected: docs/results.md, "How many rounds". Digits, seeds 0 to 2: without growth 6.7 s of a client and 97.6 %, fixed
          20.0 s and 97.7 %; growth gains nothing there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

GROWTH = (0.0, 0.2, 0.5, 1.0)


def settings(tiny: bool) -> dict[str, dict[str, Any]]:
    """Name of a setting -> its fields."""
    grown = {f"growth {growth:g}": {"search.growth": growth} for growth in (GROWTH[:1] if tiny else GROWTH)}
    return {"fixed": {"search.dynamic_rounds": False}} | grown


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "ablate_dynamic_rounds")
    claims.tell(claim, claims.compared(claims.measured(claim, settings(claim.tiny)), "fixed", "rounds"))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
