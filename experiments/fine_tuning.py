"""Is a searched network less accurate than a centralised one because of the search, or because of its fine-tuning?

Claim: it is the fine-tuning, and there the learning rate: at a constant rate the last round's noise decides, on phones
and in one place. One network, which `fednas` found from each seed's parent, at half of its MACs, fine-tuned in several
ways, as long in all but two: on phones or on all data in one place, at a constant rate or one that falls as half a
cosine. Validation, by all clients, is what a setting may be chosen by; the test split is for telling afterwards.

Command:  python experiments/fine_tuning.py --preset fashion_mnist --examples 7500
          (--tiny: made-up images, in seconds)
Hardware: 2 cores
Minutes:  about 12 with 7,500 images, with their searches 25
Expected: docs/results.md, "Fine-tuning". Fashion-MNIST with 7,500 images, seeds 0 to 2: on phones 85.1 % at a constant
          rate and 86.2 % at one that falls, four times as long 87.2 %; in one place 84.0 and 87.4 %
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import claims
import jax
import numpy as np

import fednas_jax as fn

BATCH = 500  # images that are tested at a time


def settings(claim: claims.Claim) -> dict[str, dict[str, Any]]:
    """Name of a way to fine-tune -> its fields. A network is fine-tuned as a parent is pretrained on."""
    stage = claim.base.finetune
    phones = {"pretrain.rounds": stage.rounds, "pretrain.clients_per_round": stage.clients_per_round}
    passes = claims.centralised(claim)["finetune.rounds"]
    place = {"pretrain.rounds": passes, "search.centralised": True, "train.learning_rate": 0.02}
    constant, cosine = ({"train.schedule": name} for name in ("constant", "cosine"))
    return {
        "not at all": {**phones, "pretrain.rounds": 0},
        "on phones, constant": {**phones, **constant},
        "on phones, cosine": {**phones, **cosine},
        "on phones, cosine, twice as long": {**phones, **cosine, "pretrain.rounds": 2 * stage.rounds},
        "on phones, cosine, four times as long": {**phones, **cosine, "pretrain.rounds": 4 * stage.rounds},
        "in one place, constant": {**place, **constant},
        "in one place, cosine": {**place, **cosine},
    }


def tuned(claim: claims.Claim, found: Sequence[fn.Run], fields: dict[str, dict[str, Any]]) -> list[list[fn.Run]]:
    """Fine-tunes what each search found, in each way: [ways][searches]."""
    base = fn.override(claims.pretraining(claim.base), {"search.budget": 0.99})  # one that every network can have
    trials = []
    for run in found:
        half = next(m for m in run.result["models"] if m["macs"] <= run.result["parent"]["macs"] / 2)
        start = {
            "parent": str((run.path / half["path"]).resolve()),
            "net.widths": tuple(half["widths"].values()),
            "seed": run.config.seed,
        }
        trials += [{**start, **way} for way in fields.values()]
    out = claim.out / f"{claim.name}-tuned"
    table = claims.swept(trials, out, base)
    runs = [fn.load_run(out / "trials" / trial, pretrained=True) for trial in table.trial]
    return [runs[n :: len(fields)] for n in range(len(fields))]


def tested(run: fn.Run) -> float:
    """Accuracy of a fine-tuned network on the test split."""
    test = fn.load_data(run.config.data, run.config.seed).test
    model = jax.jit(fn.load_model(run.path, 0, ""))
    told = [np.argmax(model(test.inputs[n : n + BATCH]), -1) for n in range(0, len(test.labels), BATCH)]
    return float(np.mean(np.concatenate(told) == test.labels))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and prints the table."""
    claim = claims.arguments(__doc__, argv, "fine_tuning", ("fashion_mnist", "digits"))
    found = claims.measured(claim, {"fednas": {"method": "fednas"}})["fednas"]
    ways = settings(claim)
    rows = []
    for name, runs in zip(ways, tuned(claim, claim.runs(found), ways), strict=True):
        scores = [run.result["parent"]["score"] for run in runs]
        rows.append([name, claims.interval(scores, 1, 100), claims.interval(map(tested, runs), 1, 100)])
    claims.tell(claim, claims.markdown(["fine-tuned", "validation", "test"], rows))


if __name__ == "__main__":
    fn.use_all_cores()
    main()
