"""Trials on a real Ray of this machine; where it is not installed, a line says what to install."""

import os
import signal
import time
from pathlib import Path

import pytest
from stub_trials import FOUR, rows, written

from fednas_jax.errors import ConfigError
from fednas_jax.sweep import actors, sources
from fednas_jax.sweep.running import run_sweep


def test_without_ray_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(actors, "ray", None)
    with pytest.raises(ConfigError, match=r"engine: got ray, which is not installed, want pip install"):
        run_sweep([{"seed": 0}], tmp_path / "s", "digits", engine="ray")


def actor_processes():
    """Numbers of this machine's processes that are actors of a sweep."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Actor"):
                found.append(int(path.parent.name))
        except OSError:  # it ended
            continue
    return found


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
def test_a_killed_actor_loses_nothing(tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, log_to_driver=False, include_dashboard=False)
    out, killed = tmp_path / "s", []

    def asked():
        if not killed and (out / "trials" / "fednas-seed1" / "config.json").exists():
            killed.extend(actor_processes())
            os.kill(killed[0], signal.SIGKILL)
            time.sleep(1)
        return False

    try:
        source = sources.read(written(tmp_path, FOUR))
        assert run_sweep(source.trials, out, source.base, engine="ray", should_stop=asked) == (out, 4, 0, 0)
    finally:
        ray.shutdown()
    assert killed
    assert {row["status"] for row in rows(out)} == {"finished"}
