"""The ledger: what every client spent on every candidate in every round, and what that costs on its phone.

Events (MACs, bytes) are counted from the task list and the network; seconds and joules are priced from them.
Letters: T tasks, K candidates, C clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fednas_jax.phones.devices import THREE_PASSES, Devices, links

STAGES = ("pretrain", "search", "finetune")
PHASES = ("download", "train", "evaluate", "upload")
KINDS = ("training", "scoring")
QUANTITIES = ("seconds", "macs", "bytes_up", "bytes_down", "joules")
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


class Pricing(NamedTuple):
    """The clients' phones, and their links in one round; arrays [C]."""

    devices: Devices
    down: np.ndarray  # bytes a second
    up: np.ndarray

    def seconds(
        self,
        phase: str,
        client: np.ndarray,
        examples: np.ndarray,
        forward: np.ndarray,
        macs: np.ndarray,
        size: np.ndarray,
    ) -> np.ndarray:
        """Seconds [T] of one phase on each task's phone and link.

        Evaluating an example takes base + MACs of the forward pass x seconds a MAC. Training takes as many forward
        passes as the phone's table says; where it says nothing, the MACs as counted, and the base three times.

        Args:
          phase: of PHASES.
          client: [T].
          examples: [T] worked on in the phase.
          forward: [T] MACs of the candidate's forward pass on one example.
          macs: [T] of the whole phase, as counted.
          size: [T] bytes moved in the phase.
        """
        if phase in ("download", "upload"):
            return size / (self.up if phase == "upload" else self.down)[client]
        base, per_mac = self.devices.base[client], self.devices.per_mac[client]
        if phase == "evaluate":
            return examples * base + macs * per_mac
        said = self.devices.training[client]
        counted = THREE_PASSES * examples * base + macs * per_mac
        return np.where(np.isnan(said), counted, said * examples * (base + forward * per_mac))

    def joules(self, phase: str, client: np.ndarray, seconds: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Energy [T]: the phone's power while it computes, and the bytes it moves. Both are assumptions of the user."""
        computes = phase in ("train", "evaluate")
        return seconds * computes * self.devices.watts[client] + size * self.devices.joules_per_byte[client]


def pricing(devices: Devices, seed: int, moment: Moment) -> Pricing:
    """The phones with their links as they are in this round."""
    return Pricing(devices, *links(devices, seed, *moment.numbers))


class Work(NamedTuple):
    """T tasks: who worked on what, and how much there was of it. All integers."""

    candidate: np.ndarray  # [T] the candidate's number
    client: np.ndarray  # [T]
    examples: np.ndarray  # [T] examples trained on, or validation examples evaluated
    forward: np.ndarray  # [T] MACs of the candidate's forward pass on one example
    training: np.ndarray  # [T] MACs of training the candidate on one example
    down: np.ndarray  # [T] bytes of the candidate's parameters and statistics
    up: np.ndarray  # [T] bytes of its update as it is sent


class Done(NamedTuple):
    """How far T tasks got."""

    share: np.ndarray  # [T, 3] of download, training and upload; of scoring [T, 2] of download and evaluation
    used: np.ndarray  # [T] bool
    cut: np.ndarray  # [T] bool: stopped by the clock, so that a part of an example or byte took time too


# What a task is done in, one after the other. The few bytes of a score are free.
TRAINING = ("download", "train", "upload")
SCORING = ("download", "evaluate")


def task_seconds(priced: Pricing, work: Work, phases: Sequence[str]) -> np.ndarray:
    """Seconds [T, P] that the P phases of each task take if nothing stops them: those of TRAINING or of SCORING."""
    return np.stack([_amount(priced, phase, work, None)[3] for phase in phases], axis=1)


def training(priced: Pricing, moment: Moment, work: Work, done: Done | None = None) -> pa.Table:
    """The rows of training tasks: download the candidate, train it, upload the update.

    Args:
      priced: phones and links.
      moment: when.
      work: the tasks.
      done: how far each got; None: to the end, and its update was used. Phases that were not begun have no row.
    """
    return _phases(priced, moment, "training", TRAINING, work, done)


def scoring(priced: Pricing, moment: Moment, work: Work, done: Done | None = None) -> pa.Table:
    """The rows of scoring tasks: download the averaged candidate, evaluate it. Arguments as of `training`."""
    return _phases(priced, moment, "scoring", SCORING, work, done)


def in_vain(rows: pa.Table) -> pa.Table:
    """The same rows as work that was not used."""
    at = SCHEMA.get_field_index("used")
    return rows.set_column(at, SCHEMA.field(at), pa.array(np.zeros(rows.num_rows, bool)))


def _phases(
    priced: Pricing, moment: Moment, kind: str, phases: Sequence[str], work: Work, done: Done | None
) -> pa.Table:
    return pa.concat_tables(
        [
            _rows(priced, moment, phase, kind, work, done and done._replace(share=done.share[:, n]))
            for n, phase in enumerate(phases)
        ]
    )


def _amount(
    priced: Pricing, phase: str, work: Work, share: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Examples, MACs, bytes and seconds [T] of one phase; of a share of it what was finished: whole examples, bytes."""

    def part(values: np.ndarray) -> np.ndarray:
        return values if share is None else np.floor(share * values + 1e-9).astype(np.int64)

    nothing = np.zeros(len(work.client), np.int64)
    examples, macs, size = nothing, nothing, nothing
    if phase in ("train", "evaluate"):
        examples = part(work.examples)
        macs = examples * (work.training if phase == "train" else work.forward)
    else:
        size = part(work.up if phase == "upload" else work.down)
    return examples, macs, size, priced.seconds(phase, work.client, examples, work.forward, macs, size)


def _rows(priced: Pricing, moment: Moment, phase: str, kind: str, work: Work, done: Done | None) -> pa.Table:
    """One phase of the tasks; it either computes (MACs, on examples) or moves bytes. `done.share` is [T] here."""
    used = np.full(len(work.client), True)
    if done is not None:
        begun = done.share > 0
        work, done = Work(*(field[begun] for field in work)), Done(*(field[begun] for field in done))
        used = done.used
    examples, macs, size, seconds = _amount(priced, phase, work, None if done is None else done.share)
    if done is not None:
        seconds = np.where(done.cut, done.share * _amount(priced, phase, work, None)[3], seconds)
    count = len(work.client)

    def name(value: str, values: Sequence[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.full(count, values.index(value), np.int8)), list(values))

    columns = [
        name(moment.stage, STAGES),
        np.full(count, moment.iteration),
        np.full(count, moment.round),
        work.candidate,
        work.client,
        name(phase, PHASES),
        examples,
        macs,
        size,
        seconds,
        priced.joules(phase, work.client, seconds, size),
        used,
        name(kind, KINDS),
        work.forward if phase in ("train", "evaluate") else np.zeros(count, np.int64),
        np.full(count, moment.rung),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def reprice(table: pa.Table, devices: Devices, seed: int) -> pa.Table:
    """The rows [N] of a ledger with the seconds and joules that other phones and links would have spent on them."""
    stage, phase = (np.asarray(pc.cast(table[c], pa.string())) for c in ("stage", "phase"))
    numbers = {
        c: np.asarray(table[c]) for c in ("iteration", "round", "client", "examples", "forward", "macs", "bytes")
    }
    seconds, joules = np.zeros(len(stage)), np.zeros(len(stage))
    for moment in _moments(table):
        priced = pricing(devices, seed, moment)
        now = (stage == moment.stage) & (numbers["iteration"] == moment.iteration) & (numbers["round"] == moment.round)
        for name in PHASES:
            at = np.flatnonzero(now & (phase == name))
            of = [numbers[c][at] for c in ("client", "examples", "forward", "macs", "bytes")]
            seconds[at] = priced.seconds(name, *of)
            joules[at] = priced.joules(name, of[0], seconds[at], of[-1])
    for column, values in (("seconds", seconds), ("joules", joules)):
        table = table.set_column(SCHEMA.get_field_index(column), SCHEMA.field(column), pa.array(values))
    return table


def _moments(table: pa.Table) -> list[Moment]:
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
    for moment in _moments(table):
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


def write(tables: Sequence[pa.Table], path: Path) -> None:
    """Writes rows as one Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables]).unify_dictionaries(), unfinished)
    unfinished.replace(path)


def read(folder: Path) -> pa.Table:
    """All rows of a run's ledger, `folder`/*.parquet, in the order of the files' names."""
    return pa.concat_tables([SCHEMA.empty_table(), *(table for _, table in read_files(folder))]).unify_dictionaries()


def read_files(folder: Path) -> list[tuple[str, pa.Table]]:
    """Name and rows of each file of a run's ledger, in their order; columns that an older run lacks are null."""

    def whole(table: pa.Table) -> pa.Table:
        for field in SCHEMA:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table.select(SCHEMA.names).cast(SCHEMA)

    return [(path.name, whole(pq.read_table(path))) for path in sorted(folder.glob("*.parquet"))]


def client_cost(ledger: pa.Table, clients: int) -> dict[str, dict[str, dict[str, float]]]:
    """Client cost by stage, quantity and statistic; clients that did nothing count with zero.

    Args:
      ledger: rows.
      clients: C.

    Returns:
      [stage][quantity][statistic]: stages and 'all'; seconds, MACs, bytes and joules; mean, p50, p95 and max over
      clients, and the total of all clients.
    """
    return {
        stage: {name: _statistics(_by_client(rows, name, clients)) for name in QUANTITIES}
        for stage in (*STAGES, "all")
        for rows in [
            ledger if stage == "all" else ledger.filter(pc.equal(pc.cast(ledger["stage"], pa.string()), stage))
        ]
    }


def totals(ledger: pa.Table, *by: str) -> pa.Table:
    """Examples, MACs, bytes, seconds and joules for each combination of columns.

    Args:
      ledger: rows.
      *by: columns such as 'client', 'candidate', 'round', 'iteration', 'rung', 'phase', 'stage', 'used'; none: of all.

    Returns:
      A row for each combination that occurs, sorted; the columns of `by`, then the sums under their own names.
    """
    sums = ("examples", "macs", "bytes", "seconds", "joules")
    for column in {"stage", "phase", "work"} & set(by):
        plain = pc.cast(ledger[column], pa.string())
        ledger = ledger.set_column(ledger.column_names.index(column), column, plain)
    found = ledger.group_by(list(by)).aggregate([(name, "sum") for name in sums])
    found = found.rename_columns([name.removesuffix("_sum") for name in found.column_names]).select([*by, *sums])
    return found.sort_by([(name, "ascending") for name in by]) if by else found


def wasted(ledger: pa.Table) -> dict[str, dict[str, float]]:
    """[stage][quantity]: of the totals of `client_cost` what was spent in vain, by clients that left or were late."""
    lost = ledger.filter(pc.invert(ledger["used"]))
    clients = int(pc.max(ledger["client"]).as_py() or 0) + 1
    return {stage: {q: by["total"] for q, by in of.items()} for stage, of in client_cost(lost, clients).items()}


def search_seconds(ledger: pa.Table, iterations: int, clients: int) -> list[float]:
    """Mean seconds of a client in the search up to the end of each iteration, from 0, where nothing is spent yet."""
    search = np.asarray(pc.cast(ledger["stage"], pa.string())) == "search"
    iteration = np.asarray(ledger["iteration"])[search]
    each = np.bincount(iteration, np.asarray(ledger["seconds"])[search], iterations)
    return (np.cumsum(each) / clients).tolist()


def phase_seconds(ledger: pa.Table, stage: str) -> dict[str, float]:
    """Seconds of all clients in a stage, by phase."""
    stages, phases = (np.asarray(pc.cast(ledger[c], pa.string())) for c in ("stage", "phase"))
    seconds = np.asarray(ledger["seconds"])
    return {phase: float(seconds[(stages == stage) & (phases == phase)].sum()) for phase in PHASES}


def _by_client(rows: pa.Table, quantity: str, clients: int) -> np.ndarray:
    if quantity in ("bytes_up", "bytes_down"):
        phase = "upload" if quantity == "bytes_up" else "download"
        rows, quantity = rows.filter(pc.equal(pc.cast(rows["phase"], pa.string()), phase)), "bytes"
    # Whole numbers stay exact: float64 holds them up to 2^53.
    return np.bincount(np.asarray(rows["client"]), np.asarray(rows[quantity], np.float64), clients)


def _statistics(values: np.ndarray) -> dict[str, Any]:
    return {
        "mean": float(values.mean()),
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
        "max": float(values.max()),
        "total": float(values.sum()),
    }
