"""Runs side by side: accuracy at equal MACs, client cost of the search, its ratio, its phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger
from fednas_jax.report import draw
from fednas_jax.report.finished import RATIOS, Run, at_ratio, load


def print_comparison(console: Console, paths: Sequence[Path]) -> None:
    """Prints runs side by side: accuracy at equal MACs, client cost of the search, its ratio, its phases.

    Runs of one method and preset are also averaged over their seeds.

    Raises:
      RunError: a run is missing or unfinished, or runs are of different presets.
    """
    runs = [load(path) for path in {path.resolve(): path for path in paths}.values()]
    presets = sorted({run.result["preset"] for run in runs})
    if len(presets) > 1:
        raise RunError(f"compare: got runs of {' and '.join(presets)}, want runs of one preset")
    lines = [(f"{run.result['method']}, seed {run.result['seed']} ({run.path.name})", [run]) for run in runs]
    grouped = [(group[0].result["method"], group) for group in _alike(runs)]
    lines += [(f"{method}, mean of {len(group)} runs", group) for method, group in grouped if len(group) > 1]
    # Ratios are against the straightforward design where it is among the runs, else against the costliest.
    by_method = {method: _search_seconds(group) for method, group in grouped}
    against = "naive" if "naive" in by_method else max(by_method, key=lambda method: by_method[method])
    reference = by_method[against]
    accuracy, phases = [], []
    for name, group in lines:
        seconds = _search_seconds(group)
        cheaper = f"{reference / seconds:.3g}" if seconds else "-"
        picked = [[_parent(run.result) for run in group]]
        picked += [[at_ratio(run.result, ratio) for run in group] for ratio in RATIOS]
        cells = [_mean_accuracy(some) for some in picked]
        accuracy.append([name, *cells, f"{seconds:,.1f}", cheaper])
        per_client = [[run.phases[p] / run.result["clients"] for run in group] for p in ledger.PHASES]
        phases.append([name, *(f"{np.mean(values):,.1f}" for values in per_client)])
    header = ("run", "parent", *(f"{100 * r:.0f} % MACs" for r in RATIOS), "s per client", f"{against} / this")
    console.print(draw.table("Test accuracy at equal MACs, and client seconds of the search", header, accuracy))
    console.print(draw.table("Client seconds of the search by phase, mean per client", ("run", *ledger.PHASES), phases))


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed, together."""
    groups: dict[Config, list[Run]] = {}
    for run in runs:
        groups.setdefault(dataclasses.replace(run.config, seed=0), []).append(run)
    return list(groups.values())


def _search_seconds(runs: Sequence[Run]) -> float:
    return float(np.mean([run.result["client_cost"]["search"]["seconds"]["mean"] for run in runs]))


def _parent(result: dict[str, Any]) -> dict[str, Any] | None:
    """The parent, where it was tested."""
    return None if result["parent"]["test_accuracy"] is None else result["parent"]


def _mean_accuracy(found: Sequence[dict[str, Any] | None]) -> str:
    values = [m["test_accuracy"] for m in found if m is not None]
    return f"{np.mean(values):.4f}" if len(values) == len(found) else "-"
