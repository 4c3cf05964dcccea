"""Is the search better than a width multiplier or random widths, at equal MACs and at equal client cost?

Claim [FedNAS, section 5]: widths that are searched group by group beat widths that are not. At equal MACs: networks at
half of the parent's, which all methods end at, from the same parents, fine-tuned alike. At equal client cost: `random`
and the multiplier are given the three switches of `fednas` too, under which no candidate costs more than one of its.

Command:  python experiments/search_methods.py     (--tiny: made-up images, one iteration)
          python experiments/search_methods.py --preset fashion_mnist --examples 7500
Hardware: 2 cores
Minutes:  about 5 for digits, 20 for Fashion-MNIST with 7,500 images
Expected: docs/results.md, "Are searched widths better than others?". Digits, seeds 0 to 2: no. fednas 97.3 %, random
          96.9 and 97.1 %, the multiplier 97.7 and 97.5 %, within chance of each other; the last is 3.1 times cheaper.
          Fashion-MNIST: 86.4, 86.1, 86.2, 86.5 and 86.2 %; the last is 5 times cheaper
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn

CHEAP = {"search.partial_clients": True, "search.early_dropping": True, "search.dynamic_rounds": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "fednas": {"method": "fednas"},
    "random, 3 candidates": {"method": "random", "search.random_candidates": 3},
    "random, 8 candidates": {"method": "random", "search.random_candidates": 8},
    "multiplier, all clients": {"method": "uniform"},
    "multiplier, as cheap": {"method": "uniform", **CHEAP},
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "search_methods")
    claims.tell(claim, claims.compared(claims.measured(claim, SETTINGS), "fednas", "method"))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
