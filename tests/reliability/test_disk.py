"""A disk that is full, read-only or gone: one line, what was saved is kept, and the same command goes on with room."""

import builtins
import errno
import os
import subprocess
from pathlib import Path

import faults
import pytest

from fednas_jax.errors import RunError
from fednas_jax.phones import ledger
from fednas_jax.run import checkpoint, model_files


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def orbax_full(*args, **kwargs):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [source locations='...']")


PLACES = {
    "a checkpoint": (checkpoint, "write", full),
    "the ledger": (ledger, "write", full),
    "a model": (model_files, "save_model", orbax_full),
    "the result": ("fednas_jax.run.loop.write_json", None, full),
    "the manifest": ("fednas_jax.run.manifest.write_json", None, full),
}


@pytest.mark.parametrize(
    "place", [p if p in ("a checkpoint", "a model") else pytest.param(p, marks=pytest.mark.exhaustive) for p in PLACES]
)
def test_a_full_disk_ends_in_one_line_and_the_run_goes_on_once_there_is_room(place, expected, tmp_path, monkeypatch):
    out = tmp_path / "run"
    target, name, fails = PLACES[place]
    with monkeypatch.context() as patch:
        patch.setattr(target, *([name, fails] if name else [fails]))
        with pytest.raises(RunError, match=r"cannot be written: .*[Nn]o space") as caught:
            faults.go(out)
    assert "\n" not in str(caught.value)
    assert "the same command goes on" in str(caught.value)
    assert faults.tried(out) == expected


def test_events_that_cannot_be_written_end_in_one_line(expected, tmp_path, monkeypatch):
    out, opened = tmp_path / "run", builtins.open
    real = Path.open

    def fails(self, mode="r", *args, **kwargs):
        if self.name == "events.jsonl" and "a" in mode:
            full()
        return real(self, mode, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(RunError, match=r"events\.jsonl: cannot be written: No space"):
            faults.go(out)
    assert builtins.open is opened
    assert faults.tried(out) == expected


def mounted(folder, size):
    """A real, small disk; None where this machine lets nobody mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return folder if done.returncode == 0 else None


@pytest.mark.exhaustive
@pytest.mark.parametrize("size", ["64k", "100k", "160k", "240k"])
def test_a_real_disk_that_fills_up_somewhere_loses_nothing(size, expected, tmp_path):
    disk = mounted(tmp_path / "disk", size)
    if disk is None:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        said = faults.tried(disk / "run")
        assert isinstance(said, str)
        assert "No space left" in said or "RESOURCE_EXHAUSTED" in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True, capture_output=True)
        assert faults.tried(disk / "run") == expected
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("then", ["a file", "nothing"])
def test_a_folder_that_was_moved_away_ends_in_one_line_and_goes_on_where_it_is(expected, tmp_path, then):
    out, seen = tmp_path / "run", []

    def observe(event):
        if event["event"] == "parent":
            out.rename(tmp_path / "elsewhere")  # at once: a thread may be writing into it
            if then == "a file":
                out.write_text("where the folder was")
        seen.append(event["event"])

    with pytest.raises(RunError, match="cannot be written") as caught:
        faults.go(out, observe=observe)
    assert "\n" not in str(caught.value)
    assert "round" not in seen[seen.index("parent") :]  # nothing is trained for nobody
    assert not out.is_dir()
    if then == "nothing":
        assert faults.tried(tmp_path / "elsewhere") == expected


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_no_folder_can_have_is_refused_in_one_line(name, tmp_path):
    with pytest.raises(RunError, match="--out") as caught:
        faults.go(tmp_path / name)
    assert "\n" not in str(caught.value)
