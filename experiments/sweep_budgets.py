"""The front: how accurate is the network that a budget allows, and does one search give as good a one as its own?

Claim [FedNAS, section 5]: a search passes networks of all sizes on its way, so one search serves all classes of phones.
A search for each budget, with its last network fine-tuned, against that of one search to the smallest, with its
largest network within each budget fine-tuned.

Command:  python experiments/sweep_budgets.py      (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 2
Expected: docs/results.md, "One search for all classes of phones". Digits, seeds 0 to 2: the same accuracies, 97.6, 97.3
          and 96.0 %, since a search for a larger budget is the beginning of one for a smaller
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

BUDGETS = (0.75, 0.5, 0.25)  # shares of the parent's MACs that the sweep's table has accuracies at


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "sweep_budgets")
    budgets = BUDGETS[1:] if claim.tiny else BUDGETS
    each: dict[str, dict[str, Any]] = {f"{b:.0%}": {"search.budget": b, "finetune.shares": (b,)} for b in budgets}
    one: dict[str, Any] = {"search.budget": budgets[-1], "finetune.shares": budgets}
    found = claims.measured(claim, {"one": one} | each)
    rows = []
    for budget in budgets:
        column = f"accuracy_{budget * 100:g}"
        own, whole = found[f"{budget:.0%}"], found["one"]
        rows.append(
            [
                f"{budget:.0%}",
                claims.interval(whole[column], 1, 100),
                claims.interval(own[column], 1, 100),
                claims.interval(own[column].to_numpy() - whole[column].to_numpy(), 1, 100),
                claims.interval(own.search_seconds),
            ]
        )
    header = ["MACs", "one search", "its own search", "points", "s of a client, its own"]
    seconds = claims.interval(found["one"].search_seconds)
    claims.tell(claim, claims.markdown(header, rows) + f"\n\nThe one search: {seconds} s of a client.")


if __name__ == "__main__":
    fn.use_all_cores()
    main()
