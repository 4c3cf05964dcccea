"""A whole search whose winners remove blocks: masked at first, then sliced away, interrupted, fine-tuned and tested."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx

from fednas_jax import nets
from fednas_jax.config.schema import (
    Config,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.errors import Interrupted
from fednas_jax.report.page import write_report
from fednas_jax.run import model_files
from fednas_jax.run.loop import run_search

WIDTHS = {"stage": 8, "block1": 8, "block2": 6}


class Block(nnx.Module):
    """A residual block as a user writes it; without inner width the skip alone."""

    def __init__(self, stage, inner, rngs):
        self.there = inner > 0
        if self.there:
            self.first = nnx.Linear(stage, inner, rngs=rngs)
            self.second = nnx.Linear(inner, stage, rngs=rngs)
            self.norm = nnx.BatchNorm(stage, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        if not self.there:
            return x
        branch = self.norm(self.second(nnx.relu(self.first(x))))
        return nnx.relu(x + nets.unless_removed(branch, self.second.kernel[...]))


class Blocks(nnx.Module):
    """A stem, two residual blocks, the classifier; of dense layers, which compile quickly."""

    def __init__(self, widths, classes, rngs):
        stage = widths["stage"]
        self.stem = nnx.Linear(8 * 8, stage, rngs=rngs)
        self.blocks = nnx.List(Block(stage, widths[name], rngs) for name in ("block1", "block2"))
        self.classifier = nnx.Linear(stage, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x.reshape(len(x), -1)))
        for block in self.blocks:
            x = block(x)
        return self.classifier(x)


@functools.cache
def network():
    """One object, so that what was compiled for its check is found again."""
    return nets.from_nnx(
        "blocks", lambda w, rngs: Blocks(w, 3, rngs), WIDTHS, (8, 8, 1), removable=["block1", "block2"]
    )


# The stage cannot shrink, so every candidate removes a block: one iteration removes the one, the next the other.
SEARCH = Config(
    method="naive",
    data=DataConfig(source="synthetic", synthetic_examples=300, synthetic_classes=3, clients=3),
    net=NetConfig("blocks", multiple=(8, 8, 6)),
    train=TrainConfig(batch_size=20),
    pretrain=StageConfig(rounds=1),
    search=SearchConfig(reduction=0.01, budget=0.75, settle_rounds=1, compact_at=0.05, rungs=((1, 1),)),
    finetune=FinetuneConfig(rounds=1),
    engine=EngineConfig(lanes=1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("depth") / "run"
    events = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nets, "NETWORKS", dict(nets.NETWORKS))
        nets.register("blocks", WIDTHS, lambda widths, shape, classes, config: network())

        def after_compaction():
            # At the checkpoint behind the second iteration, whose physical shape lacks a block.
            return sum(e["event"] == "select" for e in events) == 2

        with pytest.raises(Interrupted):
            run_search(SEARCH, out, events.append, after_compaction, devices=jax.devices()[:1])
        result = run_search(SEARCH, out, events.append, devices=jax.devices()[:1])
    return result, events, out


@pytest.mark.exhaustive
def test_winners_remove_one_block_after_the_other_until_the_budget_is_reached(run):
    result, events, _ = run
    winners = [e["winner"] for e in events if e["event"] == "select"]
    assert sorted(winners) == ["block1", "block2"]
    assert result["stop_reason"] == "budget reached"
    assert [sum(w > 0 for w in m["widths"].values()) for m in result["models"]] == [2, 1]
    assert result["models"][-1]["macs"] == 8 * 8 * 8 + 8 * 3  # the stem and the classifier


@pytest.mark.exhaustive
def test_a_removed_block_is_sliced_away_and_the_run_goes_on_from_there(run):
    _, events, _ = run
    shapes = [e["physical_widths"] for e in events if e["event"] == "compact"]
    assert [shape.count(0) for shape in shapes] == [1]
    assert sum(e["event"] == "resume" for e in events) == 1


@pytest.mark.exhaustive
def test_models_without_blocks_are_saved_fine_tuned_and_tested_without_them(run):
    result, _, out = run
    for model in result["models"]:
        assert json.loads((out / model["path"] / "widths.json").read_text())["widths"] == model["widths"]
        widths = tuple(model["widths"].values())
        before, after = (
            model_files.load_model(out / model["path"] / part, network().abstract(widths)) for part in ("", "finetuned")
        )
        assert set(before.params) == set(network().abstract(widths).params)
        assert np.any(before.params["stem/kernel"] != after.params["stem/kernel"])
        assert sum(p.size for p in after.params.values()) == model["params"]
        assert 0 <= model["test_accuracy"] <= 1


@pytest.mark.exhaustive
def test_a_report_of_removed_blocks_shows_their_width_as_0(run):
    result, _, out = run
    page = write_report(out).read_text()
    assert "-".join(map(str, result["models"][-1]["widths"].values())) in page
