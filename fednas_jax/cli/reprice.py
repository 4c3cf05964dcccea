"""`fednas reprice`: a finished run on other phones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fednas_jax.cli.parsing import leading_name, parse, terminal
from fednas_jax.config import bounds
from fednas_jax.config.schema import CostConfig


@dataclasses.dataclass(frozen=True)
class RepriceArgs:
    """Price a finished run's ledger again, without training; options not given are the run's own."""

    prices: Annotated[CostConfig, tyro.conf.arg(name="")]
    name: str = ""
    """Name of the file RUN/reprice/NAME.json (default: the population's)."""


def run(args: list[str]) -> int:
    """Runs `fednas reprice` with these arguments and returns the exit code."""
    name, rest = leading_name(args, "reprice", "run, want a finished run's folder")
    from fednas_jax.report import reprice, tables
    from fednas_jax.run.folder import RunDir

    folder = Path(name)
    start = RunDir(folder).config().cost if name else CostConfig()
    parsed = parse(RepriceArgs, rest, "fednas reprice RUN", RepriceArgs(start))
    bounds.check(parsed.prices, "cost.")
    found = reprice.reprice_run(folder, parsed.prices, parsed.name)
    tables.print_repriced(terminal(), folder, found)
    return 0
