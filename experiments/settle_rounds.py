"""How many rounds does the straightforward design need? The `naive` baseline must be honest, so this is measured.

Claim: on digits, candidates of the `naive` method (every candidate on all clients) settle within 10 rounds: with twice
as many, the validation accuracy of the networks that the search passes on rises by less than half a point.

Command:  python experiments/settle_rounds.py --out runs/settle     (--tiny: one seed, two settings, for a quick look)
Hardware: 2 cores, no accelerator; about 15 minutes.
Expected: rounds  mean over the family  smallest network      (measured 2026-11-22, means of 3 seeds)
               2                0.9670            0.9274
               5                0.9786            0.9702
              10                0.9831            0.9810
              20                0.9847            0.9810
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

import fednas_jax as fn


def scores(rounds: int, seed: int, out: Path) -> list[float]:
    """Validation accuracy of each iteration's winner before any fine-tuning; all clients score it."""
    start = fn.preset("digits")
    config = dataclasses.replace(
        start,
        method="naive",
        seed=seed,
        search=dataclasses.replace(start.search, settle_rounds=rounds, score_clients=0),
        finetune=dataclasses.replace(start.finetune, rounds=0, members=(0,)),
    )
    result = fn.run_search(config, out / f"rounds-{rounds}-seed-{seed}")
    return [model["score"] for model in result["models"]]


def main() -> None:
    """Prints a row for each number of rounds: mean and last validation accuracy, over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/settle"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    fn.use_all_cores()
    settings, seeds = ((1, 2), (0,)) if args.tiny else ((2, 5, 10, 20), (0, 1, 2))
    print("rounds  mean over the family  smallest network")
    for rounds in settings:
        found = [scores(rounds, seed, args.out) for seed in seeds]
        mean, last = np.mean([np.mean(f) for f in found]), np.mean([f[-1] for f in found])
        print(f"{rounds:6d}  {mean:20.4f}  {last:16.4f}", flush=True)


if __name__ == "__main__":
    main()
