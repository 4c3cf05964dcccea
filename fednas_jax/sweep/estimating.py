"""What a sweep would take, from one short measurement: a round of each stage of one trial, twice.

The unit of work is a pass: every client trains one candidate on all its examples once. A trial's passes follow from its
config; time and client cost are taken to be in proportion to them. Networks that shrink, clients that are away, and
programs that are compiled for other shapes are not looked at: it is an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from fednas_jax.config import needs
from fednas_jax.config.files import override, to_json
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.files import temporary_folder
from fednas_jax.run.folder import RunDir
from fednas_jax.search import brackets, policies
from fednas_jax.sweep import packing
from fednas_jax.sweep.designs import Trial
from fednas_jax.sweep.folder import SweepDir
from fednas_jax.sweep.packing import PackSize
from fednas_jax.sweep.planning import Plan, Planned
from fednas_jax.sweep.processes import Processes
from fednas_jax.sweep.running import Engine, check_options, is_open, plan_of, row_so_far
from fednas_jax.sweep.scheduling import Job, Outcome

STAGES = ("pretrain", "search", "finetune")
OPEN = ("stopped", "waiting")  # trials that are to be run


class Measured(NamedTuple):
    """What the measurement found."""

    trial: str
    first_seconds: float  # of wall time that the first run took longer than the next: it compiles
    begin_seconds: float  # until a run trains, in a worker that is warm
    pass_seconds: float  # of wall time
    client_seconds: dict[str, float]  # stage -> simulated seconds of all clients in a pass
    clients: int
    candidates: int  # in an iteration
    progress: float  # of the way to the budget in one iteration
    memory_bytes: int  # of a worker
    pack_bytes: int  # that a trial takes beside others in one program, of a device


class Estimate(NamedTuple):
    """What a trial would take."""

    name: str
    status: str  # as in the sweep's table
    wall_seconds: float
    client_seconds: float  # of an average client, simulated


class Estimates(NamedTuple):
    """What a sweep would take."""

    trials: list[Estimate]
    measured: Measured
    packs: tuple[tuple[str, ...], ...]  # names of the trials that train in one program, as far as memory goes


def estimated(
    trials: Iterable[Trial],
    out: Path,
    base: Config | str | None = None,
    part: tuple[int, int] = (0, 1),
    pack: PackSize = "off",
    workers: int = 1,
    engine: Engine = "local",
    drop: str | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    continue_dropped: bool = False,
) -> Estimates:
    """Measures one trial that is not finished, in a temporary folder, and estimates all; nothing is written in `out`.

    Args:
      trials: as of `run_sweep`.
      out: the sweep's folder, which need not be.
      base: as of `run_sweep`.
      part: likewise.
      pack: likewise.
      workers: likewise.
      engine: likewise; the measurement runs in a process of this machine.
      drop: likewise, which is not estimated: all trials are taken to run to their end.
      retry_failed: likewise.
      replace: likewise.
      continue_dropped: likewise.

    Raises:
      FednasError: as `run_sweep`, or the measured trial fails.
    """
    check_options(workers, engine, part, pack)
    folder = SweepDir(out)
    planned = plan_of(folder, base, trials, part, drop)
    anew, status = folder.changed(planned, folder.entries(), replace), {}
    for trial in planned.trials:
        row = None if trial.name in anew else row_so_far(folder, planned, trial)
        if row is None or is_open(row, retry_failed, continue_dropped):
            status[trial.name] = "stopped" if folder.begun(trial.name) and trial.name not in anew else "waiting"
        else:
            status[trial.name] = row["status"]
    open_ones = [trial for trial in planned.trials if status[trial.name] in OPEN]
    found = measured(planned, (open_ones or list(planned.trials))[0])
    each = [_estimate(planned.config(t), t.name, status[t.name], found) for t in planned.trials]
    packs = packing.packed([t.name for t in open_ones], map(planned.config, open_ones), pack, workers)
    return Estimates(each, found, tuple(packs))


def measured(planned: Plan, trial: Planned) -> Measured:
    """Runs a round of each stage of a trial, twice, so that the second run finds everything compiled.

    Raises:
      RunError: it failed.
    """
    config = short(planned.config(trial))
    with temporary_folder("fednas-estimate-") as temporary:
        pool = Processes(1, temporary / "workers")
        try:
            cold, warm = (_run(pool, config, temporary / name) for name in ("first", "second"))
        finally:
            pool.close()
        run = RunDir(temporary / "second")
        result = run.result()
        assert result is not None
        events = list(run.events())
    candidates = max([len(event["candidates"]) for event in events if event["event"] == "iteration"], default=1)
    progress = max([event["progress"] for event in events if event["event"] == "select"], default=1.0)
    clients = result["clients"]
    work = passes(config, max(clients, config.data.clients), candidates, iterations=1)
    cost = {stage: result["client_cost"][stage]["seconds"]["total"] for stage in STAGES}
    return Measured(
        trial.name,
        max(0.0, cold.wall_seconds - warm.wall_seconds),
        warm.began_seconds,
        (warm.wall_seconds - warm.began_seconds) / max(sum(work.values()), 1e-9),
        {stage: cost[stage] / work[stage] if work[stage] else 0.0 for stage in STAGES},
        max(clients, config.data.clients),
        candidates,
        progress,
        warm.memory_bytes,
        _pack_bytes(result, candidates),
    )


def short(config: Config) -> Config:
    """The config of a run of a round of each stage."""
    changes = {
        "pretrain.rounds": min(1, config.pretrain.rounds),
        "search.max_iterations": 1,
        "search.policy": "rungs",
        "search.rungs": ((1, 1),),
        "search.growth": 0.0,
        "search.settle_rounds": 1,
        "finetune.rounds": min(1, config.finetune.rounds),
        "finetune.members": (),
        "finetune.shares": (),
    }
    return resolve(override(config, changes))


def passes(config: Config, clients: int, candidates: int, iterations: int) -> dict[str, float]:
    """Stage -> passes of a whole run.

    Args:
      config: resolved.
      clients: C.
      candidates: of an iteration.
      iterations: of the search.
    """
    search = config.search

    def share(of_round: int) -> float:
        return min(1.0, of_round / clients) if of_round else 1.0

    group = 1 / search.groups
    cohort = min(group, search.clients_per_group / clients) if search.clients_per_group else group
    if config.command == "pretrain":
        iterations = 0
    rounds = sum(_candidate_rounds(config, iteration, candidates) for iteration in range(1, iterations + 1))
    members = len(config.finetune.members) or len(config.finetune.shares) or iterations + 1
    members = 0 if config.command == "pretrain" else members
    found = {
        "pretrain": config.pretrain.rounds * share(config.pretrain.clients_per_round),
        "search": rounds * (cohort if search.partial else 1.0),
        "finetune": config.finetune.rounds * share(config.finetune.clients_per_round) * members,
    }
    return {stage: number * config.train.local_epochs for stage, number in found.items()}


def iterations_of(config: Config, progress: float) -> int:
    """Iterations until the budget is reached, each of which just reaches its target.

    Args:
      config: resolved.
      progress: of the way to the budget in one iteration, for a budget that is no share.
    """
    search = config.search
    if search.budget_absolute is not None:
        wanted = math.ceil(1 / max(progress, 1e-6) - 1e-9)
    else:
        budget = min(search.budget) if isinstance(search.budget, tuple) else search.budget
        removed = np.cumsum(search.reduction * search.decay ** np.arange(search.max_iterations))
        wanted = int(np.searchsorted(removed, 1 - budget - 1e-9)) + 1
    return max(1, min(wanted, search.max_iterations))


def print_estimates(console: Console, estimates: Estimates) -> None:
    """Shows the trials with what each would take, and the sum of those that are not finished."""
    table = Table(box=None, header_style="bold")
    for name in ("trial", "status", "about", "a client, simulated"):
        table.add_column(name, justify="left" if name in ("trial", "status") else "right")
    for one in estimates.trials:
        table.add_row(one.name, one.status, spelled(one.wall_seconds), spelled(one.client_seconds))
    console.print(table)
    found, left = estimates.measured, [one for one in estimates.trials if one.status in OPEN]
    total = sum(one.wall_seconds for one in left) + (found.first_seconds if left else 0)
    console.print(
        f"{len(left):,} of {len(estimates.trials):,} trials are to be run: about {spelled(total)} with one worker, of "
        f"which {spelled(found.first_seconds)} compile; {found.memory_bytes / 1e6:,.0f} MB of memory for each worker",
        soft_wrap=True,
        highlight=False,
    )
    if any(len(some) > 1 for some in estimates.packs):
        sizes = ", ".join(f"{len(some):,}" for some in estimates.packs[:10])
        sizes += " …" if len(estimates.packs) > 10 else ""
        most = max(map(len, estimates.packs)) * found.pack_bytes
        said = f"{len(estimates.packs):,} packs of {sizes} trials; the largest takes {most / 1e6:,.1f} MB of a device"
        console.print(f"{said}, or is done in parts where that is not there", soft_wrap=True, highlight=False)
    console.print(f"estimated from a round of each stage of {found.trial}, measured twice", soft_wrap=True)


def spelled(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def _pack_bytes(result: Mapping[str, Any], candidates: int) -> int:
    """What a trial takes in a pack, by a result: weights, features, token ids and labels of 4 bytes, pixels of one."""
    data, about = 0, result.get("data")
    if about is not None:
        examples = about["train_examples"] + about["validation_examples"]
        labels = about["image"][0] if about.get("positions") else 1
        data = examples * (math.prod(about["image"]) * (4 if "tokens" in about else 1) + 4 * labels)
    return needs.pack_bytes(4 * result["parent"]["params"], candidates, data)


def _estimate(config: Config, name: str, status: str, found: Measured) -> Estimate:
    clients = config.data.clients or found.clients
    work = passes(config, clients, _candidates(config, found), iterations_of(config, found.progress))
    wall = found.begin_seconds + found.pass_seconds * sum(work.values())
    spent = sum(work[stage] * found.client_seconds[stage] for stage in STAGES)
    return Estimate(name, status, wall, spent / (1 if config.search.centralised else clients))


def _candidates(config: Config, found: Measured) -> int:
    return {"random": config.search.random_candidates, "uniform": 1}.get(
        config.search.proposals or "", found.candidates
    )


def _candidate_rounds(config: Config, iteration: int, candidates: int) -> float:
    """Rounds of an iteration, each times the candidates that are alive in it; at most of policies of other forms."""
    table = policies.policy_of(config.search).table(iteration, candidates)
    if not isinstance(table, brackets.Table):
        return config.search.settle_rounds * candidates
    alive = np.concatenate([table.size[:, None], table.keep[:, :-1]], axis=1)
    return float((alive * table.rounds).sum())


def _run(pool: Processes, config: Config, path: Path) -> Outcome:
    values: Mapping[str, Any] = to_json(config)
    pool.begin(0, (Job(path.name, str(path), lambda: dict(values)),))
    ended: list[tuple[int, Outcome]] = []
    while not ended:
        ended = pool.wait(1.0)
    (_, outcome) = ended[0]
    if outcome.kind != "finished":
        raise RunError(f"the measured trial failed: {outcome.error}")
    return outcome
