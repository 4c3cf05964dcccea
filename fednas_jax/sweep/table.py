"""The table of a sweep: a row for each trial, rewritten whole as trials end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fednas_jax.errors import RunError
from fednas_jax.files import opened, replacing
from fednas_jax.run.finished import RATIOS, at_ratio
from fednas_jax.run.session import saving
from fednas_jax.sweep.planning import Plan

MOST_ROWS, MOST_COLUMNS = 100_000, 200  # of a table that is read
SHARE = 0.05  # most of the time that goes into rewriting the table while trials end

# Columns of every sweep, after `trial` and those of the fields in which trials differ.
RESULTS = pa.schema(
    [
        ("status", pa.string()),  # finished, failed, dropped (early), stopped (goes on where it was) or waiting
        ("error", pa.string()),
        ("stop_reason", pa.string()),
        ("warnings", pa.int64()),
        ("iterations", pa.int64()),  # of the search
        ("parent_accuracy", pa.float64()),  # on the test split, like those that follow
        *((f"accuracy_{ratio * 100:g}", pa.float64()) for ratio in RATIOS),  # largest within so many % of the MACs
        *((f"macs_{ratio * 100:g}", pa.int64()) for ratio in RATIOS),
        ("search_seconds", pa.float64()),  # of an average client, simulated
        ("seconds", pa.float64()),  # likewise, of all stages; and so on
        ("megabytes_up", pa.float64()),
        ("megabytes_down", pa.float64()),
        ("joules", pa.float64()),
        ("simulated_hours", pa.float64()),
        ("wall_seconds", pa.float64()),  # of this machine
    ]
)


def read(path: Path) -> pa.Table:
    """A sweep's table, as it lies on disk: `trial`, the fields that differ, and RESULTS, of their types.

    Args:
      path: trials.parquet.

    Raises:
      RunError: it is missing, damaged, too large, or no sweep's table.
    """
    try:
        with opened(path) as plain, pq.ParquetFile(plain, pre_buffer=False) as file:
            rows, columns = file.metadata.num_rows, file.metadata.num_columns
            if rows > MOST_ROWS or columns > MOST_COLUMNS:
                want = f"want at most {MOST_ROWS:,} and {MOST_COLUMNS}"
                raise RunError(f"{path}: got {rows:,} rows and {columns:,} columns, {want}")
            table = file.read(use_threads=False)  # as `phones.ledger` reads
        table.validate(full=True)
        missing = {"trial", *RESULTS.names} - set(table.column_names)
        if missing or len(set(table.column_names)) < len(table.column_names):
            what = f"no column {min(missing)!r}" if missing else "two columns of one name"
            raise RunError(f"{path}: got {what}, want the table of a sweep")
        kinds = dict(zip(RESULTS.names, RESULTS.types, strict=True)) | {"trial": pa.string()}
        made = {name: table[name].cast(kinds.get(name, _plain_type(table[name].type))) for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"{path}: cannot be read as the table of a sweep: {said}") from None
    for name, column in made.items():
        if pa.types.is_floating(column.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
            raise RunError(f"{path}: column {name!a} got what is no finite number")
    if made["trial"].null_count:
        raise RunError(f"{path}: column 'trial' got {made['trial'].null_count:,} rows without a name, want none")
    return pa.table(made)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_boolean(kind):
        return kind
    return pa.int64() if pa.types.is_integer(kind) else pa.float64() if pa.types.is_floating(kind) else pa.string()


def row_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the table says of a finished trial, from its result.json."""
    cost, search = result["client_cost"]["all"], result["client_cost"]["search"]
    within = {ratio: at_ratio(dict(result), ratio) for ratio in RATIOS}
    return {
        "status": "finished",
        "stop_reason": result["stop_reason"],
        "warnings": len(result.get("warnings", ())),
        "iterations": len(result["models"]),
        "parent_accuracy": result["parent"]["test_accuracy"],
        **{f"accuracy_{ratio * 100:g}": found and found["test_accuracy"] for ratio, found in within.items()},
        **{f"macs_{ratio * 100:g}": found and found["macs"] for ratio, found in within.items()},
        "search_seconds": search["seconds"]["mean"],
        "seconds": cost["seconds"]["mean"],
        "megabytes_up": cost["bytes_up"]["mean"] / 1e6,
        "megabytes_down": cost["bytes_down"]["mean"] / 1e6,
        "joules": cost["joules"]["mean"],
        "simulated_hours": result.get("simulated_hours", {}).get("all"),
        "wall_seconds": result.get("simulator", {}).get("wall_seconds"),
    }


@dataclasses.dataclass
class Table:
    """Rows in the plan's order, and the file they are in. A row is a few hundred bytes, whatever a trial's size."""

    plan: Plan
    path: Path

    def __post_init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {trial.name: {"status": "waiting"} for trial in self.plan.trials}
        self._next = 0.0  # time.monotonic() at which the file may be written again
        self._written = True

    def put(self, name: str, row: dict[str, Any]) -> None:
        """Changes a trial's row; the file follows, at once or soon after."""
        self.rows[name] = row
        self._written = False

    def count(self, status: str) -> int:
        """Number of trials of a status."""
        return sum(row["status"] == status for row in self.rows.values())

    def write(self, now: bool = False) -> None:
        """Writes the file where rows have changed.

        Args:
          now: even where it was written a moment ago: a large table is not written after every trial.

        Raises:
          RunError: it cannot be written.
        """
        began = time.monotonic()
        if self._written or (began < self._next and not now):
            return
        with saving(self.path), replacing(self.path) as unfinished:
            pq.write_table(self.table(), unfinished)
        self._written = True
        ended = time.monotonic()
        self._next = ended + (ended - began) / SHARE

    def table(self) -> pa.Table:
        """All rows."""
        trials, rows = self.plan.trials, self.rows
        columns = {"trial": pa.array([trial.name for trial in trials], pa.string())}
        for field in self.plan.fields:
            columns[field] = _column([trial.differs[field] for trial in trials])
        for name, kind in zip(RESULTS.names, RESULTS.types, strict=True):
            columns[name] = pa.array([rows[trial.name].get(name) for trial in trials], kind)
        return pa.table(columns)


def _column(values: Sequence[Any]) -> pa.Array:
    """Values of a field: numbers where all are, else text."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_())
    if kinds <= {int} and all(abs(value or 0) < 1 << 63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:  # Arrow makes no float of a whole number that is rounded by it
        return pa.array([value if value is None else float(value) for value in values], pa.float64())
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())
