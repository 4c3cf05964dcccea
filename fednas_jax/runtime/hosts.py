"""Several hosts work on one search: they find each other, agree, and hear from the first what lies in the run's folder.

Every host makes the same decisions and calls these functions in the same order. With one process they do nothing, and
jax is imported only where it is needed, so that the command line answers mistakes without waiting for it.
"""

from __future__ import annotations

import dataclasses
import pickle
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from fednas_jax.errors import ConfigError, DeviceError, FednasError

T = TypeVar("T")

MEETING_SECONDS = 300  # how long hosts wait for each other at the start
SHUTDOWN_SECONDS = 30  # how long a host that ends, or fails alone, waits for the others; then all are ended
CHUNK_BYTES = 16 << 20  # most that is told at once


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The processes that run one search together. Not part of a run's config: other hosts may go on with it."""

    coordinator: str | None = None
    """HOST:PORT of host 0, at which the others find it; the port must be free. The same on every host."""
    number: int = 1
    """Number of hosts (processes)."""
    index: int = 0
    """Which of them this is, from 0. Host 0 shows progress and writes the run."""
    auto: bool = False
    """Find the hosts by what SLURM, a TPU pod or Open MPI says; the other --hosts options are not needed then."""

    def validate(self) -> None:
        """Checks what can be judged without the other hosts.

        Raises:
          ConfigError: one line that names the option, the value got and the value wanted.
        """
        if self.number < 1:
            raise ConfigError(f"hosts.number: got {self.number}, want at least 1")
        if not 0 <= self.index < self.number:
            raise ConfigError(f"hosts.index: got {self.index}, want 0 to hosts.number - 1, which is {self.number - 1}")
        if self.auto and (self.coordinator or self.number > 1):
            raise ConfigError("hosts.auto: got other --hosts options too, want none: the cluster knows them")
        if self.coordinator is None:
            if self.number > 1:
                raise ConfigError(f"hosts.coordinator: got none, want HOST:PORT of host 0 for {self.number} hosts")
            return
        name, _, port = self.coordinator.rpartition(":")
        if not (name and port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(f"hosts.coordinator: got {self.coordinator!r}, want HOST:PORT, port 1 to 65535")


def start(options: Hosts) -> None:
    """Meets the other hosts where the options ask for it; to be called before jax is used.

    Raises:
      ConfigError: the options cannot be.
      DeviceError: the hosts do not find each other.
    """
    options.validate()
    if not (options.coordinator or options.auto):
        return
    if options.coordinator and options.index:
        _reach(options.coordinator)
    import jax

    # jax would take SIGTERM for itself; here it asks the run to stop at a round's end.
    jax.config.update("jax_enable_preemption_service", False)
    named: dict[str, Any] = {
        "coordinator_address": options.coordinator,
        "num_processes": options.number,
        "process_id": options.index,
        "cluster_detection_method": "deactivate",
    }
    try:
        jax.distributed.initialize(
            **({} if options.auto else named),
            initialization_timeout=MEETING_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        if options.auto:
            raise DeviceError(f"hosts.auto: JAX finds no cluster here, want --hosts.coordinator: {why}") from error
        raise DeviceError(f"hosts.coordinator: no meeting at {options.coordinator}: {why}") from error


def _reach(coordinator: str) -> None:
    """Waits until host 0 can be reached: jaxlib would end the process with a stack trace where it cannot."""
    name, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            socket.create_connection((name.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                why = error.strerror or error
                raise DeviceError(f"hosts.coordinator: no host 0 at {coordinator}: {why}") from error
        time.sleep(0.2)


def number() -> int:
    """Number of hosts."""
    import jax

    return jax.process_count()


def first() -> bool:
    """Whether this host shows progress and is the only one that touches the run's folder."""
    import jax

    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """Whether any host says so."""
    if number() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.uint8(flag))))


def wait(name: str) -> None:
    """Goes on when every host has come here.

    Args:
      name: of the place; hosts that wait in different places are told so.
    """
    if number() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def allgather(value: T) -> list[T]:
    """The value of each host, in their order."""
    if number() == 1:
        return [value]
    from jax.experimental import multihost_utils

    own = pickle.dumps(value)
    sizes = [_size(row) for row in multihost_utils.process_allgather(_bytes(len(own).to_bytes(8, "little")))]
    rows = multihost_utils.process_allgather(_bytes(own, max(sizes)))
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def run_on_all(work: Callable[[], T]) -> T:
    """What `work` returns on this host, once it is done on all; what fails on one host ends all of them.

    Args:
      work: without any of this module's functions in it.

    Raises:
      DeviceError: it failed on another host, whose error is named.
    """
    value, error = _attempt(work)
    errors = allgather(None if error is None else _text(error))
    if error is not None:
        raise error
    for host, said_there in enumerate(errors):
        if said_there is not None:
            raise DeviceError(f"host {host}: {said_there}")
    return value  # type: ignore[return-value]


def from_first_host(read: Callable[[], T]) -> T:
    """What `read` returns on the first host, which alone calls it; all hosts go on when it is done.

    Args:
      read: returns what pickle takes, arrays as numpy's.

    Raises:
      FednasError: a user's error of the first host, on every host.
      DeviceError: any other error of the first host, on the others.
    """
    if number() == 1:
        return read()
    if not first():
        value, error, text = pickle.loads(_told(b""))
        if text is not None:
            raise error or DeviceError(f"host 0: {text}")
        return value
    value, error = _attempt(read)
    text = None if error is None else _text(error)
    _told(pickle.dumps((value, error if isinstance(error, FednasError) else None, text)))
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # passed on: the other hosts must not wait for one that failed
        return None, error


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, FednasError) else f"{type(error).__name__}: {error}"


def _told(data: bytes) -> bytes:
    """The first host's bytes."""
    from jax.experimental import multihost_utils

    size = _size(multihost_utils.broadcast_one_to_all(_bytes(len(data).to_bytes(8, "little"))))
    told = []
    for begin in range(0, size, CHUNK_BYTES):
        length = min(CHUNK_BYTES, size - begin)
        chunk = multihost_utils.broadcast_one_to_all(_bytes(data[begin : begin + length], length))
        told.append(chunk[:length].tobytes())
    return b"".join(told)


def _bytes(data: bytes, room: int = 0) -> np.ndarray:
    """uint8, padded to a power of two that has the room: few sizes, so few programs are compiled."""
    row = np.zeros(max(8, 1 << (max(room, len(data)) - 1).bit_length()), np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    return row


def _size(row: np.ndarray) -> int:
    return int.from_bytes(row[:8].tobytes(), "little")
