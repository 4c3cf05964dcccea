"""Which worker takes which trial, whatever workers are: processes here, actors of Ray, or this process itself."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, Protocol

MOST_LOST = 2  # times that a trial whose worker died goes back to the queue
WAIT_SECONDS = 0.2  # after which it is asked again whether to stop


class Job(NamedTuple):
    """A trial to be run."""

    name: str
    path: str  # of its run
    config: Callable[[], dict[str, Any]]  # its resolved config as JSON values, made when it is needed
    drop: str = ""  # the policy that may drop it early; '': none


class Outcome(NamedTuple):
    """What became of it."""

    kind: Literal["finished", "failed", "dropped", "stopped", "lost"]  # lost: the worker died
    error: str = ""
    traceback: str = ""  # of a bug
    wall_seconds: float = 0.0
    memory_bytes: int = 0  # that the worker took at most so far
    began_seconds: float = 0.0  # of them, until the run began to train


class Pool(Protocol):
    """Workers, each of which runs one trial at a time."""

    number: int

    def begin(self, worker: int, job: Job) -> None:
        """Gives a job to a worker that has none; one that died is replaced."""

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Workers whose trials ended, and what became of them; none where nothing ended for so long."""

    def stop(self) -> None:
        """Asks all to save and stop."""

    def close(self) -> None:
        """Ends all, whatever they do."""


def run_all(
    jobs: Iterable[Job],
    pool: Pool,
    ended: Callable[[Job, Outcome], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs all jobs, each by the next free worker.

    Args:
      jobs: in their order; taken when a worker is free.
      pool: the workers.
      ended: is told of every job that ended; of one whose worker died, when it is given up.
      should_stop: asked all the time; True lets running trials save, and begins no other.

    Returns:
      Whether it was stopped.
    """
    left, again = iter(jobs), deque[Job]()
    lost: Counter[str] = Counter()
    busy: dict[int, Job] = {}
    stopped = False
    while True:
        if not stopped and should_stop():
            stopped = True
            pool.stop()
        for worker in range(0 if stopped else pool.number):
            if worker not in busy and (job := next(left, None) or (again.popleft() if again else None)):
                busy[worker] = job
                pool.begin(worker, job)
        if not busy:
            return stopped
        for worker, outcome in pool.wait(WAIT_SECONDS):
            job = busy.pop(worker)
            if outcome.kind == "lost" and lost[job.name] < MOST_LOST:
                lost[job.name] += 1
                again.append(job)
            else:
                ended(job, outcome)
