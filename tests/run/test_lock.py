"""A run's folder has one owner at a time; a crash leaves nothing in the way."""

import os
import signal
import subprocess
import sys

import filelock
import pytest

from fednas_jax.errors import RunError
from fednas_jax.run.lock import NO_LOCKS, OWNER, SOFT, Lock

HOLD = """
import sys, time
from pathlib import Path
from fednas_jax.run.lock import Lock
with Lock(Path(sys.argv[1])) as lock:
    lock.acquire()
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_has_it_and_a_crash_is_no_owner(tmp_path):
    process = holder(tmp_path)
    try:
        with Lock(tmp_path) as lock:
            with pytest.raises(RunError, match=rf"in use by process {process.pid} on \S+ since 20") as caught:
                lock.acquire()
            assert "\n" not in str(caught.value)
            assert not lock.held
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / OWNER).exists()  # it could not clean up
    with Lock(tmp_path) as lock:
        lock.acquire()
        assert lock.held


def test_the_same_process_is_no_second_owner_by_another_way(tmp_path):
    with Lock(tmp_path) as lock, Lock(tmp_path) as other:
        lock.acquire()
        lock.acquire()  # it has it already
        with pytest.raises(RunError, match=f"process {os.getpid()} on"):
            other.acquire()
    with Lock(tmp_path) as other:
        other.acquire()


def test_a_damaged_owner_s_name_does_not_matter(tmp_path):
    with Lock(tmp_path) as lock, Lock(tmp_path) as other:
        lock.acquire()
        (tmp_path / OWNER).write_text("[1, 2")
        with pytest.raises(RunError, match="in use by another process, want one process at a time"):
            other.acquire()


@pytest.mark.parametrize("said", [NotImplementedError(), *(OSError(n, os.strerror(n)) for n in NO_LOCKS)], ids=str)
def test_where_there_are_no_locks_a_file_says_so_and_the_message_names_it(tmp_path, monkeypatch, said):
    def none(self):
        raise said

    monkeypatch.setattr(filelock.FileLock, "_acquire", none)
    with Lock(tmp_path) as lock, Lock(tmp_path) as other:
        lock.acquire()
        assert (tmp_path / SOFT).exists()
        with pytest.raises(RunError, match=rf"if that process is gone, remove .*{SOFT}"):
            other.acquire()
    assert not (tmp_path / SOFT).exists()


def test_a_folder_that_cannot_be_locked_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with Lock(tmp_path / "file") as lock, pytest.raises(RunError, match="cannot be locked"):
        lock.acquire()
