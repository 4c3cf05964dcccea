"""Whole runs, tiny: the family a run leaves, its ledger, and that stopping does not matter."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest

from fednas_jax import data, nets
from fednas_jax.config.methods import resolve
from fednas_jax.config.registries import SCHEDULES
from fednas_jax.config.schema import (
    Config,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    ParticipationConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.data.arrays import from_arrays
from fednas_jax.data.sources import OWN
from fednas_jax.errors import ConfigError, Interrupted, RunError, TrainingError
from fednas_jax.phones import ledger
from fednas_jax.run import loop, rounds
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search
from fednas_jax.run.verifying import verify_run
from fednas_jax.space import training_macs
from fednas_jax.space.probing import probe

TINY = Config(
    data=DataConfig(clients=6, partition="dirichlet", alpha=1.0, size_sigma=0.3),
    net=NetConfig(widths=(4, 8, 128), multiple=(1, 1, 8)),
    train=TrainConfig(batch_size=30, learning_rate=0.1, server_optimizer="momentum", server_learning_rate=0.7),
    pretrain=StageConfig(rounds=3),
    search=SearchConfig(
        reduction=0.13, decay=0.95, budget=0.6, groups=3, rungs=((1, 2), (1, 1)), growth=0.5, score_clients=3
    ),
    finetune=FinetuneConfig(rounds=2),
    engine=EngineConfig(lanes=2, checkpoint_rounds=2),
)


OTHERS = ("naive", "random", "uniform")  # methods that the long form tries too


def one_device(config, out, **more):
    return run_search(config, out, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return one_device(TINY, out), out


def without_clock(result):
    return {name: value for name, value in result.items() if name not in ("simulator", "checksum")}


def ledger_of(out):
    return ledger.read(RunDir(out).ledger).to_pandas().drop(columns=["stage", "phase"]).to_numpy()


def assert_same_run(out, other):
    mine, theirs = (RunDir(o).result() for o in (out, other))
    assert without_clock(mine) == without_clock(theirs)
    np.testing.assert_array_equal(ledger_of(out), ledger_of(other))


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


def test_the_ledger_equals_an_independent_count(finished):
    """MACs, bytes and examples from the division of the data and the widths of the events, without the engine."""
    result, out = finished
    dataset = data.load(TINY.data, TINY.seed)
    divided = data.partition(dataset.train.labels, TINY.data, TINY.seed)
    packed = data.pack(dataset.train, divided, TINY.data.validation, TINY.seed)
    found = probe(nets.build(TINY.net, (8, 8, 1), 10), TINY.net.multiple, check=False)
    widths = {
        (event["iteration"], k): tuple(candidate["widths"])
        for event in RunDir(out).events()
        if event["event"] == "iteration"
        for k, candidate in enumerate(event["candidates"])
    }
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    search_rows = frame[frame.stage == "search"]
    whole = found.macs(found.widths)
    training = training_macs.training_table(found)
    for row in search_rows.itertuples():
        sent = widths[row.iteration, row.candidate]
        batches = -(-int(packed.train_count[row.client]) // TINY.train.batch_size)
        examples, macs, passes, size = {
            "train": (batches * TINY.train.batch_size, training(sent), 3, 0),
            "evaluate": (int(packed.val_count[row.client]), found.macs(sent), 1, 0),
            "download": (0, 0, 0, found.size(sent)),
            "upload": (0, 0, 0, found.size(sent)),
        }[row.phase]
        assert (row.examples, row.macs, row.bytes) == (examples, examples * macs, size)
        # The paper's phone: 0.1 s for training one example of the parent, which is three passes; 2 Mbit/s.
        passes_macs = passes * examples * found.macs(sent)
        assert row.seconds == pytest.approx(0.1 * passes_macs / (3 * whole) + size / 250_000)
    spent = [*(m["client_seconds"] for m in result["models"])]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(search_rows.seconds.sum() / packed.clients)
    assert spent[-1] == pytest.approx(result["client_cost"]["search"]["seconds"]["mean"])


def test_groups_train_in_parallel_and_dropping_sends_clients_to_rest(finished):
    _, out = finished
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    trained = frame[(frame.stage == "search") & (frame.phase == "train")]
    # No client serves two candidates in a round, and each candidate's uploads are as many as its trainings.
    assert not trained.duplicated(["iteration", "round", "client"]).any()
    per_phase = frame.groupby(["stage", "phase"], observed=True).size()
    assert per_phase["search", "train"] == per_phase["search", "upload"]
    # Two of three candidates stay after a rung, so the second rung trains on two groups of two clients.
    first = trained[trained.iteration == 1]
    assert first.groupby("round").client.nunique().tolist() == [6, 4]
    assert first.groupby("round").candidate.nunique().tolist() == [3, 2]
    assert first.groupby("round").rung.unique().map(list).tolist() == [[1], [2]]
    assert (frame.rung == 0).equals(frame.stage != "search")


def test_one_common_sample_of_clients_scores_all_candidates(finished):
    _, out = finished
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    scored = frame[(frame.stage == "search") & (frame.phase == "evaluate")]
    samples = scored.groupby(["iteration", "round", "candidate"]).client.apply(tuple)
    assert all(len(set(s)) == 1 for _, s in samples.groupby(level=["iteration", "round"]))
    assert samples.map(len).eq(3).all()
    assert len(set(samples)) > 1  # redrawn


GROWING = dataclasses.replace(
    TINY,
    search=dataclasses.replace(
        TINY.search, score_clients=2, score_most=5, score_tolerance=0.2, score_error=0.5, score_alone=False
    ),
    participation=ParticipationConfig(availability="bernoulli", available=0.7),
)


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    out = tmp_path_factory.mktemp("growing") / "run"
    one_device(GROWING, out)
    return out


def test_a_panel_grows_in_pairs_until_the_decision_is_clear_and_is_charged_for_whom_it_asked(growing):
    frame = ledger.read(RunDir(growing).ledger).to_pandas()
    search = frame[(frame.stage == "search") & (frame.work == "scoring")]
    scored = search[search.phase == "evaluate"]
    samples = scored.groupby(["iteration", "round", "candidate"]).client.apply(tuple)
    assert all(len(set(s)) == 1 for _, s in samples.groupby(level=["iteration", "round"]))
    asked = samples.map(len)
    assert asked.between(1, 5).all()
    assert asked.nunique() > 1  # some were clear at once
    assert samples.map(lambda who: len(set(who)) == len(who)).all()  # nobody is asked twice
    assert len(search[search.phase == "download"]) == len(scored)
    told = [e for e in RunDir(growing).events() if e["event"] == "round" and e["stage"] == "search"]
    assert {(e["iteration"], e["round"]) for e in told if e["scores"]} == set(samples.index.droplevel("candidate"))


@pytest.mark.exhaustive
def test_a_growing_panel_that_was_stopped_equals_one_that_was_not_and_eight_devices_equal_one(growing, tmp_path):
    asked = iter([False] * 5)
    with pytest.raises(Interrupted):
        run_search(GROWING, tmp_path / "run", should_stop=lambda: next(asked, True))
    run_search(GROWING, tmp_path / "run")
    mine, theirs = (RunDir(out).result() for out in (tmp_path / "run", growing))
    assert [m["widths"] for m in mine["models"]] == [m["widths"] for m in theirs["models"]]
    assert mine["client_cost"]["search"]["bytes_down"] == theirs["client_cost"]["search"]["bytes_down"]


def test_a_finished_run_is_returned_and_left_alone(finished):
    result, out = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert one_device(TINY, out) == result
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_stopped_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch):
    """Stops when asked for the sixth time, in the middle of an iteration, and then goes on as on an accelerator."""
    asked = iter([False] * 5)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        one_device(TINY, out, should_stop=lambda: next(asked, True))
    assert RunDir(out).result() is None
    monkeypatch.setattr(loop, "_work_aside", lambda problem: True)  # checkpoints wait until the next round has begun
    one_device(TINY, out)
    assert_same_run(out, finished[1])
    kinds, wanted = ([e["event"] for e in RunDir(o).events()] for o in (out, finished[1]))
    assert kinds[-20:] == wanted[-20:]


class Killed(Exception):
    """Stands for a crash: nothing is saved any more."""


@pytest.mark.exhaustive
def test_killed_after_every_checkpoint_and_before_the_result_equals_uninterrupted(finished, tmp_path, monkeypatch):
    """Each process gets as far as one checkpoint further, and dies at the event after it; in every other they wait."""
    out, stages = tmp_path / "run", []

    def attempt(later):
        monkeypatch.setattr(loop, "_work_aside", lambda problem: later)
        saved = []

        def observe(event):
            if saved:
                raise Killed
            if event["event"] == "checkpoint":
                saved.append(event["stage"])
                stages.append(event["stage"])

        one_device(TINY, out, observe=observe)

    for number in range(40):
        began = time.perf_counter()
        try:
            attempt(later=number % 2 == 1)
            break
        except Killed:
            assert RunDir(out).result() is None
    assert set(stages) == {"pretrain", "search", "finetune", "test"}
    assert_same_run(out, finished[1])
    # The processes' times add up.
    assert RunDir(out).result()["simulator"]["wall_seconds"] > time.perf_counter() - began


@pytest.mark.exhaustive
def test_killed_before_a_checkpoint_is_written_takes_back_what_it_does_not_know(finished, tmp_path):
    out = tmp_path / "run"

    def observe(event):
        if event["event"] == "checkpoint" and event["stage"] == "search" and event["iteration"] == 2:
            raise Killed  # the ledger's file is written, its checkpoint is not

    with pytest.raises(Killed):
        one_device(TINY, out, observe=observe)
    one_device(TINY, out)
    assert_same_run(out, finished[1])
    kinds = [e["event"] for e in RunDir(out).events() if e["event"] not in ("resume", "checkpoint")]
    expected = [e["event"] for e in RunDir(finished[1]).events() if e["event"] != "checkpoint"]
    assert kinds == expected


@pytest.mark.exhaustive
def test_one_device_equals_eight(finished, tmp_path):
    out = tmp_path / "run"
    run_search(TINY, out)
    mine, theirs = RunDir(out).result(), finished[0]
    assert len(mine["simulator"]["devices"]) == 8
    assert [m["widths"] for m in mine["models"]] == [m["widths"] for m in theirs["models"]]
    assert [m["score"] for m in mine["models"]] == [m["score"] for m in theirs["models"]]
    np.testing.assert_array_equal(ledger_of(out), ledger_of(finished[1]))


@pytest.mark.parametrize("method", ["netadapt", *(pytest.param(m, marks=pytest.mark.exhaustive) for m in OTHERS)])
def test_every_method_is_a_setting_of_the_same_machine(method, tmp_path):
    config = dataclasses.replace(
        TINY,
        method=method,
        search=dataclasses.replace(
            TINY.search, max_iterations=1, settle_rounds=2, random_candidates=3, clients_per_group=1
        ),
        finetune=FinetuneConfig(rounds=0),
        pretrain=StageConfig(rounds=1),
    )
    out = tmp_path / method
    result = one_device(config, out)
    assert result["stop_reason"] == "max_iterations reached"
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    trained = frame[(frame.stage == "search") & (frame.phase == "train")]
    by_round = trained.groupby("round")
    expected = {
        # rounds: (candidates, clients, tasks); one client of each group, where clients are divided into groups
        "naive": [(3, 6, 18)] * 2,
        "netadapt": [(3, 1, 3)] * 2,
        "random": [(3, 3, 3), (2, 2, 2)],
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


@pytest.mark.exhaustive
def test_a_metric_without_a_value_on_the_test_split_is_said_and_ends_no_run(tmp_path):
    """The area under the curve of a test split in which all labels are alike."""
    made = data.load(TINY.data, 0)
    test = made.test._replace(labels=np.zeros(len(made.test.labels), np.int32))
    config = dataclasses.replace(
        TINY,
        pretrain=StageConfig(rounds=0),
        search=dataclasses.replace(TINY.search, reduction=0.99, budget=0.9, metric="auc"),
        finetune=FinetuneConfig(rounds=0),
    )
    result = one_device(
        config, tmp_path / "run", dataset=from_arrays(made.train.inputs, made.train.labels % 2, test=test)
    )
    assert result["parent"]["test_score"] is None
    assert result["parent"]["test_accuracy"] is not None
    assert "iteration 0: auc has no value on the test split" in result["warnings"]


def late_storm(rounds):
    """A schedule that spoils fine-tuning, which has two rounds, and leaves pretraining alone."""
    return lambda n: 1e6 if rounds == 2 else 1.0


def test_fine_tuning_that_diverges_keeps_the_members_as_they_were_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(SCHEDULES._homes, "late_storm", late_storm)
    config = dataclasses.replace(
        TINY,
        train=dataclasses.replace(TINY.train, schedule="late_storm"),
        search=dataclasses.replace(TINY.search, max_iterations=1),
    )
    seen = []
    result = one_device(config, tmp_path / "run", observe=seen.append)
    # Updates may be left out, or be numbers of which logits are none: whatever it was, it is said.
    spoiled = {e["iteration"] for e in seen if e["event"] == "diverged"}
    assert spoiled
    assert all(any(w.startswith(f"iteration {n}: ") for w in result["warnings"]) for n in spoiled)
    assert all(m["iteration"] in spoiled for m in (result["parent"], result["models"][0]) if m["test_accuracy"] is None)
    assert result["models"][0]["score"] > 0.2


def test_a_parent_that_diverges_stops_in_that_round_and_names_the_learning_rate(tmp_path):
    config = dataclasses.replace(
        TINY, train=TrainConfig(batch_size=30, learning_rate=1000.0), pretrain=StageConfig(rounds=50)
    )
    with pytest.raises(
        TrainingError, match=r"diverged in round \d+: .*train\.learning_rate=1000, try a lower"
    ) as caught:
        one_device(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert verify_run(tmp_path / "run").step is not None  # the checkpoint before that round


@pytest.mark.parametrize("learning_rate", [2.0, 6.0])
def test_a_parent_at_chance_is_a_warning_in_the_result_and_on_the_screen(learning_rate, tmp_path):
    """Rates that are too high, but not so high that anything is no number any more."""
    config = dataclasses.replace(
        TINY,
        train=dataclasses.replace(TINY.train, learning_rate=learning_rate),
        search=dataclasses.replace(TINY.search, max_iterations=1),
        finetune=FinetuneConfig(rounds=0),
    )
    seen = []
    result = one_device(config, tmp_path / "run", observe=seen.append)
    (warning,) = result["warnings"]
    assert "at chance level" in warning
    assert f"train.learning_rate={learning_rate:g}" in warning
    assert {"event": "warning", "message": warning} in seen
    assert result["parent"]["test_accuracy"] is not None


def test_a_candidate_that_is_lost_is_dropped_and_recorded(tmp_path, monkeypatch):
    """All updates of the first candidate of the first iteration are left out, as an overflow would leave them."""
    real = rounds.begin

    def begin(problem, team, moment, *more):
        collect = real(problem, team, moment, *more)

        def lossy():
            done = collect()
            sent = np.bincount(done.tasks.candidate, minlength=problem.slots)
            lost = np.where((np.arange(problem.slots) == 0) & (moment.stage == "search"), sent, 0)
            return done._replace(left_out=lost)

        return lossy

    monkeypatch.setattr(rounds, "begin", begin)
    config = dataclasses.replace(
        TINY, search=dataclasses.replace(TINY.search, max_iterations=1), finetune=FinetuneConfig(rounds=0)
    )
    seen = []
    result = one_device(config, tmp_path / "run", observe=seen.append)
    (began,) = (e for e in seen if e["event"] == "iteration")
    first = began["candidates"][0]["name"]
    (drop,) = (e for e in seen if e["event"] == "drop")
    assert drop["candidates"] == [first]
    assert drop["nonfinite"] == [first]
    assert list(result["models"][0]["widths"].values()) != began["candidates"][0]["widths"]


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


def test_data_of_ones_own_is_searched_on_and_no_run_goes_on_with_other_data(finished, tmp_path):
    train, test = data.load(TINY.data, 0).train, data.load(TINY.data, 0).test
    mine = from_arrays(train.inputs, train.labels, test=test)
    config = dataclasses.replace(
        TINY, search=dataclasses.replace(TINY.search, max_iterations=1), finetune=FinetuneConfig(rounds=0)
    )
    result = one_device(config, tmp_path / "run", dataset=mine)
    # The same examples as those of the source: the same search.
    assert result["models"][0]["score"] == finished[0]["models"][0]["score"]
    assert one_device(config, tmp_path / "run", dataset=mine) == result
    other = from_arrays(255 - train.inputs, train.labels, test=test)
    for dataset in (other, None):
        with pytest.raises(RunError, match=r"data\.source: 'dataset:\w{8}'"):
            one_device(config, tmp_path / "run", dataset=dataset)


def test_no_run_goes_on_with_a_source_that_yields_something_else_by_now(tmp_path, monkeypatch):
    """Such as a file in which a label was corrected while the run lay still: nothing of the config tells."""
    train, test = data.load(TINY.data, 0).train, data.load(TINY.data, 0).test
    labels = train.labels.copy()
    monkeypatch.setitem(OWN._homes, "file", lambda seed: from_arrays(train.inputs, labels, test=test))
    config = dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, source="file"))
    with pytest.raises(Interrupted):
        one_device(config, tmp_path / "run", should_stop=lambda: True)
    labels[0] = (labels[0] + 1) % 10
    with pytest.raises(RunError, match=r"data\.source: got data of fingerprint \w{8}, want '\w{8}', with which this"):
        one_device(config, tmp_path / "run")
    labels[0] = train.labels[0]
    with pytest.raises(Interrupted):
        one_device(config, tmp_path / "run", should_stop=lambda: True)


@pytest.mark.exhaustive
def test_several_budgets_hold_at_the_end_and_the_members_asked_for_are_tested(tmp_path):
    budgets = {"resource": "memory,macs", "budget": (0.8, 0.55)}
    config = dataclasses.replace(
        TINY,
        net=NetConfig(widths=(4, 8, 16), multiple=(1, 1, 4)),
        pretrain=StageConfig(rounds=0),
        search=dataclasses.replace(TINY.search, **budgets, reduction=0.25, rungs=((1, 1),), compact_at=0.99),
        finetune=FinetuneConfig(rounds=0, members=(0,), shares=(0.9, 0.7, 0.01)),
    )
    result = one_device(config, tmp_path / "run")
    assert result["stop_reason"] == "budget reached"
    within = [max(m["macs"] for m in result["models"] if m["macs"] <= s * result["parent"]["macs"]) for s in (0.9, 0.7)]
    tested = [m["macs"] for m in (result["parent"], *result["models"]) if m["test_accuracy"] is not None]
    assert tested == [result["parent"]["macs"], *within]
    memory, macs = (
        [m["resources"][name] for m in (result["parent"], *result["models"])] for name in ("memory", "macs")
    )
    # Image and first convolution at 8x8, 4 bytes a number: 64 + 64 x 4 channels.
    assert memory[0] == 4 * (64 + 64 * 4)
    assert result["budgets"] == [
        {"resource": "memory", "budget": 0.8 * memory[0], "unit": "bytes"},
        {"resource": "macs", "budget": 0.55 * macs[0], "unit": "MACs"},
    ]
    assert memory[-1] <= 0.8 * memory[0]
    assert macs[-1] <= 0.55 * macs[0]
    steps = [e for e in RunDir(tmp_path / "run").events() if e["event"] == "iteration"]
    for n, step in enumerate(steps):
        excess = {"memory": memory[n] / (0.8 * memory[0]), "macs": macs[n] / (0.55 * macs[0])}
        assert excess[step["resource"]] == max(excess.values()) > 1
        assert {"memory": memory, "macs": macs}[step["resource"]][n + 1] < step["target"]
