"""Sums and statistics of a ledger: by client, stage, phase and iteration."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fednas_jax.phones.ledger import (
    PHASES,
    STAGES,
)

QUANTITIES = ("seconds", "macs", "bytes_up", "bytes_down", "joules")


class Summary(NamedTuple):
    """What a result says of a ledger and the simulated clock."""

    client_cost: dict[str, dict[str, dict[str, float]]]  # see `client_cost`
    wasted: dict[str, dict[str, float]]  # see `wasted`
    phases: dict[str, dict[str, float]]  # [stage][phase]: seconds of all clients
    simulated_hours: dict[str, float]  # [stage], and 'all'
    client_seconds: list[float]  # [iterations] mean of a client in the search up to the end of each, from 0
    hours: list[float]  # [iterations] simulated, of the search up to the end of each, from 0


class Clock(NamedTuple):
    """Simulated hours, added up round by round."""

    stages: tuple[float, ...] = (0.0,) * len(STAGES)  # by stage
    iterations: tuple[float, ...] = (0.0,)  # of the search, by iteration from 0

    def after(self, stage: str, iteration: int, seconds: float) -> Clock:
        """The clock after something that took simulated seconds."""
        stages, each = list(self.stages), list(self.iterations)
        stages[STAGES.index(stage)] += seconds / 3600
        if stage == "search":
            each += [0.0] * (iteration + 1 - len(each))
            each[iteration] += seconds / 3600
        return Clock(tuple(stages), tuple(each))


def summary(ledger: pa.Table, clients: int, iterations: int, clock: Clock) -> Summary:
    """Sums a run up, as it went or priced again.

    Args:
      ledger: rows.
      clients: C.
      iterations: of the search, and one for the parent.
      clock: simulated hours.
    """
    stages, each = dict(zip(STAGES, clock.stages, strict=True)), np.zeros(iterations)
    each[: len(clock.iterations)] = clock.iterations
    return Summary(
        client_cost(ledger, clients),
        wasted(ledger),
        {stage: phase_seconds(ledger, stage) for stage in STAGES},
        stages | {"all": sum(stages.values())},
        search_seconds(ledger, iterations, clients),
        np.cumsum(each).tolist(),
    )


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


def sums_by(ledger: pa.Table, *by: str) -> pa.Table:
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
    # Threads would add up in another order each time.
    found = ledger.group_by(list(by), use_threads=False).aggregate([(name, "sum") for name in sums])
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
