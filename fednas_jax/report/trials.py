"""A sweep's trials as rows, and what each field does to them: main effects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.errors import RunError
from fednas_jax.files import plain_name
from fednas_jax.report import statistics, wording
from fednas_jax.report.statistics import Estimate
from fednas_jax.sweep import table
from fednas_jax.sweep.folder import SweepDir

ACCURACIES = ("accuracy_25", "accuracy_50", "accuracy_75", "parent_accuracy")
SPAN = 20  # times the smallest, from which a cost's axis is logarithmic
LEVELS = 8  # values of a field that are shown one by one; more numbers are divided into quarters


class Sweep(NamedTuple):
    """What a sweep found."""

    path: Path
    fields: tuple[str, ...]  # in which trials differ
    rows: list[dict[str, Any]]  # of all trials
    accuracy: str  # the column that says how good a trial is, of ACCURACIES

    @property
    def finished(self) -> list[dict[str, Any]]:
        """Rows of trials that are finished and have the accuracy."""
        return [row for row in self.rows if row["status"] == "finished" and row[self.accuracy] is not None]

    @property
    def factors(self) -> tuple[str, ...]:
        """Fields whose effect is asked for: all but the seed, which repeats, and its parent, where there are others."""
        repeats = {"seed"} & set(self.fields)
        if repeats and statistics.of_seed((row["seed"], row.get("parent")) for row in self.rows):
            repeats.add("parent")
        return tuple(field for field in self.fields if field not in repeats) or self.fields

    def run(self, trial: str) -> Path:
        """A trial's run."""
        return SweepDir(self.path).trial(plain_name(trial, f"{self.path}: trial"))


class Level(NamedTuple):
    """A value of a field, and what trials of that value came to."""

    value: Any  # of many numbers the text 'LEAST to MOST' of a quarter
    accuracy: Estimate
    seconds: Estimate | None  # of the search


def read(path: Path) -> Sweep:
    """Reads a sweep's table, of finished trials and others.

    Raises:
      RunError: it is missing or damaged, or no trial is finished.
    """
    folder = SweepDir(path)
    folder.entries()  # a manifest that is damaged says so
    found = table.read(folder.table)
    fields = tuple(name for name in found.column_names if name != "trial" and name not in table.RESULTS.names)
    rows = found.to_pylist()
    for row in rows:
        plain_name(row["trial"], f"{folder.table}: trial")
    finished = [row for row in rows if row["status"] == "finished"]
    counts = {name: sum(row[name] is not None for row in finished) for name in ACCURACIES}
    best = max(counts, key=lambda name: counts[name])  # of equals the smallest networks'
    if not counts[best]:
        raise RunError(f"{path}: got no finished trial with a tested network, want at least one: fednas sweep goes on")
    return Sweep(path, fields, rows, best)


def spans(values: Sequence[float]) -> bool:
    """Whether numbers differ so much that an axis of their logarithms shows more."""
    return min(values, default=0) > 0 and max(values) >= SPAN * min(values)


def kinds(rows: Sequence[dict[str, Any]], field: str) -> list[Any]:
    """The values of a field, numbers in their order, then texts, None last."""
    return sorted({row[field] for row in rows}, key=order)


def order(value: Any) -> tuple[int, float, str]:
    """What values are sorted by."""
    if value is None:
        return (2, 0.0, "")
    return (0, float(value), "") if is_number(value) else (1, 0.0, str(value))


def is_number(value: Any) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def many(rows: Sequence[dict[str, Any]], field: str) -> bool:
    """Whether a field has so many numbers that hardly two trials share one."""
    values = {row[field] for row in rows}
    return len(values) > LEVELS and all(map(is_number, values))


def parts(sweep: Sweep, field: str) -> dict[Any, list[dict[str, Any]]]:
    """The finished trials by their value of a field, in order; of many numbers by quarters, as `Level` names them."""
    rows = sorted(sweep.finished, key=lambda row: order(row[field]))
    found: dict[Any, list[dict[str, Any]]] = {}
    if not many(rows, field):
        for row in rows:
            found.setdefault(row[field], []).append(row)
        return found
    values = [row[field] for row in rows]
    quarters = np.searchsorted(np.quantile(values, (0.25, 0.5, 0.75), method="lower"), values)
    for number in np.unique(quarters):
        own = [row for row, quarter in zip(rows, quarters, strict=True) if quarter == number]
        ends = dict.fromkeys(wording.value(row[field]) for row in (own[0], own[-1]))
        found.setdefault(" to ".join(ends), []).extend(own)
    return found


def effects(sweep: Sweep) -> dict[str, list[Level]]:
    """The levels of each field that is a factor; the one that explains most of the accuracy comes first."""

    def explained(field: str) -> float:
        return statistics.explained([[row[sweep.accuracy] for row in of] for of in parts(sweep, field).values()])

    return {field: levels(sweep, field) for field in sorted(sweep.factors, key=explained, reverse=True)}


def levels(sweep: Sweep, field: str) -> list[Level]:
    """What trials came to at each value of a field, over all values of the others."""
    found = []
    for value, rows in parts(sweep, field).items():
        seconds = [row["search_seconds"] for row in rows if row["search_seconds"] is not None]
        found.append(
            Level(
                value,
                statistics.mean([row[sweep.accuracy] for row in rows]),
                statistics.mean(seconds) if seconds else None,
            )
        )
    return found


def spread(found: Sequence[Level]) -> float:
    """How far apart the mean accuracies of a field's levels are, the most less the least."""
    values = [level.accuracy.value for level in found]
    return max(values) - min(values)


def best(sweep: Sweep) -> tuple[dict[str, Any], int]:
    """The most accurate trial, and how many others are as accurate."""
    most = max(row[sweep.accuracy] for row in sweep.finished)
    first, *others = (row for row in sweep.finished if row[sweep.accuracy] == most)
    return first, len(others)
