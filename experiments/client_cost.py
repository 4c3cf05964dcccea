"""How much of what is saved depends on the phones and their links?

Claim: that `fednas` is cheaper than the straightforward design is no matter of the paper's phones. One run of each from
the same parent, priced for every population there is, without training again; nothing but prices changes.

Command:  python experiments/client_cost.py           (digits)
          (--tiny: made-up images, one iteration, in seconds)
Hardware: 2 cores
Minutes:  about 2; for fashion_mnist with 7,500 images as long as two methods of headline.py
Expected: docs/results.md, "Other phones". Digits, seeds 0 to 2: 22 to 28 times cheaper for the average client of any
          population, 15 to 30 times for the client at the 95th percentile; Fashion-MNIST with 7,500 images, 98 to
          124 times, 48 to 95 times
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import claims

import fednas_jax as fn

POPULATIONS = ("paper", "uniform", "phones", "lognormal", "flash", "flash_kilobytes")


def seconds(run: fn.Run, population: str) -> tuple[float, float]:
    """Seconds that the search takes of an average client, and of the client at the 95th percentile."""
    priced = fn.reprice_run(run.path, dataclasses.replace(run.config.cost, population=population))
    spent = priced["client_cost"]["search"]["seconds"]
    return spent["mean"], spent["p95"]


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "client_cost")
    found = claims.measured(claim, {"naive": {"method": "naive"}, "fednas": {"method": "fednas"}})
    runs = [claim.runs(found[name]) for name in ("naive", "fednas")]
    rows = []
    for population in POPULATIONS:
        naive, fednas = ([seconds(run, population) for run in some] for some in runs)
        cells = [
            *(claims.interval(mean for mean, _ in of) for of in (naive, fednas)),
            *(claims.times(a, b) for a, b in zip(zip(*naive, strict=True), zip(*fednas, strict=True), strict=True)),
        ]
        rows.append([f"`{population}`", *cells])
    header = ["population", "naive s", "fednas s", "times cheaper", "for the client at 95 %"]
    claims.tell(claim, claims.markdown(header, rows))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
