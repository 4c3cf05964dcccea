"""A finished run as it lies on disk, and what is read off its result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger, totals
from fednas_jax.run.folder import RunDir

RATIOS = (0.75, 0.5, 0.25)  # of the parent's MACs, at which runs are compared


class Run(NamedTuple):
    """A finished run as it lies on disk."""

    path: Path
    config: Config
    result: dict[str, Any]
    phases: dict[str, float]  # seconds of all clients in the search, by phase


def load(path: Path) -> Run:
    """Reads a finished run.

    Raises:
      RunError: there is no run, or it is unfinished.
    """
    run = RunDir(path)
    config = run.config()
    result = run.result()
    if result is None:
        raise RunError(f"{path}: is not finished, want a finished run: repeat its fednas command to go on")
    if config.command == "pretrain":
        raise RunError(f"{path}: is a pretrained parent, want a finished search: fednas search PRESET --parent {path}")
    return Run(path, config, result, totals.phase_seconds(ledger.read(run.ledger), "search"))


def members(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parent and the family, from large to small."""
    return [result["parent"], *result["models"]]


def at_ratio(result: dict[str, Any], ratio: float) -> dict[str, Any] | None:
    """The largest tested member with at most `ratio` of the parent's MACs; None where there is none."""
    limit = ratio * result["parent"]["macs"]
    fits = [m for m in members(result) if m["macs"] <= limit and m["test_accuracy"] is not None]
    return max(fits, key=lambda m: m["macs"], default=None)
