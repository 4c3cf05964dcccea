"""The ledger: what every client spent on every candidate in every round, and what that costs on a phone.

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

from fednas_jax.config import CostConfig

# Forward, gradient to the inputs, gradient to the weights: FedScale charges the same factor.
TRAINING_MACS = 3
STAGES = ("pretrain", "search", "finetune")
PHASES = ("download", "train", "evaluate", "upload")
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
        ("used", pa.bool_()),
    ]
)


class Pricing(NamedTuple):
    """A phone and its link, the same for every client."""

    seconds_per_mac: float
    down_bytes_per_second: float
    up_bytes_per_second: float
    watts: float  # while computing
    joules_per_byte: float

    def seconds(self, phase: str, macs: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Seconds of one phase: its MACs on the phone, its bytes over the link in that phase's direction."""
        rate = self.up_bytes_per_second if phase == "upload" else self.down_bytes_per_second
        return macs * self.seconds_per_mac + size / rate

    def joules(self, macs: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Energy: the phone's power while it computes, and the bytes it moves."""
        return macs * self.seconds_per_mac * self.watts + size * self.joules_per_byte


def paper_pricing(config: CostConfig, parent_macs: int) -> Pricing:
    """The paper's model [FedNAS, section 5]: training one example of the parent takes 0.1 s, others in proportion.

    A megabit is 10^6 bits, a byte is 8 bits.
    """
    return Pricing(
        seconds_per_mac=config.seconds_per_example / (TRAINING_MACS * parent_macs),
        down_bytes_per_second=config.down_mbit_per_second * 1e6 / 8,
        up_bytes_per_second=config.up_mbit_per_second * 1e6 / 8,
        watts=config.watts,
        joules_per_byte=config.joules_per_megabyte / 1e6,
    )


class Moment(NamedTuple):
    """When something was spent."""

    stage: str
    iteration: int
    round: int


class Work(NamedTuple):
    """T tasks: who worked on what, and how much there was of it."""

    candidate: np.ndarray  # [T] the candidate's number
    client: np.ndarray  # [T]
    examples: np.ndarray  # [T] examples trained on, or validation examples evaluated
    macs: np.ndarray  # [T] of the candidate's forward pass on one example
    size: np.ndarray  # [T] bytes of the candidate's parameters and statistics


def training(pricing: Pricing, moment: Moment, work: Work) -> pa.Table:
    """The rows of training tasks: download the candidate, train it, upload it."""
    macs = TRAINING_MACS * work.macs * work.examples
    return pa.concat_tables(
        [
            _rows(pricing, moment, "download", work, size=work.size),
            _rows(pricing, moment, "train", work, macs=macs),
            _rows(pricing, moment, "upload", work, size=work.size),
        ]
    )


def scoring(pricing: Pricing, moment: Moment, work: Work) -> pa.Table:
    """The rows of scoring tasks: download the averaged candidate, evaluate it. The few bytes of a count are free."""
    return pa.concat_tables(
        [
            _rows(pricing, moment, "download", work, size=work.size),
            _rows(pricing, moment, "evaluate", work, macs=work.macs * work.examples),
        ]
    )


def _rows(
    pricing: Pricing,
    moment: Moment,
    phase: str,
    work: Work,
    macs: np.ndarray | None = None,
    size: np.ndarray | None = None,
) -> pa.Table:
    """One phase of the tasks; it either computes (MACs, on examples) or moves bytes."""
    count = len(work.client)
    nothing = np.zeros(count, np.int64)
    examples = nothing if macs is None else work.examples
    macs, size = nothing if macs is None else macs, nothing if size is None else size

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
        pricing.seconds(phase, macs, size),
        pricing.joules(macs, size),
        np.full(count, True),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write(tables: Sequence[pa.Table], path: Path) -> None:
    """Writes rows as one Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    pq.write_table(pa.concat_tables([SCHEMA.empty_table(), *tables]).unify_dictionaries(), unfinished)
    unfinished.replace(path)


def read(folder: Path) -> pa.Table:
    """All rows of a run's ledger, `folder`/*.parquet, in the order of the files' names."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables([SCHEMA.empty_table(), *(t.cast(SCHEMA) for t in tables)]).unify_dictionaries()


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
