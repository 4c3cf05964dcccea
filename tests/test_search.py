"""Whole runs, tiny: the family a run leaves, its ledger, and that stopping does not matter."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fednas_jax import cost
from fednas_jax.config import (
    Config,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
    resolve,
)
from fednas_jax.errors import ConfigError, Interrupted, RunError, TrainingError
from fednas_jax.rundir import RunDir
from fednas_jax.search import run_search

TINY = Config(
    data=DataConfig(clients=6, partition="dirichlet", alpha=1.0, size_sigma=0.3),
    net=NetConfig(widths=(4, 8, 128), multiple=(1, 1, 8)),
    train=TrainConfig(batch_size=30, learning_rate=0.1),
    pretrain=StageConfig(rounds=3),
    search=SearchConfig(
        reduction=0.13, decay=0.95, budget=0.6, groups=3, rungs=((1, 2), (1, 1)), growth=0.5, score_clients=3
    ),
    finetune=FinetuneConfig(rounds=2),
    engine=EngineConfig(lanes=2, checkpoint_rounds=2),
)


def one_device(config, out, **more):
    return run_search(config, out, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return one_device(TINY, out), out


def without_clock(result):
    return {name: value for name, value in result.items() if name != "simulator"}


def ledger(out):
    return cost.read(RunDir(out).ledger).to_pandas().drop(columns=["stage", "phase"]).to_numpy()


def assert_same_run(out, other):
    mine, theirs = (RunDir(o).result() for o in (out, other))
    assert without_clock(mine) == without_clock(theirs)
    np.testing.assert_array_equal(ledger(out), ledger(other))


def test_a_run_leaves_what_its_contract_says(finished):
    result, out = finished
    assert json.loads((out / "result.json").read_text()) == result
    assert result["finished"]
    assert result["stop_reason"] == "budget reached"
    macs = [result["parent"]["macs"], *(m["macs"] for m in result["models"])]
    assert macs == sorted(macs, reverse=True)
    assert macs[-1] <= 0.6 * macs[0] < macs[-2]
    for n, model in enumerate(result["models"], 1):
        assert model["iteration"] == n
        assert json.loads((out / model["path"] / "widths.json").read_text())["widths"] == model["widths"]
        assert (out / model["path"] / "variables").is_dir()
        assert 0.2 < model["test_accuracy"] <= 1
    events = RunDir(out).events()
    assert {"round", "drop", "select", "compact", "checkpoint", "parent", "stop", "finished"} <= {
        e["event"] for e in events
    }
    assert set(result["simulator"]) >= {
        "wall_seconds",
        "compile_seconds",
        "compilations",
        "examples_per_second",
        "devices",
    }


def test_the_round_is_compiled_once_for_each_physical_shape(finished):
    result, out = finished
    compactions = sum(e["event"] == "compact" for e in RunDir(out).events())
    assert len(result["models"]) > compactions
    assert result["simulator"]["compilations"] == 1 + compactions


def test_the_ledger_equals_an_independent_count_of_the_events(finished):
    _, out = finished
    events, frame = RunDir(out).events(), cost.read(RunDir(out).ledger).to_pandas()
    rounds = [e for e in events if e["event"] == "round" and e["stage"] == "search"]
    assert frame[frame.stage == "search"].seconds.sum() == pytest.approx(sum(e["client_seconds"] for e in rounds))
    # No client serves two candidates in a round, and each candidate's uploads are as many as its trainings.
    trained = frame[(frame.stage == "search") & (frame.phase == "train")]
    assert not trained.duplicated(["iteration", "round", "client"]).any()
    per_phase = frame.groupby(["stage", "phase"], observed=True).size()
    assert per_phase["search", "train"] == per_phase["search", "upload"]
    # Two of three candidates stay after a rung, so the second rung trains on two groups of two clients.
    first = trained[trained.iteration == 1]
    assert first.groupby("round").client.nunique().tolist() == [6, 4]
    assert first.groupby("round").candidate.nunique().tolist() == [3, 2]


def test_scores_come_from_validation_examples_of_a_common_sample(finished):
    _, out = finished
    frame = cost.read(RunDir(out).ledger).to_pandas()
    scored = frame[(frame.stage == "search") & (frame.phase == "evaluate")]
    samples = scored.groupby(["iteration", "round", "candidate"]).client.apply(tuple)
    assert all(len(set(s)) == 1 for _, s in samples.groupby(level=["iteration", "round"]))
    assert samples.map(len).eq(3).all()
    assert len(set(samples)) > 1  # redrawn


def test_a_finished_run_is_returned_and_left_alone(finished):
    result, out = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert one_device(TINY, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


@pytest.mark.parametrize("stops", [2, 5, 11])
def test_stopped_and_resumed_equals_uninterrupted(finished, tmp_path, stops):
    """Stops after the n-th round, wherever that is, and then goes on."""
    asked = iter([False] * (stops - 1))
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        one_device(TINY, out, should_stop=lambda: next(asked, True))
    assert RunDir(out).result() is None
    one_device(TINY, out)
    assert_same_run(out, finished[1])


def test_killed_in_the_middle_and_resumed_equals_uninterrupted(finished, tmp_path):
    """A crash leaves events and ledger files that no checkpoint knows; they are taken back."""

    class Killed(Exception):
        pass

    out, seen = tmp_path / "run", []

    def observe(event):
        seen.append(event)
        if event["event"] == "checkpoint" and event["stage"] == "search" and event["iteration"] == 2:
            raise Killed  # the ledger's file is written, its checkpoint is not

    with pytest.raises(Killed):
        one_device(TINY, out, observe=observe)
    one_device(TINY, out)
    assert_same_run(out, finished[1])
    kinds = [e["event"] for e in RunDir(out).events() if e["event"] not in ("resume", "checkpoint")]
    expected = [e["event"] for e in RunDir(finished[1]).events() if e["event"] != "checkpoint"]
    assert kinds == expected


def test_one_device_equals_eight(finished, tmp_path):
    out = tmp_path / "run"
    run_search(TINY, out)
    mine, theirs = RunDir(out).result(), finished[0]
    assert len(mine["simulator"]["devices"]) == 8
    assert [m["widths"] for m in mine["models"]] == [m["widths"] for m in theirs["models"]]
    assert [m["score"] for m in mine["models"]] == [m["score"] for m in theirs["models"]]
    np.testing.assert_array_equal(ledger(out), ledger(finished[1]))


@pytest.mark.parametrize("method", ["naive", "netadapt", "random", "uniform"])
def test_every_method_is_a_setting_of_the_same_machine(method, tmp_path):
    config = dataclasses.replace(
        TINY,
        method=method,
        search=dataclasses.replace(TINY.search, max_iterations=1, settle_rounds=2, random_candidates=3),
        finetune=FinetuneConfig(rounds=0),
        pretrain=StageConfig(rounds=1),
    )
    out = tmp_path / method
    result = one_device(config, out)
    assert result["stop_reason"] == "max_iterations reached"
    frame = cost.read(RunDir(out).ledger).to_pandas()
    trained = frame[(frame.stage == "search") & (frame.phase == "train")]
    by_round = trained.groupby("round")
    expected = {
        # rounds: (candidates, clients, tasks)
        "naive": [(3, 6, 18)] * 2,
        "netadapt": [(3, 1, 3)] * 2,
        "random": [(3, 6, 6), (2, 4, 4)],
        "uniform": [(1, 6, 6)] * 2,
    }[method]
    assert list(zip(by_round.candidate.nunique(), by_round.client.nunique(), by_round.size(), strict=True)) == expected


def test_each_optimisation_has_a_switch_of_its_own():
    for switch in ("partial_clients", "early_dropping", "dynamic_rounds"):
        config = dataclasses.replace(TINY, search=dataclasses.replace(TINY.search, **{switch: False}))
        resolved = resolve(config).search
        others = {"partial_clients", "early_dropping", "dynamic_rounds"} - {switch}
        assert getattr(resolved, switch) is False
        assert all(getattr(resolved, other) is True for other in others)


def test_a_search_that_nothing_can_shrink_says_so(tmp_path):
    config = dataclasses.replace(
        TINY,
        pretrain=StageConfig(rounds=0),
        search=dataclasses.replace(TINY.search, reduction=0.99, budget=0.9),
        finetune=FinetuneConfig(rounds=0),
    )
    result = one_device(config, tmp_path / "run")
    assert result["stop_reason"] == "no candidate is feasible"
    assert result["models"] == []
    assert result["parent"]["test_accuracy"] is not None


def test_training_that_diverges_stops_in_one_line(tmp_path):
    config = dataclasses.replace(TINY, train=TrainConfig(batch_size=30, learning_rate=1e12))
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate") as caught:
        one_device(config, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_another_config_is_refused_by_the_names_of_its_fields(finished):
    config = dataclasses.replace(TINY, seed=5, train=dataclasses.replace(TINY.train, momentum=0.5))
    with pytest.raises(RunError, match=r"seed: 0, 5 now; train\.momentum: 0\.9, 0\.5 now"):
        one_device(config, finished[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"budget": 0.001},
            r"search\.budget: got 0\.001, want at least 0\.\d+, the macs of the smallest widths",
        ),
        ({"rungs": ((1, 9), (1, 1))}, r"search\.rungs: got keep=9, want at most 3, the number of candidates"),
        ({"groups": 7}, r"search\.groups: got 7, want at most data\.clients, which is 6"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(change, message, tmp_path):
    config = dataclasses.replace(TINY, search=dataclasses.replace(TINY.search, **change))
    with pytest.raises(ConfigError, match=message):
        one_device(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
