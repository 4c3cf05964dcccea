"""Real processes: killed at any time, and two of them on one folder."""

import os
import signal
import subprocess
import sys
import time

import faults
import pytest

RUN = """
import sys
import faults
faults.go(sys.argv[1], observe=lambda event: print(event["event"], flush=True))
"""
FOLDER = os.path.dirname(os.path.abspath(faults.__file__))


def started(out):
    """A process that runs, or goes on with, the small run; every event is a line."""
    path = os.pathsep.join([FOLDER, os.path.dirname(os.path.dirname(FOLDER)), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(out)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.exhaustive
def test_a_second_process_is_refused_while_the_first_works(expected, tmp_path):
    out = tmp_path / "run"
    first = started(out)
    try:
        for line in first.stdout:
            if line == "checkpoint\n":
                break
        said = faults.tried(out)
        assert f"is in use by process {first.pid} on" in said
    finally:
        first.communicate()
    assert first.returncode == 0
    assert faults.outcome(out) == expected


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(max(1, faults.TIMES // 10)))
def test_twenty_kills_at_random_times_lose_one_round_each_at_most(expected, tmp_path, seed):
    """Each process is killed so many events after its first, or a moment later: also in the midst of a write."""
    out, rng, kills, lost = tmp_path / "run", faults.rng(seed), 0, []
    while kills < 20:
        process = started(out)
        left, seen = int(rng.integers(1, 6)), 0
        for line in process.stdout:
            seen += line == "round\n"
            left -= 1
            if not left:
                time.sleep(float(rng.uniform(0, 0.05)))
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
        lost.append(seen)
    faults.go(out)
    assert faults.outcome(out) == expected
    assert kills >= 3
