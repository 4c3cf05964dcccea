"""Into how many groups should clients be divided?

Claim [FedNAS, section 3]: candidates that train on parts of the clients cost these parts alone, and lose little, since
the parts change in every round. From 1 group, all clients train every candidate, to one for each few clients.

Command:  python experiments/ablate_groups.py       (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 2
Expected: docs/results.md, "How many groups". Digits, seeds 0 to 2: 50.2 s of a client with 1 group, 8.6 with 8 and 4.8
          with 20, at 97.1 to 97.3 %
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

GROUPS = (1, 2, 4, 8, 20)


def settings(tiny: bool) -> dict[str, dict[str, Any]]:
    """Name of a setting -> its fields."""
    return {f"{groups}": {"search.groups": groups} for groups in (GROUPS[:2] if tiny else GROUPS)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "ablate_groups")
    claims.tell(claim, claims.compared(claims.measured(claim, settings(claim.tiny)), "1", "groups"))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
