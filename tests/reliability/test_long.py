"""A run that goes on for long stays as small as it was, and one that moves to other devices stays what it was."""

import contextlib
import dataclasses
import os
from pathlib import Path

import faults
import jax
import pytest

from fednas_jax.config.schema import DataConfig, FinetuneConfig, NetConfig, SearchConfig, StageConfig, TrainConfig
from fednas_jax.run.loop import run_search

PAGE = os.sysconf("SC_PAGE_SIZE")
# One channel leaves in each iteration, of three hundred; a round takes a few hundredths of a second.
LONG = dataclasses.replace(
    faults.SMALL,
    data=DataConfig(clients=2),
    net=NetConfig(widths=(2, 2, 300), multiple=(1,)),
    train=TrainConfig(batch_size=400, learning_rate=0.01),
    pretrain=StageConfig(rounds=1),
    search=SearchConfig(
        resource="params",
        reduction=0.001,
        decay=1.0,
        budget=0.2,
        groups=1,
        rungs=((1, 1),),
        max_iterations=200,
        compact_at=0.999,
    ),
    finetune=FinetuneConfig(rounds=0, members=(0,)),
)


def measured():
    """Megabytes of memory and open files of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * PAGE / 1e6, len(os.listdir("/proc/self/fd"))


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_and_open_files_stay_flat_over_two_hundred_iterations(tmp_path):
    found, sizes, out = {}, {}, tmp_path / "run"

    def observe(event):
        if event["event"] == "select":
            found[event["iteration"]] = measured()
            with contextlib.suppress(OSError):  # one may go while another is written
                sizes[event["iteration"]] = max(p.stat().st_size for p in (out / "checkpoints").glob("*.safetensors"))

    result = run_search(LONG, out, observe=observe, devices=jax.devices()[:1])
    assert len(result["models"]) == 200
    (early, files), (late, files_late) = found[100], found[200]
    assert late < early + 30, f"{early:.0f} MB after 100 iterations, {late:.0f} MB after 200"
    assert files_late <= files + 2
    # A checkpoint lists two files for each iteration, and what it holds besides has no reason to grow.
    assert sizes[max(sizes)] < sizes[min(n for n in sizes if n >= 100)] + 60_000
    assert len(faults.files(out, "checkpoints")) <= 6


def test_a_run_goes_on_with_other_devices_and_finds_the_same_networks(whole, half, tmp_path):
    out = faults.copied(half, tmp_path / "run")
    run_search(faults.SMALL, out)
    mine, theirs = faults.outcome(out)[0], faults.outcome(whole)[0]
    assert [m["widths"] for m in mine["models"]] == [m["widths"] for m in theirs["models"]]
    assert mine["client_cost"] == theirs["client_cost"]
    for a, b in zip(mine["models"], theirs["models"], strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)
