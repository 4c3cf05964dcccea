"""This process as the one worker: for several hosts, which all run the same trial together, and for debuggers.

A trial that kills the process ends the sweep, which goes on when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fednas_jax.runtime.shelf import keep_between_runs
from fednas_jax.sweep.packs import Packed, run_trials
from fednas_jax.sweep.scheduling import Outcome, Pack


class Here:
    """A pool of `scheduling` with one worker: `wait` runs what `begin` gave.

    Args:
      should_stop: asked after every round.
    """

    def __init__(self, should_stop: Callable[[], bool]):
        self.number, self._should_stop = 1, should_stop
        self._pack: Pack = ()
        keep_between_runs()

    def begin(self, worker: int, pack: Pack) -> None:
        """Takes trials."""
        self._pack = pack

    def wait(self, seconds: float) -> Iterator[tuple[int, Outcome]]:
        """Runs them; each is told as it ends."""
        trials = [Packed(job.name, job.path, job.config(), job.drop) for job in self._pack]
        for outcome in run_trials(trials, self._should_stop):
            yield 0, outcome

    def stop(self) -> None:
        """Nothing runs between two trials, and a running one asks by itself."""

    def close(self) -> None:
        """What was kept from trial to trial is let go of: this process goes on after the sweep."""
        keep_between_runs(False)
