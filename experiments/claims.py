"""What the experiments share: their options, a parent for each seed, a sweep from these, and its table with intervals.

Every experiment is trials of `fn.run_sweep` on one base. The parent of a seed is pretrained once, in OUT/parents, and
all trials of that seed start from it, however they search; so a table compares searches, and differences are paired.
Experiments of one base share OUT, and so the parents; a parent of another config is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import fednas_jax as fn

FASHION = 60_000  # images in its training split


class Claim(NamedTuple):
    """An experiment's command line, and what comes of it."""

    name: str
    out: Path
    base: fn.Config
    seeds: tuple[int, ...]
    tiny: bool

    @property
    def sweep(self) -> Path:
        """The sweep's folder, beside the parents."""
        return self.out / self.name

    def runs(self, table: pd.DataFrame) -> list[fn.Run]:
        """The runs of a table's rows."""
        return [fn.load_run(self.sweep / "trials" / trial) for trial in table.trial]


def arguments(doc: str | None, argv: Sequence[str] | None, name: str, presets: Sequence[str] = ()) -> Claim:
    """Reads the options that every experiment has.

    Args:
      doc: the experiment's header.
      argv: None: the command's own.
      name: of the experiment, whose sweep is OUT/NAME and whose table OUT/NAME.md.
      presets: that it is made for; the first is the default.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = tuple(presets) or ("digits", "fashion_mnist")
    parser.add_argument(
        "--out", type=Path, help="folder of parents and sweeps; goes on where it was (default: runs/claims-PRESET)"
    )
    parser.add_argument("--preset", default=known[0], choices=known, help=f"(default: {known[0]})")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    parser.add_argument("--root", type=Path, help="folder of prepared data sets")
    parser.add_argument("--examples", type=int, help="so many images of Fashion-MNIST (default: all)")
    parser.add_argument("--tiny", action="store_true", help="made-up images, one iteration, one seed: in seconds")
    args = parser.parse_args(argv)
    if args.examples is not None and (args.preset != "fashion_mnist" or not 1_000 <= args.examples <= FASHION):
        parser.error(f"--examples: got {args.examples}, want 1000 to {FASHION} of --preset fashion_mnist")
    words = ["claims", args.preset, str(args.examples or ""), "tiny" if args.tiny else ""]
    out = args.out or Path("runs") / "-".join(filter(None, words))
    return Claim(name, out, _base(args), (0,) if args.tiny else tuple(args.seeds), args.tiny)


def _base(args: argparse.Namespace) -> fn.Config:
    """The preset, tested at half of the parent's MACs; on fewer images there are more rounds, which teach less each."""
    config = fn.preset(args.preset)
    if args.tiny:
        small = {
            "net.widths": (4, 8, 16),
            "net.multiple": (1, 2, 4),
            "search.reduction": 0.5,
            "finetune.shares": (0.5,),
        }
        return fn.override(fn.tiny(config), {**small, "search.settle_rounds": 2, "engine.lanes": 1})
    changes: dict[str, Any] = {"finetune.shares": (0.5,), "data.root": args.root}
    if args.examples:
        more = FASHION / args.examples
        changes |= {
            "data.source": "fashion_part:images" + ("" if args.examples == 7500 else f"(examples={args.examples})"),
            "pretrain.rounds": round(config.pretrain.rounds * more),
            "finetune.rounds": round(config.finetune.rounds * more),
        }
    return fn.override(config, changes)


def centralised(claim: Claim) -> dict[str, Any]:
    """`netadapt` for a claim: two passes over all data for each candidate, and as many of fine-tuning as others have.

    It never averages, so the presets' rates diverge; a round of it is a pass over the data of all clients.
    """
    stage, clients = claim.base.finetune, claim.base.data.clients
    passes = stage.rounds * (stage.clients_per_round or clients) / clients
    return {
        "method": "netadapt",
        "train.learning_rate": 0.02,
        "search.settle_rounds": 2,
        "finetune.rounds": max(1, round(passes)),
    }


def measured(claim: Claim, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, pd.DataFrame]:
    """Runs each setting once for each seed, or finds it finished: name -> its rows of the sweep's table, by seed.

    All start from the seed's parent; settings that divide the data otherwise share a parent of that division.

    Args:
      claim: whose sweep it is.
      settings: name -> fields.

    Raises:
      SystemExit: a trial failed.
    """
    trials = []
    for seed in claim.seeds:
        for fields in settings.values():
            divided = {name: value for name, value in fields.items() if name.startswith("data.")}
            trials.append({**fields, "parent": str(_parent(claim, seed, divided)), "seed": seed})
    table = swept(trials, claim.sweep, claim.base)
    return {name: table.iloc[n :: len(settings)] for n, name in enumerate(settings)}  # rows are in the order of trials


def swept(trials: Sequence[dict[str, Any]], out: Path, base: fn.Config) -> pd.DataFrame:
    """Runs trials, or finds them finished: the sweep's table, a row for each in their order.

    Raises:
      SystemExit: a trial failed.
    """
    done = fn.run_sweep(trials, out, base=base, workers=0, pack="auto", observe=_tell)
    table = pd.read_parquet(out / "trials.parquet")
    if done.failed:
        raise SystemExit("\n".join(f"{row.trial}: {row.error}" for row in table.itertuples() if row.error))
    return table


def _parent(claim: Claim, seed: int, divided: Mapping[str, Any]) -> Path:
    """The parent of a seed, trained where it is not there yet."""
    other = {field: value for field, value in divided.items() if fn.override(claim.base, {field: value}) != claim.base}
    name = "-".join([*(f"{field.split('.')[-1]}{value}" for field, value in other.items()), str(seed)])
    path = (claim.out / "parents" / name).resolve()
    fn.run_search(dataclasses.replace(fn.override(pretraining(claim.base), divided), seed=seed), path)
    return path


def pretraining(base: fn.Config) -> fn.Config:
    """A base's pretraining alone, the same however one searches afterwards."""
    return dataclasses.replace(base, command="pretrain", search=fn.SearchConfig(), finetune=fn.FinetuneConfig())


def _tell(event: dict[str, Any]) -> None:
    if event["event"] == "trial":
        took = event.get("wall_seconds")
        print(
            f"{event['trial']}: {event['status']}" + (f", {took:,.0f} s" if took else ""), file=sys.stderr, flush=True
        )


def interval(values: Iterable[float], digits: int = 1, scale: float = 1.0) -> str:
    """Mean and half of its 95 % interval (Student's t), as text; of one value, that value."""
    found = np.asarray(list(values), float) * scale
    if not np.isfinite(found).all():
        return "-"
    estimate = fn.estimate_mean(found.tolist())
    half = "" if estimate.high is None else f" ± {estimate.high - estimate.value:,.{digits}f}"
    return f"{estimate.value:,.{digits}f}{half}"


def times(above: Iterable[float], below: Iterable[float]) -> str:
    """How many times `below` is in `above`, each by seed: the geometric mean, and its 95 % interval, as text."""
    found = fn.estimate_ratio(dict(enumerate(above)), dict(enumerate(below)))
    if found is None:
        return "-"
    return f"{found.value:,.1f}" + ("" if found.low is None else f" ({found.low:,.1f} to {found.high:,.1f})")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


ACCURACY = "accuracy_50"  # of the largest network within half of the parent's MACs
HEADER = ("accuracy at 50 % MACs", "points", "s of a client", "times cheaper")


def compared(
    found: Mapping[str, pd.DataFrame],
    against: str,
    what: str,
    more: Mapping[str, Mapping[str, str]] | None = None,
    accuracy: str = ACCURACY,
) -> str:
    """Settings side by side: means over the seeds with 95 % intervals; points and ratios are paired by seed.

    Args:
      found: what was measured.
      against: the setting that points and ratios are against.
      what: names the first column.
      more: further columns, each setting -> cell.
      accuracy: column of the sweep's table that is compared.
    """
    base, more = found[against], more or {}
    rows = []
    for name, table in found.items():
        cells = [
            interval(table[accuracy], 1, 100),
            interval(table[accuracy].to_numpy() - base[accuracy].to_numpy(), 1, 100),
            interval(table.search_seconds),
            times(base.search_seconds, table.search_seconds),
        ]
        rows.append([name, *cells, *(column.get(name, "") for column in more.values())])
    return markdown([what, *HEADER, *more], rows)


def tell(claim: Claim, text: str) -> None:
    """Prints a table, and keeps it beside the runs."""
    print(text)
    (claim.out / f"{claim.name}.md").write_text(text + "\n")
