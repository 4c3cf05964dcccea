"""`fednas pretrain` and `--parent`: one parent for many searches, stopped or not, and what is said of its cost."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from fednas_jax import nets
from fednas_jax.cli.app import main
from fednas_jax.config.presets import fitted, preset
from fednas_jax.config.schema import EngineConfig, FinetuneConfig, NetConfig, StageConfig
from fednas_jax.errors import ConfigError, Interrupted, RunError
from fednas_jax.phones import ledger
from fednas_jax.run import finished, parents
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search
from fednas_jax.space import probing

DIGITS = preset("digits")
# The shapes of test_hosts.py, so that what is compiled for one is found by the other.
SEARCH = dataclasses.replace(
    DIGITS,
    data=dataclasses.replace(DIGITS.data, clients=5, size_sigma=0.3),
    net=dataclasses.replace(DIGITS.net, widths=(4, 8, 16)),
    train=dataclasses.replace(DIGITS.train, batch_size=60, server_optimizer="momentum"),
    pretrain=StageConfig(rounds=4),
    search=dataclasses.replace(DIGITS.search, reduction=0.2, budget=0.5, groups=2, score_clients=3, max_iterations=1),
    finetune=FinetuneConfig(rounds=0),
    engine=EngineConfig(lanes=2, checkpoint_rounds=2),
)
PRETRAIN = dataclasses.replace(SEARCH, command="pretrain")


def one_device(config, out, **more):
    return run_search(config, out, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    out = tmp_path_factory.mktemp("pretrain") / "run"
    return one_device(PRETRAIN, out), out


def with_parent(parent, rounds=0):
    return dataclasses.replace(SEARCH, parent=parent, pretrain=StageConfig(rounds=rounds))


def without_clock(result):
    return {name: value for name, value in result.items() if name not in ("simulator", "checksum")}


def frame(out):
    return ledger.read(RunDir(out).ledger).to_pandas()


def test_a_pretraining_leaves_a_parent_its_score_and_its_cost(pretrained):
    result, out = pretrained
    assert json.loads((out / "result.json").read_text()) == result
    assert result["stop_reason"] == "pretrained"
    assert result["models"] == []
    assert result["parent"]["score"] > 0.1
    assert result["parent"]["test_accuracy"] is None  # the test split is for what a search found
    assert (out / "models" / "000" / "variables").is_dir()
    rows = frame(out)
    assert set(rows.stage) == {"pretrain"}
    assert rows["round"].max() == 4
    spent = result["client_cost"]["pretrain"]["seconds"]
    assert spent["total"] == pytest.approx(rows.seconds.sum())
    assert spent == result["client_cost"]["all"]["seconds"]


@pytest.mark.exhaustive
def test_a_search_from_it_is_the_search_that_pretrains_itself(pretrained, tmp_path):
    alone = one_device(SEARCH, tmp_path / "alone")
    shared = one_device(with_parent(pretrained[1]), tmp_path / "shared")
    for name in ("parent", "models", "stop_reason"):
        assert shared[name] == alone[name]
    mine, theirs = frame(tmp_path / "shared"), frame(tmp_path / "alone")
    for stage in ("search", "finetune"):
        left, right = (rows[rows.stage == stage].reset_index(drop=True) for rows in (mine, theirs))
        assert left.equals(right)
    # What it spends before the search is one evaluation of the parent by every client.
    before = mine[mine.stage == "pretrain"]
    assert before.phase.value_counts()[lambda count: count > 0].to_dict() == {"download": 5, "evaluate": 5}
    assert shared["parent_source"] == {
        "path": str(pretrained[1]),
        "in_ledger": False,
        "client_cost": pretrained[0]["client_cost"]["pretrain"],
        "parent_source": None,
    }
    assert alone["parent_source"] is None
    # The pretraining's ledger is that stage of the search's.
    assert frame(pretrained[1]).seconds.sum() == pytest.approx(theirs[theirs.stage == "pretrain"].seconds.sum())


def test_a_stopped_pretraining_is_no_parent_and_goes_on_and_a_finished_one_is_left_alone(pretrained, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        one_device(PRETRAIN, out, should_stop=lambda: True)  # after the first round
    assert RunDir(out).result() is None
    with pytest.raises(ConfigError, match="this run's parent is not trained yet; its own command goes on with it"):
        one_device(with_parent(out), tmp_path / "search")
    assert not (tmp_path / "search").exists()
    result = one_device(PRETRAIN, out)
    assert without_clock(result) == without_clock(pretrained[0])
    np.testing.assert_array_equal(frame(out).seconds, frame(pretrained[1]).seconds)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert one_device(PRETRAIN, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.exhaustive
def test_a_run_that_goes_on_needs_its_parent_no_more_and_still_says_whose_it_was(pretrained, tmp_path):
    parent = tmp_path / "parent"
    shutil.copytree(pretrained[1], parent)
    config = dataclasses.replace(with_parent(parent, rounds=2), command="pretrain")
    seen = []
    with pytest.raises(Interrupted):
        one_device(config, tmp_path / "run", observe=seen.append, should_stop=lambda: True)
    assert {"event": "load", "path": str(parent)} in seen
    shutil.rmtree(parent)
    result = one_device(config, tmp_path / "run")
    assert result["parent_source"]["path"] == str(parent)
    assert frame(tmp_path / "run")["round"].max() == 2
    # A parent of this one knows both.
    found = probing.probe(nets.build(SEARCH.net, (8, 8, 1), 10), SEARCH.net.multiple, check=False)
    source = parents.load(tmp_path / "run" / "models" / "000", found).source
    assert source["client_cost"] == result["client_cost"]["pretrain"]
    assert source["parent_source"] == result["parent_source"]


def test_whatever_path_leads_to_a_runs_parent_its_cost_is_known(pretrained, monkeypatch):
    result, out = pretrained
    found = probing.probe(nets.build(SEARCH.net, (8, 8, 1), 10), SEARCH.net.multiple, check=False)
    for folder, path in ((out, "."), (out.parent, out.name), (out / "models", "000"), (out, "models/000/variables")):
        monkeypatch.chdir(folder)
        assert parents.load(Path(path), found).source["client_cost"] == result["client_cost"]["pretrain"]


def test_a_parent_that_training_makes_worse_is_a_warning(pretrained, tmp_path):
    start = with_parent(pretrained[1])
    config = dataclasses.replace(
        start,
        train=dataclasses.replace(start.train, learning_rate=1.0),
        pretrain=StageConfig(rounds=1),
        search=dataclasses.replace(start.search, max_iterations=1),
        finetune=FinetuneConfig(rounds=0),
    )
    warnings = one_device(config, tmp_path / "run")["warnings"]
    assert any(w.startswith("the parent is worse than it was given: ") for w in warnings), warnings


def test_a_search_does_not_go_on_in_a_pretrainings_folder(pretrained):
    with pytest.raises(RunError, match=r"holds a run of another config.*: command: 'pretrain', 'search' now"):
        one_device(SEARCH, pretrained[1])
    with pytest.raises(RunError, match=r"is a pretrained parent, want a finished search: .*--parent"):
        finished.load_run(pretrained[1])


@pytest.mark.parametrize(
    ("command", "rounds"),
    [
        ("search digits", 40),
        ("search digits --parent x", 0),
        ("search digits --pretrain.rounds 3 --parent x", 3),
        ("search digits --parent x --pretrain.rounds 40", 40),
        ("pretrain digits", 40),
        ("pretrain digits --parent x", 40),
    ],
)
def test_a_given_parent_needs_no_pretraining_unless_its_rounds_are_typed(command, rounds, monkeypatch, tmp_path):
    assert typed(command, monkeypatch, tmp_path).pretrain.rounds == rounds


def test_another_network_has_its_own_widths_and_multiples_unless_they_are_typed(monkeypatch, tmp_path):
    for spelling in ("--net mobilenet_v1", "--net=mobilenet_v1", "--net.name mobilenet_v1"):
        assert typed(f"search digits {spelling}", monkeypatch, tmp_path).net == NetConfig(name="mobilenet_v1")
    net = typed("search digits --net.multiple 4 --net mobilenet_v1", monkeypatch, tmp_path).net
    assert net == NetConfig(name="mobilenet_v1", multiple=(4,))
    assert typed("search digits --net cnn", monkeypatch, tmp_path).net == preset("digits").net
    assert fitted(preset("digits"), "cnn", None) == preset("digits")


def typed(command, monkeypatch, folder):
    """The config that a command would run."""
    seen = []

    def run(config, *args, **kwargs):
        seen.append(config)
        raise Interrupted

    monkeypatch.setattr("fednas_jax.run.loop.run_search", run)
    monkeypatch.setattr("fednas_jax.runtime.cache.keep_compiled_programs", lambda: None)
    assert main([*shlex.split(command), "--out", str(folder / "run")]) == 143
    return seen[0]
