"""Workers as actors of a Ray cluster, an extra: pip install 'fednas-jax[ray]'.

Ray finds them a place with a processor, and a GPU where the cluster has any; every machine has to see the sweep's
folder under the same path. Where a machine is lost, its trial goes back to the queue.
"""

from __future__ import annotations

import threading
from typing import Any

from fednas_jax.errors import ConfigError, RunError
from fednas_jax.sweep.scheduling import Outcome, Pack

STOP_SECONDS = 10.0  # in which an actor hears that it is to stop

try:
    import ray
except ImportError:  # an extra
    ray = None


class _Actor:
    """What runs in a process of Ray's: as `worker.main`, keeps jax and compiled programs from trial to trial."""

    def __init__(self) -> None:
        from fednas_jax.runtime import cache, cores
        from fednas_jax.runtime.shelf import keep_between_runs

        cores.use_all_cores()
        cache.keep_compiled_programs()
        keep_between_runs()
        self._stop = threading.Event()

    def run(self, config: dict[str, Any], path: str, drop: str) -> list[Any]:
        """Runs a trial; returns the fields of its Outcome."""
        from fednas_jax.sweep.attempts import attempted

        return list(attempted(config, path, self._stop.is_set, drop))

    def stop(self) -> None:
        """Lets a running trial save and stop, while `run` is at work."""
        self._stop.set()


class Actors:
    """A pool of `scheduling`.

    Args:
      number: of workers. A cluster that has no room for all runs as many as it has room for.

    Raises:
      ConfigError: Ray is not installed.
      RunError: there is no cluster to be found, and none can be started here.
    """

    def __init__(self, number: int):
        if ray is None:
            raise ConfigError("engine: got ray, which is not installed, want pip install 'fednas-jax[ray]'")
        self.number = number
        if not ray.is_initialized():
            try:
                ray.init(log_to_driver=False)  # RAY_ADDRESS names a cluster; else one is started here
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise RunError(f"ray: {' '.join(str(error).split())[:300]}") from None
        resources = ray.cluster_resources()
        # Two calls at once: `stop` is heard while `run` works.
        self._kind: Any = ray.remote(_Actor).options(
            num_cpus=1, num_gpus=1 if resources.get("GPU", 0) else 0, max_concurrency=2, max_restarts=0
        )
        self._actors: dict[int, Any] = {}
        self._running: dict[Any, int] = {}  # what Ray promised -> the worker

    def begin(self, worker: int, pack: Pack) -> None:
        """Gives a trial to a worker that has none; one that was lost is replaced."""
        (job,) = pack
        if worker not in self._actors:
            self._actors[worker] = self._kind.remote()
        self._running[self._actors[worker].run.remote(job.config(), job.path, job.drop)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Workers whose trials ended, and what became of them."""
        ready, _ = ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [self._ended(promise) for promise in ready]

    def stop(self) -> None:
        """Asks all to save and stop; one that does not hear it, since the cluster has no place for it yet, is ended."""
        heard = {actor.stop.remote(): actor for actor in self._actors.values()}
        _, left = ray.wait(list(heard), num_returns=len(heard), timeout=STOP_SECONDS) if heard else ([], [])
        for promise in left:
            ray.kill(heard[promise])

    def close(self) -> None:
        """Ends all actors; the cluster stays."""
        for actor in self._actors.values():
            ray.kill(actor)
        self._actors.clear()

    def _ended(self, promise: Any) -> tuple[int, Outcome]:
        worker = self._running.pop(promise)
        try:
            return worker, Outcome(*ray.get(promise))
        except ray.exceptions.RayError as error:
            self._actors.pop(worker)
            first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            return worker, Outcome("lost", f"its worker was lost: {first}")
