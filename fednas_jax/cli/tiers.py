"""`fednas tiers`: which member of a family each class of phones runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from fednas_jax.cli.parsing import parse, terminal
from fednas_jax.runtime.terminal import plain


@dataclasses.dataclass(frozen=True)
class TiersArgs:
    """For each class of phones the best member of a finished run's family that fits its budget: RUN/tiers.json."""

    run: tyro.conf.Positional[Path]
    """Folder of a finished run."""
    tiers: tyro.conf.Positional[Path]
    """JSON list of objects: name, device (a measured phone, FILE:NAME of a table of your own, or the .json of `fednas
    latency`), budget_ms or budget_ratio (of the parent's latency), clients (phones of this class; 1)."""


def run(args: list[str]) -> int:
    """Runs `fednas tiers` with these arguments and returns the exit code."""
    parsed = parse(TiersArgs, args, "fednas tiers")
    from fednas_jax.report import assigning, page, tables

    tables.print_tiers(terminal(), assigning.assign(parsed.run, assigning.read_tiers(parsed.tiers)))
    print(plain(parsed.run / "tiers.json"))
    print(plain(page.write_report(parsed.run)))
    return 0
