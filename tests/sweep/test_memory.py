"""A warm worker's memory stays flat from trial to trial; the conductor's is looked at in test_running.py."""

import gc
import os
from pathlib import Path

import jax
import pytest
from stub_trials import TINY, written

from fednas_jax.config.files import to_json
from fednas_jax.runtime.shelf import keep_between_runs
from fednas_jax.sweep import sources
from fednas_jax.sweep.attempts import attempted
from fednas_jax.sweep.planning import plan

WARM = 3  # trials until all is compiled and kept that will be
MANY = 7


@pytest.fixture
def warm():
    keep_between_runs()
    yield
    keep_between_runs(False)


def resident():
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells it so")
def test_a_warm_workers_memory_stays_flat(tmp_path, warm):
    grid = f"grid = {{ seed = {list(range(MANY))}, 'train.learning_rate' = [0.1] }}"
    source = sources.read(written(tmp_path, f"{TINY}\n[[trials]]\n{grid}\n"))
    planned = plan(source.base, source.trials)
    seen = []
    for trial in planned.trials:
        config = to_json(planned.config(trial))
        assert attempted(config, str(tmp_path / trial.name), lambda: False).kind == "finished"
        seen.append((len(jax.live_arrays()), len(gc.get_objects()), resident()))
    arrays, objects, resident_bytes = zip(*seen, strict=True)
    trials = MANY - WARM
    assert arrays[-1] == arrays[WARM - 1]
    assert objects[-1] - objects[WARM - 1] < 400 * trials
    assert resident_bytes[-1] - resident_bytes[WARM - 1] < 2e6 * trials
