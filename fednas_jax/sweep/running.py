"""A whole sweep: plan the trials, run those that are not finished, and keep the table up to date."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fednas_jax.config.bounds import shown
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, FednasError, Interrupted
from fednas_jax.files import make_folder
from fednas_jax.run.lock import Lock
from fednas_jax.runtime import hosts
from fednas_jax.sweep import dropping, packing
from fednas_jax.sweep.designs import Trial
from fednas_jax.sweep.folder import SweepDir
from fednas_jax.sweep.packing import PackSize
from fednas_jax.sweep.planning import Plan, Planned, plan
from fednas_jax.sweep.scheduling import Job, Outcome, Pool, run_all
from fednas_jax.sweep.table import Table, row_of

Engine = Literal["local", "ray"]


class Swept(NamedTuple):
    """What a sweep has come to."""

    path: Path
    finished: int  # trials
    failed: int
    dropped: int = 0  # early


def run_sweep(
    trials: Iterable[Trial],
    out: Path | str,
    base: Config | str | None = None,
    workers: int = 1,
    engine: Engine = "local",
    retry_failed: bool = False,
    replace: bool = False,
    part: tuple[int, int] = (0, 1),
    drop: str | None = None,
    pack: PackSize = "off",
    continue_dropped: bool = False,
    observe: Callable[[dict[str, Any]], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Swept:
    """Runs trials, or goes on with a sweep: finished trials are not run again, interrupted ones go on where they were.

    Trials run in processes of their own, which import what a config names as MODULE:FUNCTION, but know nothing that
    was registered in this one.

    Args:
      trials: each a dict of dotted config fields and values, as `grid`, `zipped`, `crossed`, `chained`, `sampled` and
        `sobol` make them.
      out: the sweep's folder. `out/trials.parquet` has a row for each trial, `out/trials/NAME` is its run.
      base: the config that the trials change, or a preset's name; None where each trial has a field `preset`.
      workers: trials that run at the same time, each with its share of the processor's cores and of the GPUs; 0: in
        this process, which several hosts need (`--hosts`).
      engine: 'local', processes of this machine; or 'ray', actors of a Ray cluster that sees the same folder.
      retry_failed: try trials again that failed.
      replace: begin trials anew whose configs have changed under the same name; their runs are put aside.
      part: (index, count): only every count-th trial from this index on, in a folder of its own.
      drop: an elimination policy, such as "halving(eta=3)", which drops trials early: a trial is a candidate, an
        iteration of its search a round (`dropping`). None: all run to their end.
      pack: trials that train in one program, with the same results: a number; 'auto', as many as memory takes; 'off',
        each by itself. Trials that differ in more than what a program takes as data are packed apart.
      continue_dropped: let trials go on that were dropped; they are not dropped again.
      observe: is called with {"event": "trial", "trial": name, "status": ..., "done": n, "of": n, ...} as trials end,
        and once before with {"event": "sweep", ...}.
      should_stop: asked all the time; True lets running trials save, and raises `Interrupted`.

    Returns:
      How many trials are finished, how many failed, whose errors are in the table, and how many were dropped early.

    Raises:
      FednasError: one line in the user's words: the trials or the folder cannot be used.
      Interrupted: `should_stop` said so; the same call goes on.
    """
    check_options(workers, engine, part, pack)
    folder = SweepDir(out)
    alone = workers == 0 and engine == "local"  # only then may jax be used in this process: it would take a GPU
    first: Callable[[Callable[[], Any]], Any] = hosts.from_first_host if alone else lambda work: work()
    with Lock(folder.path) as lock:

        def begin() -> tuple[Plan, dict[str, Any]]:
            return _begun(folder, lock, base, trials, part, replace, drop)

        planned, news = first(begin)
        table = Table(planned, folder.table)
        todo = first(lambda: _looked_at(folder, table, retry_failed, continue_dropped, drop is not None))
        done = len(planned.trials) - len(todo)
        first(lambda: observe({"event": "sweep", "trials": len(planned.trials), "done": done, **news}))
        by_name = {trial.name: trial for trial in planned.trials}

        def ended(job: Job, outcome: Outcome) -> None:
            nonlocal done
            done += outcome.kind != "stopped"
            row = first(lambda: _written(folder, planned, by_name[job.name], outcome))

            def tell() -> None:
                table.put(job.name, row)
                table.write()
                observe({"event": "trial", "trial": job.name, "done": done, "of": len(by_name), **row})

            first(tell)

        pool = _pool(workers, engine, folder, should_stop)
        try:
            packs = _packs(folder, planned, todo, drop or "", pack, workers)
            stopped = run_all(packs, pool, ended, _agreed(alone, should_stop))
        finally:
            pool.close()
            first(lambda: table.write(now=True))
        if stopped and done < len(by_name):
            raise Interrupted
        return Swept(folder.path, *first(lambda: tuple(map(table.count, ("finished", "failed", "dropped")))))


def plan_of(
    folder: SweepDir, base: Config | str | None, trials: Iterable[Trial], part: tuple[int, int], drop: str | None
) -> Plan:
    """The trials of a part of a sweep, with the names that its folder has for those it knows; as of `run_sweep`.

    Raises:
      FednasError: one line: the folder, the trials or the policy cannot be used.
    """
    folder.check()
    known = {entry["checksum"]: entry["name"] for entry in folder.entries()}
    planned = _part(plan(base, trials, known), part)
    if drop is not None:
        dropping.policy_named(drop, len(planned.trials), tried=False)
    return planned


def _part(planned: Plan, part: tuple[int, int]) -> Plan:
    """Every count-th trial from an index on; names and fields are those of the whole.

    Raises:
      ConfigError: there are none.
    """
    index, count = part
    trials = planned.trials[index::count]
    if not trials:
        raise ConfigError(f"part: got {index}/{count} of {len(planned.trials):,} trials, want a part that has some")
    return planned._replace(trials=trials)


def check_options(workers: int, engine: str, part: tuple[int, int], pack: PackSize) -> None:
    """Refuses what no sweep can be run with, whatever its trials; arguments as of `run_sweep`.

    Raises:
      ConfigError: one line.
    """
    packing.check(pack)
    if not isinstance(workers, int) or not 0 <= workers <= 10_000:
        raise ConfigError(f"workers: got {shown(workers)}, want 1 to 10000, or 0 for this process")
    if engine not in ("local", "ray"):
        raise ConfigError(f"engine: got {shown(engine)}, want local or ray")
    if engine == "ray" and workers == 0:
        raise ConfigError("workers: got 0 with engine ray, want at least 1")
    # Several hosts go through a trial in step; a pack would need them to take turns alike.
    if pack not in ("off", 1) and (engine == "ray" or (workers == 0 and hosts.number() > 1)):
        where = "engine ray" if engine == "ray" else "several hosts"
        raise ConfigError(f"pack: got {pack} with {where}, want off: packs train in processes of one machine")
    index, count = part
    if not 0 <= index < count:
        raise ConfigError(f"part: got {index}/{count}, want INDEX/COUNT with an index from 0 to below the count")


def _begun(
    folder: SweepDir,
    lock: Lock,
    base: Config | str | None,
    trials: Iterable[Trial],
    part: tuple[int, int],
    replace: bool,
    drop: str | None,
) -> tuple[Plan, dict[str, Any]]:
    """The plan, once it is in the folder, which is then held; and what of it is new or no longer there."""
    planned = plan_of(folder, base, trials, part, drop)
    make_folder(folder.path)
    lock.acquire()
    entries = folder.entries()
    new, left_out = folder.begin(planned, entries, replace)
    return planned, {"new": len(new) if entries else 0, "left_out": left_out}


def _looked_at(
    folder: SweepDir, table: Table, retry_failed: bool, continue_dropped: bool, compared: bool
) -> list[Planned]:
    """The trials that are to be run; the table says what the folder has of all.

    Args:
      folder: the sweep's.
      table: without rows yet.
      retry_failed: as of `run_sweep`.
      continue_dropped: likewise.
      compared: whether trials may be dropped early: then those that are finished count, too.
    """
    todo = []
    for trial in table.plan.trials:
        row = row_so_far(folder, table.plan, trial)
        if row is not None and is_open(row, retry_failed, continue_dropped):
            _reopen(folder, trial, row)
            row = None
        if row is None:
            row = {"status": "stopped" if folder.begun(trial.name) else "waiting"}
            todo.append(trial)
        elif compared and row["status"] == "finished":
            dropping.catch_up(folder.path, trial.name)
        table.put(trial.name, row)
    table.write(now=True)
    return todo


def is_open(row: dict[str, Any], retry_failed: bool, continue_dropped: bool) -> bool:
    """Whether a trial that has ended is to be tried again or gone on with; options as of `run_sweep`."""
    return {"failed": retry_failed, "dropped": continue_dropped}.get(row["status"], False)


def row_so_far(folder: SweepDir, planned: Plan, trial: Planned) -> dict[str, Any] | None:
    """The table's row of a trial that has ended, however it did; None where it has not."""
    row = _finished_row(folder, planned, trial) or _dropped_row(folder, trial)
    if row is None and (failure := folder.failure(trial)) is not None:
        return _failed(failure["error"], failure["wall_seconds"])
    return row


def _reopen(folder: SweepDir, trial: Planned, row: dict[str, Any]) -> None:
    """Makes a trial go on that was dropped or failed; where its result is damaged, it begins anew."""
    if row["status"] == "dropped":
        dropping.spare(folder.path, trial.name)
    elif folder.has_result(trial.name):
        folder.put_aside(trial.name)
    else:
        folder.forgive(trial.name)


def _finished_row(folder: SweepDir, planned: Plan, trial: Planned) -> dict[str, Any] | None:
    """The table's row of a trial that has a result, whole or damaged; None where it has none."""
    try:
        result = folder.result(planned, trial)
    except FednasError as error:
        return _failed(str(error), None)
    return None if result is None else row_of(result)


def _written(folder: SweepDir, planned: Plan, trial: Planned, outcome: Outcome) -> dict[str, Any]:
    """The table's row of a trial that ended; a failure is kept."""
    if outcome.kind == "stopped":
        return {"status": "stopped" if folder.begun(trial.name) else "waiting"}
    if outcome.kind in ("finished", "dropped"):
        row = _finished_row(folder, planned, trial) or _dropped_row(folder, trial)
        if row is not None:
            return row
        outcome = outcome._replace(error=f"{folder.trial(trial.name)}: has no result here, want a path all workers see")
    return _failed(folder.fail(trial, outcome.error, outcome.traceback, outcome.wall_seconds), outcome.wall_seconds)


def _dropped_row(folder: SweepDir, trial: Planned) -> dict[str, Any] | None:
    """The table's row of a trial that was dropped early; None where it was not."""
    found = dropping.reported(folder.path, trial.name)["dropped"]
    if found is None:
        return None
    return {
        "status": "dropped",
        "stop_reason": dropping.said(found),
        "iterations": found["iteration"],
        "wall_seconds": found.get("wall_seconds"),
    }


def _failed(error: str, wall_seconds: float | None) -> dict[str, Any]:
    return {"status": "failed", "error": error, "wall_seconds": wall_seconds}


def _packs(
    folder: SweepDir, planned: Plan, todo: Sequence[Planned], drop: str, size: PackSize, workers: int
) -> Iterator[tuple[Job, ...]]:
    for trials in packing.packed(todo, map(planned.config, todo), size, workers):
        yield tuple(
            Job(t.name, str(folder.trial(t.name).absolute()), functools.partial(_config, planned, t), drop)
            for t in trials
        )


def _config(planned: Plan, trial: Planned) -> dict[str, Any]:
    return to_json(planned.config(trial))


def _agreed(alone: bool, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    return (lambda: hosts.agree(should_stop())) if alone else should_stop


def _pool(workers: int, engine: Engine, folder: SweepDir, should_stop: Callable[[], bool]) -> Pool:
    """The workers. What they need is imported here: a sweep of processes uses no jax itself."""
    if engine == "ray":
        from fednas_jax.sweep.actors import Actors

        return Actors(workers)
    if workers == 0:
        from fednas_jax.sweep.here import Here

        return Here(should_stop)
    from fednas_jax.sweep.processes import Processes

    return Processes(workers, folder.workers)
