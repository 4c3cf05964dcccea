"""One owner for a run's folder: a second process is refused, and a crash leaves nothing in the way.

The owner holds an advisory lock (`flock`) on RUN/.lock, which the kernel lets go of when the process ends, however it
ends. On NFS, Linux turns it into a byte-range lock that the server keeps and lets go of when the client's lease ends.
Where a file system has no locks at all, a lock file with the owner's name is the best that can be had: it outlives a
crash there, and the message says which file to remove.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
from pathlib import Path

import filelock

from fednas_jax.errors import RunError
from fednas_jax.files import read_json, write_json

LOCK, SOFT, OWNER = ".lock", ".lock.soft", ".owner.json"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what file systems without locks say, NFS the first


class Lock:
    """The right to write in a folder; `acquire` once it exists. Used as a context, it is let go of at the end."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._lock: filelock.BaseFileLock | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock is not None

    def acquire(self) -> None:
        """Takes the folder, unless this process has it already.

        Raises:
          RunError: another process holds it; the message tells its host, number and start.
        """
        if self._lock is not None:
            return
        self._lock = self._taken()
        owner = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # says who it is; the lock holds without it
            write_json(self._folder / OWNER, owner)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self._folder / OWNER).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._lock.release()
            self._lock = None

    def _taken(self) -> filelock.BaseFileLock:
        hard = filelock.FileLock(self._folder / LOCK, timeout=0, thread_local=False)
        soft = filelock.SoftFileLock(self._folder / SOFT, timeout=0, thread_local=False)
        for lock in (hard, soft):
            try:
                lock.acquire()
                return lock
            except filelock.Timeout:
                hint = f"; if that process is gone, remove {self._folder / SOFT}" if lock is soft else ""
                want = f"want one process at a time{hint}"
                raise RunError(f"--out: {self._folder} is in use by {_owner(self._folder)}, {want}") from None
            except NotImplementedError:  # no locks on this file system
                continue
            except OSError as error:
                if lock is hard and error.errno in NO_LOCKS:
                    continue
                raise RunError(f"--out: {self._folder} cannot be locked: {error.strerror}") from None
        raise RunError(f"--out: {self._folder} cannot be locked, want a file system that can make files")


def _owner(folder: Path) -> str:
    """Who holds a folder, in words."""
    try:
        owner = read_json(folder / OWNER)
        return f"process {int(owner['process'])} on {str(owner['host'])[:100]} since {str(owner['since'])[:40]}"
    except (RunError, ValueError, KeyError, TypeError):
        return "another process"
