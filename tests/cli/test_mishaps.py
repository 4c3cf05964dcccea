"""What nobody foresaw ends in a line or three, never in a traceback nor in exit code 0; signals from the start on."""

import contextlib
import errno
import io
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fednas_jax.cli import app, signals
from fednas_jax.cli.app import main
from fednas_jax.errors import RunError
from fednas_jax.report import watching
from fednas_jax.runtime.terminal import PlainConsole


class XlaRuntimeError(RuntimeError):
    """As jaxlib names it."""


def raised_from(error, cause):
    error.__cause__ = cause
    return error


# What was raised, and what its line says.
MISHAPS = {
    "a full disk": (OSError(errno.ENOSPC, "No space left on device", "/runs/a/0001.parquet"), "disk: there is no room"),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk: there is no room left: what was saved is kept"),
    "a full disk, of a library": (ValueError("RESOURCE_EXHAUSTED: ... No space left on device"), "disk: there is no"),
    "a full disk, as a cause": (
        raised_from(KeyError("x"), OSError(errno.ENOSPC, "No space")),
        "disk: there is no room",
    ),
    "no permission": (PermissionError(errno.EACCES, "Permission denied", "/runs/a"), "/runs/a: Permission denied"),
    "a read-only disk": (OSError(errno.EROFS, "Read-only file system", "/runs/a"), "/runs/a: Read-only file system"),
    "a name too long": (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 400), "...: File name too long"),
    "a folder that vanished": (FileNotFoundError(errno.ENOENT, "No such file", "/runs/a"), "/runs/a: No such file"),
    "an error of no number": (OSError("Corrupt footer"), "Corrupt footer"),
    "memory": (MemoryError("Unable to allocate 7 TiB"), "memory: there is not enough of it, want smaller"),
    "memory, of the accelerator": (XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "memory: there is not enough"),
    "bytes that are no text": (
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        "text: cannot be read or",
    ),
    "text that cannot be encoded": (UnicodeEncodeError("ascii", "ü", 0, 1, "no"), "text: cannot be read or"),
    "too deep": (RecursionError("maximum recursion depth exceeded"), "input: nested too deeply"),
    "control sequences": (RunError("\x1b[2Jx: holds\nno run"), "fednas: x: holds no run"),
}


def fails_with(monkeypatch, error):
    def run(args):
        raise error

    monkeypatch.setattr(app, "_dispatch", run)


@pytest.mark.parametrize("case", MISHAPS)
def test_what_is_no_bug_is_one_line_and_exit_code_2(case, monkeypatch, capsys):
    error, said = MISHAPS[case]
    fails_with(monkeypatch, error)
    assert main(["report", "x"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert err.startswith("fednas: ")
    assert len(err) < 800
    assert "\x1b" not in err


def test_a_bug_is_three_lines_and_a_file_with_the_traceback_in_the_runs_folder(monkeypatch, capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    fails_with(monkeypatch, KeyError("state"))
    assert main(["search", "digits", "--out", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 3
    assert "this is a bug of fednas: KeyError: 'state'" in err
    assert "open an issue" in err
    assert "Traceback" not in err
    (file,) = tmp_path.glob("fednas-bug-*.txt")
    assert str(file) in err
    assert "Traceback (most recent call last)" in file.read_text()
    assert f"fednas search digits --out {tmp_path}" in file.read_text()


def test_a_bug_without_a_run_is_written_to_a_temporary_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fails_with(monkeypatch, AssertionError())
    assert main(["compare", "x"]) == 1
    (file,) = tmp_path.iterdir()
    assert str(file) in capsys.readouterr().err


def test_a_bug_whose_traceback_cannot_be_written_is_told_all_the_same(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    fails_with(monkeypatch, AssertionError("x"))
    assert main(["compare", "x"]) == 1
    assert "--debug shows it" in capsys.readouterr().err


def test_debug_shows_a_bugs_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fails_with(monkeypatch, ValueError("x"))
    assert main(["compare", "x", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("made", [None, ImportError("numpy failed"), RunError("cannot be read")], ids=str)
def test_a_signal_stops_the_command_also_where_a_library_made_another_error_of_it(
    number, code, made, monkeypatch, capsys
):
    def run(args):
        try:
            os.kill(os.getpid(), number)
        except signals.Stopped:
            if made is None:
                raise
            raise made from None

    monkeypatch.setattr(app, "_dispatch", run)
    before = signal.getsignal(number)
    assert main(["report", "x"]) == code
    err = capsys.readouterr().err
    assert err == f"fednas: stopped by {number.name}; the same command goes on from what was saved\n"
    assert signal.getsignal(number) == before


def test_before_a_run_has_begun_a_signal_ends_it_and_then_it_asks():
    with signals.ending(), pytest.raises(signals.Stopped), signals.heard():
        os.kill(os.getpid(), signal.SIGTERM)
    with signals.ending(), signals.heard() as stop:
        stop.begin()
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked == [signal.SIGTERM] * 2
        with pytest.raises(signals.Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_a_library_swallowed_ends_the_run_before_it_begins():
    with signals.ending():
        with contextlib.suppress(signals.Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(signals.Stopped), signals.heard():
            pass
        with signals.heard(begun=True) as stop:
            assert stop.asked == [signal.SIGINT]


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 2))])
def test_a_search_that_is_stopped_in_its_first_seconds_says_so_in_one_line(seed, tmp_path):
    rng = random.Random(seed)
    number, seconds = rng.choice([signal.SIGINT, signal.SIGTERM]), rng.uniform(0.3, 6)
    options = "--data.clients 4 --net.widths 4 8 16 --pretrain.rounds 500 --search.groups 2 --search.budget 0.5 "
    options += "--search.score-clients 0"
    command = [sys.executable, "-m", "fednas_jax", "search", "digits", "--out", str(tmp_path / "run"), *options.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number, err
    said = (out + err).replace(str(tmp_path), "")
    assert said.count("stopped") == 1, said
    assert err.count("\n") <= 1, err
    assert "Traceback" not in err


LEAVING = """
import os, signal, sys
from pathlib import Path
from fednas_jax.cli import signals
from fednas_jax.files import temporary_folder

with signals.ending(process=True), temporary_folder(".columns.", Path(sys.argv[1])) as folder:
    (folder / "images.npy").write_bytes(b"half of them")
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_command_that_a_signal_ends_at_once_leaves_no_half_written_folder(tmp_path):
    done = subprocess.run([sys.executable, "-c", LEAVING, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_encoded_is_shown_as_far_as_it_can(monkeypatch):
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, encoding="ascii"))
    monkeypatch.setattr(app, "_usage", lambda: "größer")
    assert main(["--help"]) == 0
    sys.stdout.flush()
    assert bytes_.getvalue() == b"gr??er\n"


@pytest.fixture
def unread():
    """A stream whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        yield stream


def test_a_reader_that_goes_away_changes_no_exit_code(unread, monkeypatch, capsys):
    """Python would end with 120 where it cannot write what was held back; rich with 1, in the midst of a search."""
    monkeypatch.setattr(sys, "stdout", unread)
    assert main(["--help"]) == 0
    unread.flush()  # as at the process's end
    assert capsys.readouterr().err == ""
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", unread)
    assert main(["nothing"]) == 2
    unread.flush()


def test_a_console_whose_reader_goes_away_is_quiet_and_the_work_goes_on(unread, monkeypatch):
    monkeypatch.setattr(sys, "stdout", unread)
    console = PlainConsole(width=80)
    console.print("a line")
    console.print("another")
    assert console.quiet
    unread.flush()


def test_watching_ends_where_its_reader_goes_away(unread, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", unread)
    monkeypatch.setattr(watching, "over", lambda seen: False)
    assert main(["watch", str(tmp_path), "--every", "0.05"]) == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_output_onto_a_full_disk_is_one_line(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["--help"]) == 2
    assert capsys.readouterr().err.startswith("fednas: disk: there is no room left")


def test_streams_that_the_shell_has_closed_are_opened(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["nothing"]) == 2
    assert sys.stdout.fileno() > 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_source_tree_that_is_not_installed_has_no_version(monkeypatch):
    from fednas_jax.run import folder

    monkeypatch.setattr(folder, "PACKAGES", ("no-such-package", "numpy"))
    assert [folder._version(name) == "not installed" for name in folder.PACKAGES] == [True, False]
