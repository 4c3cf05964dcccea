"""What does each of the three ideas save the phones, alone and together, and where is less saved than theory says?

Claim [FedNAS]: partial clients, early dropping and dynamic rounds together cost a client up to two orders of magnitude
less than the straightforward design, at its accuracy. The eight settings of the three switches run on the same data,
network, parent and seeds; everything else is the preset's. Theory counts training tasks of an average client: in every
round, candidates still alive x clients that train each / all clients. What it leaves out is scoring, which a client
does for a candidate that it never trained, and the downloads for it.

Command:  python experiments/client_cost.py --out runs/cost              (digits)
          python experiments/client_cost.py --out runs/cost --preset fashion_mnist --examples 7500
          (the same) --only PDR --score-clients 5                        (what scoring on fewer phones saves)
          python experiments/client_cost.py --out runs/tiny --tiny       (one iteration, in minutes)
Hardware: 2 cores, no accelerator; about 20 minutes for digits, an hour for fashion_mnist with 7,500 examples, a night
          with all.
Expected: the README's tables, "What it saves". Digits, seeds 0 to 2: all three 28.1 times cheaper than none (8.6
          against 241.0 s), 34.8 times in training alone. Fashion-MNIST with 7,500 examples: 67.8 times (19.7 against
          1,332.8 s) and 162.4 times in training alone; 117 times (11.4 s) where 5 phones score.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fednas_jax as fn

SWITCHES = ("partial_clients", "early_dropping", "dynamic_rounds")
SHORT = {"partial_clients": "P", "early_dropping": "D", "dynamic_rounds": "R"}
POPULATIONS = ("paper", "flash")
PHASES = ("train", "evaluate", "download", "upload")
SECONDS = ("switches", "train s", "evaluate s", "download s", "upload s", "all s", "times cheaper", "training alone")
REST = ("in theory", "MB", "times fewer", "accuracy at 50 % MACs")  # the same under every population
SHARE = 0.5  # of the parent's MACs, at which accuracies are compared


def name_of(switches: tuple[bool, ...]) -> str:
    """'P-R' for partial clients and dynamic rounds; '---' for the straightforward design."""
    return "".join(SHORT[s] if on else "-" for s, on in zip(SWITCHES, switches, strict=True))


ALL = list(itertools.product((False, True), repeat=len(SWITCHES)))  # the straightforward design first


def prepared(args: argparse.Namespace) -> tuple[fn.Config, Any]:
    """The preset, and the part of its examples that --examples asks for: rounds teach less then, so there are more."""
    config = dataclasses.replace(fn.preset(args.preset), method="naive")
    search, pretrain = config.search, config.pretrain
    finetune = dataclasses.replace(config.finetune, shares=(SHARE,))
    dataset = None
    if args.examples:
        whole = fn.load_data(config.data, 0)
        total = len(whole.train.labels)
        least = config.data.clients * config.data.min_examples
        if not least <= args.examples <= total:
            raise SystemExit(f"--examples: got {args.examples}, want {least} to {total}")
        some = np.sort(np.random.default_rng(0).permutation(total)[: args.examples])
        dataset = fn.from_arrays(
            np.asarray(whole.train.images[some]), whole.train.labels[some], test=whole.test, classes=whole.classes
        )
        more = total / args.examples
        pretrain = dataclasses.replace(pretrain, rounds=round(pretrain.rounds * more))
        finetune = dataclasses.replace(finetune, rounds=round(finetune.rounds * more))
    if args.score_clients is not None:
        search = dataclasses.replace(search, score_clients=args.score_clients)
    if args.tiny:
        pretrain = dataclasses.replace(pretrain, rounds=2)
        finetune = dataclasses.replace(finetune, rounds=1, shares=(1.0,))
        search = dataclasses.replace(search, max_iterations=1, settle_rounds=3)
    return dataclasses.replace(config, pretrain=pretrain, search=search, finetune=finetune), dataset


def pretrained(args: argparse.Namespace, seed: int) -> Path:
    """Trains the seed's parent, or finds it trained; all settings share it, however they search."""
    config, dataset = args.prepared
    parent = args.out / f"{args.preset}-parent-{seed}"
    config = dataclasses.replace(config, command="pretrain", seed=seed, search=fn.preset(args.preset).search)
    fn.run_search(config, parent, dataset=dataset)
    return parent


def run(args: argparse.Namespace, switches: tuple[bool, ...], seed: int, parent: Path) -> Path:
    """Runs one setting from the seed's parent, or finds it finished, and returns its folder."""
    config, dataset = args.prepared
    on: dict[str, Any] = dict(zip(SWITCHES, switches, strict=True))
    config = dataclasses.replace(
        config,
        seed=seed,
        parent=parent,
        pretrain=dataclasses.replace(config.pretrain, rounds=0),
        search=dataclasses.replace(config.search, **on),
    )
    scored = "" if args.score_clients is None else f"-score{args.score_clients}"
    out = args.out / f"{args.preset}-{name_of(switches)}-{seed}{scored}"
    began = time.perf_counter()
    fn.run_search(config, out, dataset=dataset)
    print(f"{out.name}: {time.perf_counter() - began:,.0f} s", file=sys.stderr, flush=True)
    return out


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


def measured(run: fn.Run, population: str) -> dict[str, float]:
    """One run's search phase under a population: means over clients of seconds by phase and of megabytes; accuracy."""
    priced = fn.reprice_run(run.path, dataclasses.replace(run.config.cost, population=population))
    spent, by_phase = priced["client_cost"]["search"], priced["phases"]["search"]
    accuracy = fn.compare([run.path]).lines[0].accuracy[SHARE]
    return {phase: by_phase[phase] / run.result["clients"] for phase in PHASES} | {
        "seconds": spent["seconds"]["mean"],
        "megabytes": (spent["bytes_up"]["mean"] + spent["bytes_down"]["mean"]) / 1e6,
        "accuracy": float("nan") if accuracy is None else accuracy,
    }


def mean(values: list[float]) -> float | None:
    """None where a value is missing: no network of a run is as small as SHARE."""
    found = float(np.mean(values))
    return found if np.isfinite(found) else None


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Rows of means over the seeds, by population and setting; the straightforward design comes first."""
    settings = [s for s in ALL if name_of(s) in args.only]
    runs: dict[str, list[fn.Run]] = {name_of(s): [] for s in settings}
    for seed in args.seeds:
        parent = pretrained(args, seed)
        for s in settings:
            runs[name_of(s)].append(fn.load_run(run(args, s, seed, parent)))
    theory = {name_of(s): float(np.mean([tasks_of_a_client(one) for one in runs[name_of(s)]])) for s in settings}
    tables: dict[str, Any] = {}
    for population in POPULATIONS:
        rows = {}
        for name, same in runs.items():
            each = [measured(one, population) for one in same]
            rows[name] = {key: mean([one[key] for one in each]) for key in each[0]} | {"tasks": theory[name]}
        tables[population] = rows
    return {"preset": args.preset, "seeds": list(args.seeds), "populations": tables}


def show(report_of: dict[str, Any]) -> None:
    """The tables as Markdown: an average client's seconds and megabytes in the search, against the first setting's."""
    for number, (population, rows) in enumerate(report_of["populations"].items()):
        base, header = next(iter(rows.values())), SECONDS + REST * (not number)
        print(f"\n{report_of['preset']}, population `{population}`, {len(report_of['seeds'])} seeds, search phase:\n")
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
        for name, row in rows.items():
            cells = [
                f"`{name}`",
                *(f"{row[key]:,.1f}" for key in ("train", "evaluate", "download", "upload", "seconds")),
            ]
            cells += [f"{base[key] / row[key]:,.1f}" for key in ("seconds", "train", "tasks")]
            cells += [f"{row['megabytes']:,.2f}", f"{base['megabytes'] / row['megabytes']:,.1f}"]
            cells += ["none" if row["accuracy"] is None else f"{row['accuracy']:.1%}"]
            print(f"| {' | '.join(cells[: len(header)])} |")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/client_cost"), help="folder of the runs")
    parser.add_argument("--preset", default="digits", help="digits, fashion_mnist, ... (default: digits)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--examples", type=int, help="so many of the training images, drawn once (default: all)")
    parser.add_argument("--score-clients", type=int, help="phones that score a candidate (default: the preset's)")
    names = [name_of(switches) for switches in ALL]
    parser.add_argument("--only", nargs="+", default=names, choices=names, help="settings to run (default: all eight)")
    parser.add_argument("--tiny", action="store_true", help="one iteration, few rounds")
    return parser.parse_args(argv)


def main() -> None:
    """Runs what is not there yet, prints the tables and writes them to a .json in the folder, named as the runs are."""
    args = arguments()
    fn.use_all_cores()
    args.prepared = prepared(args)
    found = compare(args)
    some = [] if len(args.only) == len(ALL) else args.only
    scored = [] if args.score_clients is None else [f"score{args.score_clients}"]
    (args.out / f"{'-'.join([args.preset, *some, *scored])}.json").write_text(json.dumps(found, indent=2) + "\n")
    show(found)


if __name__ == "__main__":
    main()
