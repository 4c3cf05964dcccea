"""What does each of the three ideas save the phones, alone and together, and where is less saved than theory says?

Claim [FedNAS]: partial clients (P), early dropping (D) and dynamic rounds (R) together cost a client up to two orders
of magnitude less than the straightforward design, at its accuracy. The eight settings of the three switches, from the
same parents. Theory counts training tasks of an average client: in every round, candidates still alive x clients that
train each / all clients. What it leaves out is scoring, which a client does for a candidate that it never trained, and
the downloads for it.

Command:  python experiments/ablate_optimisations.py      (digits)
          python experiments/ablate_optimisations.py --preset fashion_mnist --examples 7500
          (--tiny: made-up images, one iteration, in seconds)
Hardware: 2 cores
Minutes:  20 for digits; 35 for fashion_mnist with 7,500 images, a night with all
Expected: docs/results.md, "Where the factor comes from". Digits, seeds 0 to 2: all three 28.1 times cheaper than none
          (8.6 against 241.0 s), 34.8 times in training alone. Fashion-MNIST with 7,500 images: 108.7 times (12.5
          against 1,323.2 s), 161.3 times in training alone, 0.4 points less.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import claims

import fednas_jax as fn

SWITCHES = {"P": "search.partial_clients", "D": "search.early_dropping", "R": "search.dynamic_rounds"}
PHASES = ("train", "evaluate", "download", "upload")

ALL = list(itertools.product((False, True), repeat=len(SWITCHES)))  # the straightforward design first


def name_of(switches: tuple[bool, ...]) -> str:
    """'P-R' for partial clients and dynamic rounds; '---' for the straightforward design."""
    return "".join(letter if on else "-" for letter, on in zip(SWITCHES, switches, strict=True))


def tasks_of_a_client(run: fn.Run) -> float:
    """Theory: training tasks that the search asks of an average client, from who was alive in each round."""
    search, clients = run.config.search, run.result["clients"]
    trained = clients / search.groups
    if search.clients_per_group:
        trained = min(trained, search.clients_per_group)
    share = trained / clients if search.partial else 1.0
    alive, tasks = 0, 0.0
    for event in run.events():
        if event["event"] == "iteration":
            alive = len(event["candidates"])
        elif event["event"] == "round" and event["stage"] == "search":
            tasks += alive * share
            alive = event["alive"]
    return tasks


def phases(run: fn.Run) -> dict[str, float]:
    """Seconds that the search takes of an average client, by phase."""
    rows = fn.read_ledger(run.path).to_pandas()
    each = rows[rows.stage == "search"].groupby("phase", observed=False).seconds.sum() / run.result["clients"]
    return {phase: float(each[phase]) for phase in PHASES}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "ablate_optimisations")
    chosen = [ALL[0], ALL[-1]] if claim.tiny else ALL
    found = claims.measured(claim, {name_of(on): dict(zip(SWITCHES.values(), on, strict=True)) for on in chosen})
    runs = {name: claim.runs(table) for name, table in found.items()}
    spent = {name: [phases(run) for run in some] for name, some in runs.items()}
    tasks = {name: [tasks_of_a_client(run) for run in some] for name, some in runs.items()}
    base = name_of(ALL[0])
    more = {f"{p} s": {name: claims.interval(one[p] for one in some) for name, some in spent.items()} for p in PHASES}
    more["training alone"] = {
        name: claims.times([one["train"] for one in spent[base]], [one["train"] for one in some])
        for name, some in spent.items()
    }
    more["in theory"] = {name: claims.times(tasks[base], some) for name, some in tasks.items()}
    claims.tell(claim, claims.compared(found, base, "switches", more))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
