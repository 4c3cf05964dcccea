"""This process as the one worker: for several hosts, which all run the same trial together, and for debuggers.

A trial that kills the process ends the sweep, which goes on when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable

from fednas_jax.runtime.shelf import keep_between_runs
from fednas_jax.sweep.attempts import attempted
from fednas_jax.sweep.scheduling import Job, Outcome


class Here:
    """A pool of `scheduling` with one worker: `wait` runs the job that `begin` gave.

    Args:
      should_stop: asked after every round.
    """

    def __init__(self, should_stop: Callable[[], bool]):
        self.number, self._should_stop = 1, should_stop
        self._job: Job | None = None
        keep_between_runs()

    def begin(self, worker: int, job: Job) -> None:
        """Takes a job."""
        self._job = job

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Runs it."""
        assert self._job is not None
        job, self._job = self._job, None
        return [(0, attempted(job.config(), job.path, self._should_stop, job.drop))]

    def stop(self) -> None:
        """Nothing runs between two trials, and a running one asks by itself."""

    def close(self) -> None:
        """Nothing is left."""
