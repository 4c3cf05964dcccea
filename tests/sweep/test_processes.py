"""Real workers: they train, stay warm, are killed, and nothing is lost."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_trials import FOUR, TINY, rows, written

from fednas_jax.cli.app import main
from fednas_jax.errors import RunError
from fednas_jax.run.finished import load_run
from fednas_jax.run.verifying import verify_run
from fednas_jax.sweep import processes, sources
from fednas_jax.sweep.processes import Processes, shares
from fednas_jax.sweep.running import run_sweep
from fednas_jax.sweep.scheduling import Job

MANY = (
    f"{TINY}\n[[trials]]\ngrid = {{ method = ['fednas', 'naive'], 'data.alpha' = [0.1, 1.0, 10.0], seed = [0, 1] }}\n"
)
EIGHT = MANY.replace("[0.1, 1.0, 10.0]", "[0.1, 10.0]")
SECONDS = 600  # after which a sweep that hangs is ended


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Workers have one device each, and compile as fast as tests do."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(flags))
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def sweeping(file, out, *options):
    """A sweep in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "fednas_jax", "sweep", str(file), "--out", str(out), *options]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)


def rounded(row):
    """A row whose floats may be a little off, as another order of sums makes them."""
    return {name: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for name, value in row.items()}


def workers_of(process):
    """Numbers of the workers that a process has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(n) for n in found if b"fednas_jax.sweep.worker" in Path(f"/proc/{n}/cmdline").read_bytes()]


def wait_for(what):
    until = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return found


def gone(process):
    """Whether a process is no more; one whose parent has not looked after it yet counts as such."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.exhaustive
def test_four_trials_train_in_one_warm_worker_and_its_death_loses_nothing(tmp_path, capsys):
    out, file = tmp_path / "s", written(tmp_path, FOUR)
    killed = []

    def asked():
        # In the midst of the second trial its worker is killed.
        if not killed and (out / "trials" / "fednas-seed1" / "config.json").exists():
            killed.extend(workers_of(os.getpid()))
            os.kill(killed[0], signal.SIGKILL)
        return False

    source = sources.read(file)
    assert run_sweep(source.trials, out, source.base, should_stop=asked) == (out, 4, 0, 0)
    assert len(killed) == 1
    compiled = {}
    for name in ("fednas-seed0", "fednas-seed1", "naive-seed0", "naive-seed1"):
        assert verify_run(out / "trials" / name).finished
        run = load_run(out / "trials" / name)
        assert (run.result["method"], run.result["seed"]) == (name.split("-")[0], int(name[-1]))
        compiled[name] = run.result["simulator"]["compilations"]
    assert compiled["naive-seed1"] == 0 < compiled["fednas-seed0"]
    for row in rows(out):
        (model,) = load_run(out / "trials" / row["trial"]).result["models"]
        assert row["accuracy_75"] == model["test_accuracy"]
    assert main(["sweep", str(file), "--out", str(out)]) == 0
    assert "4 trials, 4 of them done" in capsys.readouterr().out


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("text", "number", "kills", "options"),
    [(MANY, 12, (0, 3, 7), ()), (EIGHT, 8, (0, 3, 5), ("--pack", "3"))],
    ids=["alone", "packed"],
)
def test_a_sweep_killed_three_times_ends_with_the_table_of_one_that_was_not(tmp_path, text, number, kills, options):
    file, whole, broken = written(tmp_path, text), tmp_path / "whole", tmp_path / "broken"
    with sweeping(file, whole) as process:  # each trial by itself
        assert process.wait(SECONDS) == 0
    rng = random.Random(5)
    for done in kills:
        with sweeping(file, broken, *options) as process:
            wait_for(lambda: len(list(broken.glob("trials/*/result.json"))) > done)  # noqa: B023
            workers = workers_of(process.pid)
            time.sleep(3 * rng.random())
            process.kill()
            process.wait(SECONDS)
        wait_for(lambda: all(map(gone, workers)))  # noqa: B023
    with sweeping(file, broken, *options) as process:
        assert process.wait(SECONDS) == 0
    assert len(rows(whole)) == number
    for got, want in zip(rows(broken), rows(whole), strict=True):
        assert got == (rounded(want) if options else want)


@pytest.mark.exhaustive
def test_asked_to_stop_a_sweep_saves_and_goes_on(tmp_path):
    file, out = written(tmp_path, FOUR), tmp_path / "s"
    with sweeping(file, out) as process:
        wait_for(lambda: list(out.glob("trials/*/result.json")))
        (worker,) = workers_of(process.pid)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "the same command goes on" in said
    wait_for(lambda: gone(worker))
    with sweeping(file, out, "--workers", "2") as process:
        assert process.wait(SECONDS) == 0
    assert {row["status"] for row in rows(out)} == {"finished"}


@pytest.mark.parametrize("left", [b"", b'{"trials": [', b"\xff\n"], ids=["nothing", "half a line", "no JSON"])
@pytest.mark.parametrize("unread", [False, True])
def test_a_worker_ends_however_the_sweep_goes_away(left, unread):
    """A sweep that is killed before it has read all resets the connection, which is no end of a file."""
    ours, theirs = socket.socketpair()
    program = (
        "import queue, socket, sys, threading, time\n"
        "from fednas_jax.sweep.worker import _listen\n"
        "connection = socket.socket(fileno=int(sys.argv[1]))\n"
        "connection.sendall(b'ready')\n"
        "of = (connection, queue.Queue(), threading.Event())\n"
        "threading.Thread(target=_listen, args=of, daemon=True).start()\n"
        "time.sleep(60)\n"
        "sys.exit(1)\n"
    )
    command = [sys.executable, "-c", program, str(theirs.fileno())]
    with theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as process:
        theirs.close()
        assert ours.recv(5, socket.MSG_PEEK if unread else 0)
        ours.sendall(left)
        ours.close()
        assert process.wait(50) == 0


def test_a_worker_that_cannot_start_is_one_line_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", "/bin/false")
    pool = Processes(1, tmp_path / "workers")
    pool.begin(0, (Job("t", str(tmp_path / "t"), dict),))
    with pytest.raises(RunError, match=r"a worker cannot start, it ended with code 1: .*1.log is empty"):
        pool.wait(60)
    pool.close()


def test_each_worker_has_its_share_of_cores_and_gpus():
    cores = list(range(8))
    assert shares(1, cores, ["0", "1"], {}) == [((), {})]
    two = shares(2, cores, ["0", "1", "2", "3"], {})
    assert [share.cores for share in two] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert [share.environment for share in two] == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    many = shares(3, [4, 6], ["GPU-a"], {})
    assert [share.cores for share in many] == [(4,), (6,), (4,)]
    assert many[0].environment == {"CUDA_VISIBLE_DEVICES": "GPU-a", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300"}
    told = shares(2, cores, ["0"], {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.4"})
    assert told[1].environment == {"CUDA_VISIBLE_DEVICES": "0"}
    assert sorted(core for share in shares(3, cores, [], {}) for core in share.cores) == cores
