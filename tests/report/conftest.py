"""A real finished run, tiny, with all that a run can leave."""

import json
import shutil

import jax
import pytest

from fednas_jax.cli.app import main
from fednas_jax.config.schema import (
    Config,
    CostConfig,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.files import write_json
from fednas_jax.run.loop import run_search

PHONES = "name,share,base [ms],speed [ms/MMAC],down [Mbit/s],up [Mbit/s]\nslow,1,9,900,0.1,0.1\nfast,1,0.5,1,8,8\n"
CLASSES = [{"name": "high", "device": "pixel2", "budget_ms": 6}, {"name": "low", "device": "lg_g8", "budget_ms": 0.01}]


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Its folder, which tests copy; phones of its own, a page, tiers, and prices of other phones."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "phones.csv").write_text(PHONES)
    write_json(folder / "classes.json", CLASSES)
    config = Config(
        data=DataConfig(clients=6),
        net=NetConfig(widths=(2, 4, 16), multiple=(1, 1, 8)),
        train=TrainConfig(batch_size=60),
        pretrain=StageConfig(rounds=1),
        search=SearchConfig(groups=3, rungs=((1, 1),), max_iterations=2, compact_at=0.99, budget=0.5),
        finetune=FinetuneConfig(rounds=1),
        cost=CostConfig(population=str(folder / "phones.csv")),
        engine=EngineConfig(lanes=2),
    )
    run_search(config, folder / "run", devices=jax.devices()[:1])
    assert main(["tiers", str(folder / "run"), str(folder / "classes.json")]) == 0
    assert main(["reprice", str(folder / "run"), "--population", "flash"]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def unsealed_run(finished_run, tmp_path_factory):
    """The same as a run of the first version, which had no checksums; tests copy it and change files.

    A stranger can write what checksums he likes: what they would find at once must be found otherwise, or do no harm.
    """
    run = tmp_path_factory.mktemp("unsealed") / "run"
    shutil.copytree(finished_run, run, ignore=shutil.ignore_patterns("checkpoints", "manifest.json"))
    result = json.loads((run / "result.json").read_text())
    del result["checksum"]
    write_json(run / "result.json", result | {"schema": 1})
    return run
