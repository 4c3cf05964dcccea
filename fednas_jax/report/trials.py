"""A sweep's trials as rows, and what each field does to them: main effects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import RunError
from fednas_jax.files import plain_name
from fednas_jax.report import statistics
from fednas_jax.report.statistics import Estimate
from fednas_jax.sweep import table
from fednas_jax.sweep.folder import SweepDir

ACCURACIES = ("accuracy_25", "accuracy_50", "accuracy_75", "parent_accuracy")
SPAN = 20  # times the smallest, from which a cost's axis is logarithmic
LEVELS = 8  # values of a field that are shown one by one; of more numbers, points are


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

    value: Any
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


def effects(sweep: Sweep) -> dict[str, list[Level]]:
    """The levels of each field that is a factor; the one that moves the accuracy most comes first."""
    found = {field: levels(sweep, field) for field in sweep.factors}
    return dict(sorted(found.items(), key=lambda each: -spread(each[1])))


def levels(sweep: Sweep, field: str) -> list[Level]:
    """What trials came to at each value of a field, over all values of the others."""
    rows: dict[Any, list[dict[str, Any]]] = {}
    for row in sweep.finished:
        rows.setdefault(row[field], []).append(row)
    found = []
    for value in sorted(rows, key=order):
        seconds = [row["search_seconds"] for row in rows[value] if row["search_seconds"] is not None]
        found.append(
            Level(
                value,
                statistics.mean([row[sweep.accuracy] for row in rows[value]]),
                statistics.mean(seconds) if seconds else None,
            )
        )
    return found


def spread(found: Sequence[Level]) -> float:
    """How much a field moves the mean accuracy: the most less the least of its levels."""
    values = [level.accuracy.value for level in found]
    return max(values) - min(values)
