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


Pack = tuple[Job, ...]


class Outcome(NamedTuple):
    """What became of it."""

    kind: Literal["finished", "failed", "dropped", "stopped", "lost"]  # lost: the worker died
    error: str = ""
    traceback: str = ""  # of a bug
    wall_seconds: float = 0.0
    memory_bytes: int = 0  # that the worker took at most so far
    began_seconds: float = 0.0  # of them, until the run began to train
    trial: str = ""  # of a pack; '': all that its worker has


class Pool(Protocol):
    """Workers, each of which runs one pack of trials at a time, mostly of one."""

    number: int

    def begin(self, worker: int, pack: Pack) -> None:
        """Gives trials to a worker that has none; one that died is replaced."""

    def wait(self, seconds: float) -> Iterable[tuple[int, Outcome]]:
        """Workers whose trials ended, and what became of them, as they end; none where nothing ended for so long."""

    def stop(self) -> None:
        """Asks all to save and stop."""

    def close(self) -> None:
        """Ends all, whatever they do."""


def run_all(
    packs: Iterable[Pack],
    pool: Pool,
    ended: Callable[[Job, Outcome], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Runs all packs of jobs, each by the next free worker. Where a worker dies, its pack goes on in two halves.

    Args:
      packs: in their order; taken when a worker is free.
      pool: the workers.
      ended: is told of every job that ended; of one whose worker died, when it is given up.
      should_stop: asked all the time; True lets running trials save, and begins no other.

    Returns:
      Whether it was stopped.
    """
    left, again = iter(packs), deque[Pack]()
    lost: Counter[str] = Counter()
    busy: dict[int, dict[str, Job]] = {}  # worker -> what it has not ended yet
    stopped = False
    while True:
        if not stopped and should_stop():
            stopped = True
            pool.stop()
        for worker in range(0 if stopped else pool.number):
            if worker not in busy and (pack := next(left, None) or (again.popleft() if again else None)):
                busy[worker] = {job.name: job for job in pack}
                pool.begin(worker, pack)
        if not busy:
            return stopped
        for worker, outcome in pool.wait(WAIT_SECONDS):
            if worker not in busy:  # it died with nothing to do
                continue
            names = [outcome.trial] if outcome.trial else list(busy[worker])
            jobs = tuple(busy[worker].pop(name) for name in names)
            if not busy[worker]:
                del busy[worker]
            if outcome.kind == "lost" and len(jobs) > 1:
                again.extend((jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]))
            elif outcome.kind == "lost" and lost[jobs[0].name] < MOST_LOST:
                lost[jobs[0].name] += 1
                again.append(jobs)
            else:
                for job in jobs:
                    ended(job, outcome)
