"""The ledger: what every client spent on every candidate in every round, as rows of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fednas_jax.errors import RunError
from fednas_jax.files import opened, replacing

STAGES = ("pretrain", "search", "finetune")


PHASES = ("download", "train", "evaluate", "upload")


KINDS = ("training", "scoring")


SCHEMA = pa.schema(
    [
        ("stage", pa.dictionary(pa.int8(), pa.string())),
        ("iteration", pa.int32()),
        ("round", pa.int32()),
        ("candidate", pa.int32()),
        ("client", pa.int32()),
        ("phase", pa.dictionary(pa.int8(), pa.string())),
        ("examples", pa.int64()),
        ("macs", pa.int64()),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("joules", pa.float64()),
        ("used", pa.bool_()),  # False: wasted, since the client left, was late or was not needed
        ("work", pa.dictionary(pa.int8(), pa.string())),  # which download it is: to train or to score
        ("forward", pa.int64()),  # MACs of the candidate's forward pass on one example, in the phases that compute
        ("rung", pa.int32()),  # of the iteration, from 1; 0 outside of the search
    ]
)


MOST_ROWS = 30_000_000  # of one file
MOST_VALUE = 1e18  # in a row
_TEXTS = ["stage", "phase", "work"]
_KNOWN = {"stage": STAGES, "phase": PHASES, "work": KINDS}
_NEWER = ("used", "work", "forward", "rung")  # that an older run lacks


class Moment(NamedTuple):
    """When something was spent."""

    stage: str
    iteration: int
    round: int
    rung: int = 0

    @property
    def numbers(self) -> tuple[int, int, int]:
        """What the round's random numbers on the host come from."""
        return STAGES.index(self.stage), self.iteration, self.round


def in_vain(rows: pa.Table) -> pa.Table:
    """The same rows as work that was not used."""
    at = SCHEMA.get_field_index("used")
    return rows.set_column(at, SCHEMA.field(at), pa.array(np.zeros(rows.num_rows, bool)))


def moments(table: pa.Table) -> list[Moment]:
    """The rounds that a table has rows of, in their order."""
    columns = (
        pc.cast(table["stage"], pa.string()).to_pylist(),
        table["iteration"].to_pylist(),
        table["round"].to_pylist(),
    )
    return [Moment(*key) for key in dict.fromkeys(zip(*columns, strict=True))]


def rounds(table: pa.Table) -> list[tuple[Moment, str, pa.Table]]:
    """The rows of each round's training and of its scoring, in their order; of one file of the ledger.

    Members of different shapes are fine-tuned in files of their own, in rounds of the same numbers.
    """
    kinds = np.asarray(pc.cast(table["work"], pa.string()))
    stage = np.asarray(pc.cast(table["stage"], pa.string()))
    iteration, number = np.asarray(table["iteration"]), np.asarray(table["round"])
    found = []
    for moment in moments(table):
        now = (stage == moment.stage) & (iteration == moment.iteration) & (number == moment.round)
        for kind in KINDS:
            rows = table.filter(pa.array(now & (kinds == kind)))
            found += [(moment, kind, rows)] if rows.num_rows else []
    return found


def duration(rows: pa.Table) -> float:
    """Simulated seconds of one round's training or scoring, in which nobody was stopped by the clock.

    Phones work in parallel, each does one thing at a time, in the order of candidates and phases. The round is over
    when the last task that was used is done.
    """
    if not rows.num_rows:
        return 0.0
    phase = np.asarray(pc.index_in(pc.cast(rows["phase"], pa.string()), pa.array(PHASES)))
    client, candidate, used = (np.asarray(rows[c]) for c in ("client", "candidate", "used"))
    order = np.lexsort((phase, candidate, client))
    seconds, client = np.asarray(rows["seconds"])[order], client[order]
    first = np.searchsorted(client, client)
    until = np.cumsum(seconds)
    ends = until - (until - seconds)[first]
    taken = used[order]
    return float(ends[taken].max() if taken.any() else ends.max())


def conformed(table: pa.Table) -> pa.Table:
    """Rows in the order and types of SCHEMA; columns that an older run lacks are null."""
    for field in SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(SCHEMA.names).cast(SCHEMA)


def write(tables: Sequence[pa.Table], path: Path) -> None:
    """Writes rows as one Parquet file, whole or not at all; makes its folder in that of the run."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as unfinished:
        pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables]).unify_dictionaries(), unfinished)


def read(folder: Path) -> pa.Table:
    """All rows of a run's ledger, `folder`/*.parquet, in the order of the files' names."""
    return pa.concat_tables([SCHEMA.empty_table(), *(table for _, table in read_files(folder))]).unify_dictionaries()


def read_files(folder: Path) -> list[tuple[str, pa.Table]]:
    """Name and rows of each file of a run's ledger, in their order; columns that an older run lacks are null.

    Raises:
      RunError: a file is damaged.
    """
    return [(path.name, _read_file(path)) for path in sorted(folder.glob("*.parquet"))]


def _read_file(path: Path) -> pa.Table:
    try:
        with opened(path) as plain, pq.ParquetFile(plain, read_dictionary=_TEXTS, pre_buffer=False) as file:
            if file.metadata.num_rows > MOST_ROWS:
                raise RunError(f"{path}: got {file.metadata.num_rows:,} rows, want at most {MOST_ROWS:,}")
            # Arrow's threads, where the process ends just as they start, end it by an abort (exit code 134).
            names = [name for name in file.schema_arrow.names if name in SCHEMA.names]
            table = conformed(file.read(names, use_threads=False))
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RunError(f"{path}: cannot be read as a part of a ledger: {said}") from None


def check(where: str, table: pa.Table, clients: int, iterations: int) -> None:
    """Sees whether rows can be those of a run.

    Args:
      where: they come from, for the message.
      table: rows.
      clients: C of the run.
      iterations: of its search.

    Raises:
      RunError: names the column, what was got and what was wanted.
    """
    most = {"client": clients - 1, "iteration": iterations}
    for field in SCHEMA:
        column = table[field.name]
        if column.null_count and field.name not in _NEWER:
            raise RunError(f"{where}: column {field.name!r} got {column.null_count:,} rows without a value, want none")
        if field.name in _KNOWN:
            known = pc.is_in(pc.cast(column, pa.string()), pa.array([*_KNOWN[field.name], None]))
            if pc.any(pc.invert(known)).as_py():
                raise RunError(f"{where}: column {field.name!r} got others than {', '.join(_KNOWN[field.name])}")
        elif field.type != pa.bool_():
            if pa.types.is_floating(field.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
                raise RunError(f"{where}: column {field.name!r} got what is no finite number")
            low, high = (pc.min_max(column)[name].as_py() or 0 for name in ("min", "max"))
            if low < 0 or high > most.get(field.name, MOST_VALUE):
                want = f"want 0 to {most.get(field.name, MOST_VALUE):g}"
                raise RunError(f"{where}: column {field.name!r} got {low:g} to {high:g}, {want}")
