"""Is a family found on phones as accurate as a centralised one, and how much cheaper than the straightforward design?

Claim [FedNAS, arXiv 2002.06352]: `fednas` costs a client up to two orders of magnitude less than `naive`, at the
accuracy of `netadapt`, which has all data in one place. All start from the seed's federated parent, so that searches
are compared. `naive` is given the rounds that its candidates need to settle (`settle_rounds.py`); `netadapt` two passes
over all data for each candidate, at a rate at which it does not diverge, and as many passes of fine-tuning as the
others. Its seconds are those of one phone that had all data: they are no client's.

Command:  python experiments/headline.py          (digits)
          python experiments/headline.py --preset fashion_mnist --examples 7500
          (--tiny: made-up images, one iteration, in seconds)
Hardware: 2 cores
Minutes:  3 for digits, 40 for Fashion-MNIST
Expected: docs/results.md. Digits, seeds 0 to 2: fednas 97.3 %, naive 97.5 %, 28.2 times cheaper; netadapt 98.6 %.
          Fashion-MNIST with 7,500 images, seeds 0 to 2: fednas 86.4 %, naive 86.8 %, 108.7 times cheaper; netadapt
          87.0 %
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims

import fednas_jax as fn


def settings(claim: claims.Claim) -> dict[str, dict[str, Any]]:
    """Name of a method -> its fields."""
    return {"naive": {"method": "naive"}, "fednas": {"method": "fednas"}, "netadapt": claims.centralised(claim)}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "headline")
    found = claims.measured(claim, settings(claim))
    claims.tell(claim, claims.compared(found, "naive", "method"))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
