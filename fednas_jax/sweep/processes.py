"""Workers as processes of this machine, each with its share of the processor's cores and of the GPUs."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import RunError
from fednas_jax.run.session import saving
from fednas_jax.sweep.scheduling import Outcome, Pack

END_SECONDS = 5.0  # that a worker has to end by itself
_BLOCK = 1 << 16


class _Worker:
    """A process, our end of its socket, and what it said that is no whole line yet."""

    def __init__(self, process: subprocess.Popen[bytes], connection: socket.socket):
        self.process, self.connection = process, connection
        self.said = b""
        self.ready = False


class Share(NamedTuple):
    """What of the machine a worker has."""

    cores: tuple[int, ...]  # none: all
    environment: dict[str, str]


class Processes:
    """A pool of `scheduling`: processes that are started when they are first needed.

    Args:
      number: of workers.
      logs: folder for what they print.
    """

    def __init__(self, number: int, logs: Path):
        self.number, self._logs = number, logs
        self._workers: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()
        self._shares = shares(number, _cores(), _gpus(), os.environ)

    def begin(self, worker: int, pack: Pack) -> None:
        """Gives trials to a worker that has none; starts it where it isn't there."""
        if worker not in self._workers:
            self._start(worker)
        self._tell(worker, {"trials": [[job.name, job.path, job.config(), job.drop] for job in pack]})

    def wait(self, seconds: float) -> list[tuple[int, Outcome]]:
        """Workers whose trials ended, and what became of them.

        Raises:
          RunError: a worker cannot be started; the message has its last words.
        """
        ended: list[tuple[int, Outcome]] = []
        for key, _ in self._selector.select(seconds):
            number: int = key.data
            worker = self._workers[number]
            try:
                block = worker.connection.recv(_BLOCK)
            except OSError:
                block = b""
            *lines, worker.said = (worker.said + block).split(b"\n")
            for line in lines:
                said = json.loads(line)
                worker.ready = True
                if "outcome" in said:
                    ended.append((number, Outcome(*said["outcome"])))
            if not block:
                ended.append((number, self._lost(number)))
        return ended

    def stop(self) -> None:
        """Asks all to save and stop."""
        for number in self._workers:
            self._tell(number, {"stop": True})

    def close(self) -> None:
        """Ends all: those that work lose a round at most."""
        for worker in self._workers.values():
            worker.connection.close()
        until = time.monotonic() + END_SECONDS
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()
        self._selector.close()

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        share = self._shares[number]
        # The very package that this process has, wherever it was started.
        home = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        environment = os.environ | share.environment | {"PYTHONPATH": path}
        cores = ",".join(map(str, share.cores))
        command = [sys.executable, "-m", "fednas_jax.sweep.worker", str(theirs.fileno()), cores]
        with theirs, saving(self._log(number)):
            self._logs.mkdir(exist_ok=True)
            with self._log(number).open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a terminal's Ctrl-C is for the sweep alone
                )
        self._workers[number] = _Worker(process, ours)
        self._selector.register(ours, selectors.EVENT_READ, number)

    def _tell(self, number: int, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it died: `wait` finds out
            self._workers[number].connection.sendall(json.dumps(said).encode() + b"\n")

    def _lost(self, number: int) -> Outcome:
        """Takes leave of a worker that died."""
        worker = self._workers.pop(number)
        self._selector.unregister(worker.connection)
        worker.connection.close()
        code = worker.process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if not worker.ready:
            raise RunError(f"workers: a worker cannot start, it {how}: {_last_words(self._log(number))}")
        hint = ", which the system does where memory is short" if -code == signal.SIGKILL else ""
        return Outcome("lost", f"its worker {how}{hint}: {_last_words(self._log(number))}")

    def _log(self, number: int) -> Path:
        return self._logs / f"{number + 1}.log"


def shares(number: int, cores: list[int], gpus: list[str], environment: Any) -> list[Share]:
    """What each worker has of the machine.

    Args:
      number: of workers.
      cores: that this process may use.
      gpus: as CUDA_VISIBLE_DEVICES names them.
      environment: of this process; a share of a GPU's memory that it names is kept.

    Returns:
      For each worker its cores and GPUs, nearly equal parts; where there are fewer than workers, several share one.
      One worker has all there is.
    """
    if number == 1:
        return [Share((), {})]
    found = []
    for worker in range(number):
        variables = {}
        if gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(_part(gpus, worker, number))
            together = -(-number // len(gpus))
            if together > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environment:
                variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / together:.3f}"
        found.append(Share(tuple(_part(cores, worker, number)), variables))
    return found


def _part(items: list[Any], worker: int, number: int) -> list[Any]:
    """A worker's part of the machine's cores or GPUs."""
    if len(items) < number:
        return [items[worker % len(items)]]
    return items[worker * len(items) // number : (worker + 1) * len(items) // number]


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(n) for n in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def _last_words(log: Path) -> str:
    """The last line that a worker printed."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _BLOCK))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return f"{log} cannot be read"
    return next((" ".join(line.split())[:300] for line in reversed(lines) if line.strip()), f"{log} is empty")
