"""Searches whose candidates train at their own physical widths: as masked where that is exact, and where it is not."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
from flax import nnx

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
from fednas_jax.errors import ConfigError, Interrupted
from fednas_jax.nets import from_nnx
from fednas_jax.phones import ledger
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search
from fednas_jax.run.model_files import load_tree
from fednas_jax.runtime import shelf

TINY = Config(
    data=DataConfig(clients=6, partition="dirichlet", alpha=1.0, size_sigma=0.3),
    net=NetConfig(f"{__name__}:batch_normed", multiple=(2, 2)),
    train=TrainConfig(batch_size=30, learning_rate=0.1, server_optimizer="momentum", server_learning_rate=0.7),
    pretrain=StageConfig(rounds=2),
    search=SearchConfig(reduction=0.25, decay=0.95, budget=0.6, groups=3, rungs=((1, 2), (1, 1)), score_clients=3),
    finetune=FinetuneConfig(rounds=1),
    engine=EngineConfig(lanes=1, checkpoint_rounds=1),
)


class Perceptron(nnx.Module):
    """With a normalisation after its first layer."""

    def __init__(self, norm, widths, rngs):
        self.first = nnx.Linear(64, widths["first"], rngs=rngs)
        self.norm = norm(widths["first"], rngs=rngs)
        self.second = nnx.Linear(widths["first"], widths["second"], rngs=rngs)
        self.classifier = nnx.Linear(widths["second"], 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x.reshape(x.shape[0], -1))))
        return self.classifier(nnx.relu(self.second(x)))


def batch_normed(shape, classes):
    return from_nnx("batch", functools.partial(Perceptron, nnx.BatchNorm), {"first": 16, "second": 8}, shape)


def layer_normed(shape, classes):
    """Masks would break it."""
    return from_nnx("layer", functools.partial(Perceptron, nnx.LayerNorm), {"first": 16, "second": 8}, shape)


NORMED = dataclasses.replace(TINY, net=NetConfig(f"{__name__}:layer_normed", multiple=(2, 2)))


def sliced(config):
    return dataclasses.replace(config, search=dataclasses.replace(config.search, candidates="sliced"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a config, once; programs are shared by all of them."""
    shelf.keep_between_runs()

    @functools.cache
    def made(config, devices=1):
        out = tmp_path_factory.mktemp("runs") / "run"
        return run_search(config, out, devices=jax.devices()[:devices]), out

    yield made
    shelf.keep_between_runs(False)


def assert_alike(one, other):
    """Two runs are the same up to the order of sums."""
    (mine, out), (theirs, there) = one, other
    assert [m["widths"] for m in mine["models"]] == [m["widths"] for m in theirs["models"]]
    for a, b in zip([mine["parent"], *mine["models"]], [theirs["parent"], *theirs["models"]], strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=0.02)
        for part in ("", "finetuned"):
            here, else_ = (load_tree(o / a["path"] / part / "variables") for o in (out, there))
            assert here.keys() == else_.keys()
            for name, value in here.items():
                np.testing.assert_allclose(value, else_[name], atol=1e-4, err_msg=name)
    tables = [ledger.read(RunDir(o).ledger) for o in (out, there)]
    frames = [table.to_pandas().astype(str) for table in tables]
    frames = [frame.sort_values(list(frame)).reset_index(drop=True) for frame in frames]
    assert frames[0].equals(frames[1])


def test_sliced_candidates_are_masked_ones_where_masking_is_exact(run):
    masked, each = run(TINY), run(sliced(TINY))
    assert_alike(masked, each)
    assert (masked[0]["candidates"], each[0]["candidates"]) == ("masked", "sliced")
    assert each[0]["simulator"]["compilations"] > masked[0]["simulator"]["compilations"]


@pytest.mark.exhaustive
def test_a_network_that_cannot_be_masked_is_searched_and_says_so_once(run):
    result, out = run(NORMED)
    assert result["candidates"] == "sliced"
    (said,) = [e["reason"] for e in RunDir(out).events() if e["event"] == "sliced"]
    assert re.search(r"^layer: a mean over the channels of first counts those that are removed, as in LayerNorm ", said)
    assert result["stop_reason"] == "budget reached"


@pytest.mark.exhaustive
def test_devices_change_nothing_but_the_order_of_sums(run):
    assert_alike(run(NORMED), run(NORMED, 8))


def test_stopping_does_not_matter(run, tmp_path):
    config = sliced(TINY)
    whole, _ = run(config)
    rounds = iter(range(100))
    with pytest.raises(Interrupted):
        run_search(config, tmp_path / "run", devices=jax.devices()[:1], should_stop=lambda: next(rounds) == 3)
    again = run_search(config, tmp_path / "run", devices=jax.devices()[:1])
    assert again["models"] == whole["models"]


def test_masks_that_would_not_be_exact_are_refused(tmp_path):
    config = dataclasses.replace(NORMED, search=dataclasses.replace(NORMED.search, candidates="masked"))
    with pytest.raises(ConfigError, match=r"^search.candidates: got masked, want auto or sliced: layer: "):
        run_search(config, tmp_path / "run", devices=jax.devices()[:1])


@pytest.mark.exhaustive
def test_a_vision_transformer_is_searched_and_stopping_does_not_matter(run, tmp_path):
    config = dataclasses.replace(
        TINY,
        net=NetConfig("vit", shallow=True, widths=(16, 8, 2, 64)),
        search=dataclasses.replace(TINY.search, max_iterations=1),
    )
    whole, out = run(config)
    assert whole["candidates"] == "sliced"
    tried = {c["name"] for e in RunDir(out).events() if e["event"] == "iteration" for c in e["candidates"]}
    assert tried >= {"embedding", "heads1", "mlp1"}
    rounds = iter(range(100))
    with pytest.raises(Interrupted):
        run_search(config, tmp_path / "run", devices=jax.devices()[:1], should_stop=lambda: next(rounds) == 3)
    again = run_search(config, tmp_path / "run", devices=jax.devices()[:1])
    assert again["models"] == whole["models"]
    assert ledger.read(RunDir(tmp_path / "run").ledger).equals(ledger.read(RunDir(out).ledger))
