"""Runs side by side: accuracy at equal MACs, client cost of the search, its ratio, its phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fednas_jax.config.schema import Config, DataConfig
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger
from fednas_jax.report import draw, statistics
from fednas_jax.run.finished import RATIOS, Run, at_ratio, load_run

# Where data lies, and what says which it is: a fingerprint says that better, where both runs have one.
_PLACES = ("root", "folder")
_WHICH = ("source", "image_size", "image_feature", "label_feature", "client_feature", "test_split")
_SEEDED = "synthetic"  # the source whose data depends on the run's seed


class Line(NamedTuple):
    """One run, or the mean of runs that differ in their seed alone."""

    name: str
    runs: tuple[Path, ...]
    parent: float | None  # test accuracy; None where not every run tested its parent
    accuracy: dict[float, float | None]  # of the largest network within each of RATIOS of the parent's MACs
    client_seconds: float  # that the search takes of an average client
    cheaper: float | None  # than what is compared against; None where the search took nothing
    phases: dict[str, float]  # client_seconds by phase


class Comparison(NamedTuple):
    """Runs side by side."""

    against: str  # the method whose client seconds `cheaper` divides
    lines: tuple[Line, ...]
    notes: tuple[str, ...]  # what could not be compared


def compare(paths: Sequence[Path | str]) -> Comparison:
    """Reads finished runs of one data set, and puts them side by side; writes and prints nothing.

    Runs that differ in nothing but their seed are also averaged. Ratios are against the straightforward design
    (`naive`) where it is among the runs, else against the costliest.

    Args:
      paths: the runs' folders, at least one.

    Raises:
      RunError: as `load_run`; or the runs' data, its division among clients, or their metric differ: names the fields.
    """
    runs, notes = read(paths, "compare")
    named = [(f"{run.result['method']}, seed {run.result['seed']} ({run.path.name})", [run]) for run in runs]
    grouped = [(group[0].result["method"], group) for _, group in alike(runs)]
    named += [(f"{method}, mean of {len(group)} runs", group) for method, group in grouped if len(group) > 1]
    by_method = {method: _search_seconds(group) for method, group in grouped}
    against = "naive" if "naive" in by_method else max(by_method, key=lambda method: by_method[method])
    return Comparison(against, tuple(_line(name, group, by_method[against]) for name, group in named), notes)


def print_comparison(console: Console, paths: Sequence[Path]) -> None:
    """Prints what `compare` finds; raises as it does."""
    found = compare(paths)
    accuracy = [
        [
            line.name,
            *("-" if value is None else f"{value:.4f}" for value in (line.parent, *line.accuracy.values())),
            f"{line.client_seconds:,.1f}",
            "-" if line.cheaper is None else f"{line.cheaper:.3g}",
        ]
        for line in found.lines
    ]
    phases = [[line.name, *(f"{seconds:,.1f}" for seconds in line.phases.values())] for line in found.lines]
    header = ("run", "parent", *(f"{100 * r:.0f} % MACs" for r in RATIOS), "s per client", f"{found.against} / this")
    console.print(draw.table("Test accuracy at equal MACs, and client seconds of the search", header, accuracy))
    console.print(draw.table("Client seconds of the search by phase, mean per client", ("run", *ledger.PHASES), phases))
    for note in found.notes:
        draw.say(console, note)


def _line(name: str, runs: Sequence[Run], reference: float) -> Line:
    seconds = _search_seconds(runs)
    return Line(
        name,
        tuple(run.path for run in runs),
        _mean_accuracy([_parent(run.result) for run in runs]),
        {ratio: _mean_accuracy([at_ratio(run.result, ratio) for run in runs]) for ratio in RATIOS},
        seconds,
        reference / seconds if seconds else None,
        {p: float(np.mean([run.phases[p] / run.result["clients"] for run in runs])) for p in ledger.PHASES},
    )


def read(paths: Sequence[Path | str], command: str) -> tuple[list[Run], tuple[str, ...]]:
    """Runs that can be compared, each once, and what had to be taken on trust.

    Args:
      paths: the runs' folders.
      command: that is to compare them, for the message.

    Raises:
      RunError: as `compare`.
    """
    runs = [load_run(path) for path in {Path(path).resolve(): Path(path) for path in paths}.values()]
    if not runs:
        raise RunError(f"{command}: got no run, want at least one")
    return runs, _check_comparable(runs, command)


def _check_comparable(runs: Sequence[Run], command: str) -> tuple[str, ...]:
    """Refuses runs whose accuracies are of different things; says which runs it had to take at their word."""
    for run in runs[1:]:
        if differ := _differences(runs[0], run):
            who = f"{runs[0].path} and {run.path}"
            want = f"want the same: {who} differ in {'; '.join(differ)}"
            raise RunError(f"{command}: got runs of different data, {want}")
    old = [str(run.path) for run in runs if "data" not in run.result]
    if not old or len(runs) == 1:
        return ()
    what = "is" if len(old) == 1 else "are"
    return (f"{', '.join(old)} {what} of an older version, without a fingerprint of the data: configs were compared.",)


def _differences(a: Run, b: Run) -> list[str]:
    """'field (value of a, value of b)' wherever two runs' data, division of it, or metric differ."""
    prints = [run.result.get("data", {}).get("fingerprint") for run in (a, b)]
    drawn = _SEEDED in (a.config.data.source, b.config.data.source) and a.config.seed != b.config.seed
    known = None not in prints and not drawn
    pairs = [
        (f"data.{field.name}", *(getattr(run.config.data, field.name) for run in (a, b)))
        for field in dataclasses.fields(DataConfig)
        if field.name not in _PLACES and not (known and field.name in _WHICH)
    ]
    pairs.append(("search.metric", a.config.search.metric, b.config.search.metric))
    if known and prints[0] != prints[1]:
        pairs.insert(0, ("the data set's fingerprint", *prints))
        pairs += [(f"data.{name}", *(getattr(run.config.data, name) for run in (a, b))) for name in _WHICH]
    return [f"{field} ({mine!a}, {theirs!a})" for field, mine, theirs in pairs if mine != theirs]


def alike(runs: Sequence[Run]) -> list[tuple[Config, list[Run]]]:
    """Runs that differ in nothing but their seed, and the config that they share, of seed 0.

    Where every seed has a parent to itself, whatever else differs, the parent belongs to the seed, and the config has
    none.
    """
    own = statistics.of_seed((run.config.seed, run.config.parent) for run in runs)
    groups: dict[Config, list[Run]] = {}
    for run in runs:
        shared = dataclasses.replace(run.config, seed=0)
        groups.setdefault(dataclasses.replace(shared, parent=None) if own else shared, []).append(run)
    return list(groups.items())


def _search_seconds(runs: Sequence[Run]) -> float:
    return float(np.mean([run.result["client_cost"]["search"]["seconds"]["mean"] for run in runs]))


def _parent(result: dict[str, Any]) -> dict[str, Any] | None:
    """The parent, where it was tested."""
    return None if result["parent"]["test_accuracy"] is None else result["parent"]


def _mean_accuracy(found: Sequence[dict[str, Any] | None]) -> float | None:
    """The mean test accuracy; None where a run has no such network."""
    values = [member["test_accuracy"] for member in found if member is not None]
    return float(np.mean(values)) if len(values) == len(found) else None
