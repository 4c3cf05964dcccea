"""A run's checkpoints: one file each, which proves itself when it is read, written by a thread of its own.

A checkpoint is a flat set of named arrays and a record in JSON. Both lie in one safetensors file: data, never code. The
record holds a SHA-256 of every array, and the file one of the record, so that any byte that changed is noticed. On
several hosts only the first calls these functions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from fednas_jax.errors import RunError
from fednas_jax.files import replacing, sync

SCHEMA = 3
KEPT = 3  # newest checkpoints that stay on the disk
KEPT_MARKED = 2  # of those marked, such as the ends of iterations, that stay besides
MOST_HEADER = 64 << 20  # bytes of names and record
_NAME = re.compile(r"(\d{8})(-end)?\.safetensors")


class Saved(NamedTuple):
    """A checkpoint as it was read, verified."""

    step: int
    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Refused(NamedTuple):
    """A checkpoint that cannot be believed, and why."""

    step: int
    reason: str


class Checkpoints:
    """The checkpoints in one folder, under growing step numbers."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._last = -1  # the newest step that was handed over
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def begun(self) -> bool:
        """Whether there is a checkpoint, readable or not."""
        return bool(self._files())

    def next_step(self) -> int:
        """The step number after the newest checkpoint's, handed over or on the disk."""
        return max(self._last, *self._files(), -1) + 1

    def save(
        self,
        step: int,
        arrays: Mapping[str, np.ndarray],
        record: dict[str, Any],
        marked: bool = False,
        first: Callable[[], None] = lambda: None,
    ) -> None:
        """Hands a state to the thread that writes it, whole or not at all; older checkpoints go.

        Waits for the save before this one, so that a process that is killed loses one round at most.

        Args:
          step: its number.
          arrays: name -> array, which nobody changes any more.
          record: JSON values.
          marked: it stays longer than its neighbours: a place to fall back to.
          first: is called by the thread before it writes: what the record speaks of must lie on the disk by then.

        Raises:
          OSError: the save before this one failed.
        """
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "fednas-checkpoint")
        path = self._folder / f"{step:08d}{'-end' if marked else ''}.safetensors"
        self._last = step
        self._writing = self._thread.submit(self._write, path, dict(arrays), record, first)

    def wait(self) -> None:
        """Waits until what was handed over lies on the disk.

        Raises:
          OSError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits for the last save and ends the thread.

        Raises:
          OSError: the last save failed.
        """
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def newest(self, believe: Callable[[Saved], None]) -> tuple[Saved | None, list[Refused]]:
        """The newest checkpoint that proves itself, and those after it that do not.

        Args:
          believe: raises a RunError where what a checkpoint speaks of, such as the ledger's files, is not there.

        Returns:
          None where there is none that can be believed; the refused ones, newest first.
        """
        refused: list[Refused] = []
        for step, path in sorted(self._files().items(), reverse=True):
            try:
                saved = read(path)
                believe(saved)
                return saved, refused
            except (RunError, OSError) as error:
                refused.append(Refused(step, " ".join(str(error).split())))
        return None, refused

    def discard(self, steps: list[int]) -> None:
        """Removes checkpoints that cannot be believed, so that nobody falls back to them again."""
        files = self._files()
        for step in steps:
            files[step].unlink(missing_ok=True)

    def _files(self) -> dict[int, Path]:
        """Step -> file of each checkpoint."""
        if not self._folder.is_dir():
            return {}
        named = ((_NAME.fullmatch(path.name), path) for path in self._folder.iterdir())
        return {int(match[1]): path for match, path in named if match}

    def _write(
        self, path: Path, arrays: dict[str, np.ndarray], record: dict[str, Any], first: Callable[[], None]
    ) -> None:
        first()
        self._folder.mkdir(exist_ok=True)  # in a run's folder, which is not made anew where somebody moved it away
        write(path, arrays, record)
        files = self._files()
        newest = sorted(files, reverse=True)
        marked = [step for step in newest if files[step].stem.endswith("-end")]
        for step in set(newest[KEPT:]) - set(marked[:KEPT_MARKED]):
            files[step].unlink(missing_ok=True)


def write(path: Path, arrays: Mapping[str, np.ndarray], record: dict[str, Any]) -> None:
    """Writes one checkpoint file, whole or not at all.

    Raises:
      OSError: it cannot be written, for instance since the disk is full.
    """
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    sums = {name: _checksum(array) for name, array in whole.items()}
    text = json.dumps({"schema": SCHEMA, "sums": sums, "record": record}, allow_nan=False)
    about = {"record": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with replacing(path) as unfinished:
        unfinished.write_bytes(safetensors.numpy.save(whole, about))
    sync(path.parent)


def read(path: Path) -> Saved:
    """Reads one checkpoint file and verifies every byte of it.

    Raises:
      RunError: it is damaged, or no checkpoint of this version; the message says how it shows.
    """
    step = int(path.name[:8])
    try:
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        if not 0 < size <= min(MOST_HEADER, len(data)):
            raise RunError(f"{path}: is damaged: it has no header")
        about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        text = about["record"]
        if hashlib.sha256(text.encode()).hexdigest() != about["sha256"]:
            raise RunError(f"{path}: is damaged: its record is not the one that was written")
        said = json.loads(text)
        if said["schema"] != SCHEMA:
            raise RunError(f"{path}: is of schema {said['schema']}, want {SCHEMA}")
        arrays = safetensors.numpy.load(data)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said_so = " ".join(str(error).split()) or type(error).__name__
        raise RunError(f"{path}: is damaged: {said_so}") from None
    if arrays.keys() != said["sums"].keys():
        raise RunError(f"{path}: is damaged: it has other arrays than were written")
    for name, array in arrays.items():
        if _checksum(array) != said["sums"][name]:
            raise RunError(f"{path}: is damaged: {name} is not what was written")
    return Saved(step, said["record"], arrays)


def _checksum(array: np.ndarray) -> str:
    """SHA-256 of an array's bytes, shape and type."""
    found = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    found.update(array.tobytes())
    return found.hexdigest()
