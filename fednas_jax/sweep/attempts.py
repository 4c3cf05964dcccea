"""One trial, run in whatever process this is; whatever becomes of it is a record, so that the others go on."""

from __future__ import annotations

import gc
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fednas_jax.config.files import from_json
from fednas_jax.engine.fleet import Fleet
from fednas_jax.errors import FednasError, Interrupted, RunError
from fednas_jax.registry import said_of
from fednas_jax.run.lock import Lock
from fednas_jax.run.loop import Machine, run_on
from fednas_jax.runtime import hosts
from fednas_jax.sweep.dropping import Watch
from fednas_jax.sweep.scheduling import Outcome

FREE_SECONDS = 30.0  # how long a run is waited for that a worker of a killed sweep still holds


def attempted(
    config: dict[str, Any],
    path: str,
    should_stop: Callable[[], bool],
    drop: str = "",
    machine: Machine | None = None,
) -> Outcome:
    """Runs a trial, or goes on with it.

    Args:
      config: resolved, as JSON values.
      path: of its run.
      should_stop: asked after every round.
      drop: the policy that may drop it early; '': none.
      machine: what it works on, where others share it.

    Raises:
      Exception: what is no user's error, where several hosts work together: one cannot go on without the others.
    """
    began = time.perf_counter()
    worked = (lambda: time.perf_counter() - began) if machine is None else machine.worked
    first: list[float] = []
    watch: Watch | None = None

    def observe(event: dict[str, Any]) -> None:
        if not first:
            first.append(worked())
        if watch is not None:
            watch.heard(event)

    def stops() -> bool:
        return should_stop() or (watch is not None and watch.dropped)

    def outcome(kind: Any, error: str = "", trace: str = "") -> Outcome:
        seconds = worked()
        return Outcome(kind, error, trace, seconds, _most_memory(), first[0] if first else seconds)

    try:
        hosts.from_first_host(lambda: _wait_until_free(Path(path)))
        if drop and hosts.first():
            watch = Watch(Path(path), drop, worked)
        run_on(machine or Machine(Fleet, worked), from_json(config), Path(path), observe, stops)
        return outcome("finished")
    except Interrupted:
        dropped = hosts.from_first_host(lambda: watch is not None and watch.dropped)
        return outcome("dropped" if dropped else "stopped")
    except FednasError as error:
        return outcome("failed", " ".join(str(error).split()))
    except Exception as error:  # a bug, or what a machine ran out of
        if hosts.number() > 1:  # the others may be in the midst of the trial: they end with this one
            raise
        return outcome("failed", said_of(error, None), "".join(traceback.format_exception(error)))
    finally:
        gc.collect()  # the run's arrays, before the next one needs the memory


def _wait_until_free(path: Path) -> None:
    """Waits for a process that is about to end: a killed sweep's workers end soon after it."""
    until = time.monotonic() + FREE_SECONDS
    while path.is_dir():
        try:
            with Lock(path) as lock:
                lock.acquire()
            return
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _most_memory() -> int:
    """Bytes of memory that this process has taken at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
