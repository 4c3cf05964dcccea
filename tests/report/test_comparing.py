"""Which runs may be compared, and what a comparison gives as data."""

import dataclasses
import json

import pytest
from rich.console import Console

import fednas_jax as fn
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config, DataConfig, SearchConfig
from fednas_jax.errors import RunError
from fednas_jax.files import write_json
from fednas_jax.phones import ledger, totals
from fednas_jax.report import comparing, contrasts
from fednas_jax.report.comparing import print_comparison
from fednas_jax.run.finished import Run

DATA = {"name": "digits", "fingerprint": "0badcafe", "image": [8, 8, 1], "classes": 10, "mean": [0.3], "std": [0.2]}


def member(iteration, macs, test):
    about = {"iteration": iteration, "widths": {"conv": macs}, "macs": macs, "params": macs, "score": 0.9}
    return about | {"test_accuracy": test, "client_seconds": 0.0}


@pytest.fixture
def made(tmp_path):
    """Makes a finished run's folder, without a ledger: nobody spent anything."""

    def make(name, config, fingerprint="0badcafe", tests=(0.5, 0.75, 1.0), seconds=0.0):
        result = {
            **{"method": config.method, "preset": config.preset, "seed": config.seed, "clients": 4},
            **{"stop_reason": "budget reached", "parent": member(0, 100, tests[0])},
            "models": [member(1, 60, tests[1]), member(2, 20, tests[2])],
            "client_cost": totals.client_cost(ledger.SCHEMA.empty_table(), 4),
        }
        result["client_cost"]["search"]["seconds"]["mean"] = seconds
        if fingerprint is not None:
            result["data"] = DATA | {"fingerprint": fingerprint}
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"config": to_json(config)})
        write_json(tmp_path / name / "result.json", result)
        return tmp_path / name

    return make


def changed(config=None, data=None, search=None, **fields):
    config = config or Config()
    if data:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, **data))
    if search:
        config = dataclasses.replace(config, search=dataclasses.replace(config.search, **search))
    return dataclasses.replace(config, **fields)


def test_a_comparison_is_data(made):
    runs = [made(f"{seed}", changed(seed=seed), tests=(0.5 + 0.1 * seed, 0.75, None), seconds=2) for seed in (0, 1)]
    runs.append(made("naive", changed(method="naive"), seconds=8))
    found = fn.compare([*runs, runs[0]])
    assert found.against == "naive"
    assert [line.name for line in found.lines] == [
        *("fednas, seed 0 (0)", "fednas, seed 1 (1)", "naive, seed 0 (naive)", "fednas, mean of 2 runs")
    ]
    mean = found.lines[-1]
    assert mean.runs == (runs[0], runs[1])
    assert mean.parent == pytest.approx(0.55)
    assert mean.accuracy == {0.75: 0.75, 0.5: None, 0.25: None}  # the smallest was not tested
    assert (mean.client_seconds, mean.cheaper) == (2, pytest.approx(4))
    assert mean.phases == dict.fromkeys(ledger.PHASES, 0.0)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("other", "fingerprint", "said"),
    [
        ({}, "12345678", "the data set's fingerprint ('0badcafe', '12345678')"),
        (
            {"data": {"source": "mnist"}},
            "12345678",
            "the data set's fingerprint ('0badcafe', '12345678'); data.source ('digits', 'mnist')",
        ),
        ({"data": {"source": "mnist"}}, None, "data.source ('digits', 'mnist')"),
        ({"data": {"partition": "shards"}}, "0badcafe", "data.partition ('iid', 'shards')"),
        ({"data": {"alpha": 0.1, "validation": 0.5}}, "0badcafe", "data.alpha (0.5, 0.1); data.validation (0.2, 0.5)"),
        ({"search": {"metric": "macro_f1"}}, "0badcafe", "search.metric ('accuracy', 'macro_f1')"),
    ],
)
def test_runs_of_different_data_are_refused_and_the_fields_named(other, fingerprint, said, made):
    runs = [made("a", changed()), made("b", changed(**other), fingerprint)]
    with pytest.raises(RunError) as caught:
        fn.compare(runs)
    assert str(caught.value).startswith("compare: got runs of different data, want the same: ")
    assert str(caught.value).endswith(f"/a and {runs[1]} differ in {said}")


@pytest.mark.parametrize(
    "other",
    [
        {"preset": "digits"},  # a name says nothing of the data
        {"data": {"source": "columns", "folder": "elsewhere"}},  # the same data under another name
        {"method": "naive", "seed": 7, "search": {"rungs": ((1, 1),)}},
    ],
)
def test_runs_of_the_same_data_are_compared_however_it_is_called(other, made):
    assert len(fn.compare([made("a", changed()), made("b", changed(**other))]).lines) == 2


@pytest.mark.parametrize("source", ["synthetic", "synthetic_texts", "synthetic_tags", "mine:rings(examples=9)", "own"])
def test_data_that_a_seed_makes_differs_by_seed_and_may(source, made):
    config = changed(data={"source": source})
    runs = [made(f"{seed}", changed(config, seed=seed), f"{seed:08d}") for seed in (0, 1)]
    assert fn.compare(runs).lines[-1].name == "fednas, mean of 2 runs"
    for seed in (0, 1):  # whichever stands first
        again = made(f"again{seed}", changed(config, method="naive", seed=seed), "00000002")
        with pytest.raises(RunError, match="fingerprint"):
            fn.compare([*runs, again])
    elsewhere = made("elsewhere", changed(seed=1), "00000001")
    with pytest.raises(RunError, match=r"data\.source"):
        fn.compare([runs[0], elsewhere])


def test_methods_of_one_name_are_told_apart_and_the_costliest_is_the_baseline(made):
    few, many = (made(f"groups{groups}", changed(search={"groups": groups}), seconds=16 / groups) for groups in (2, 8))
    for paths in ([few, many], [many, few]):
        found = fn.compare(paths)
        assert found.against == "fednas, groups 2"
        assert {line.name: line.cheaper for line in found.lines} == {
            "fednas, groups 2, seed 0 (groups2)": 1,
            "fednas, groups 8, seed 0 (groups8)": pytest.approx(4),
        }


def test_long_names_leave_numbers_whole_on_a_narrow_terminal(made):
    train = dataclasses.replace(Config().train, learning_rate=0.123, momentum=0.456, local_epochs=3)
    runs = [made("a", changed(), seconds=20), made("b", changed(train=train), tests=(0.5, 0.8125, 1.0), seconds=5)]
    console = Console(width=80, record=True)
    print_comparison(console, runs)
    said = console.export_text()
    assert "0.8125" in said
    assert "cheaper: times, than fednas, local_epochs 1, learning_rate 0.05" in said
    assert "…" not in said


def test_ratios_are_of_pairs_and_a_seed_that_ran_twice_counts_once(made):
    cost = {("naive", 0): 80, ("naive", 1): 90, ("naive", 2): 500, ("fednas", 0): 10, ("fednas", 1): 5}
    runs = [made(f"{m}{seed}", changed(method=m, seed=seed), seconds=s) for (m, seed), s in cost.items()]
    runs.append(made("again", changed(), tests=(0.25, 0.75, 1.0), seconds=10))
    lines = {line.name.partition(" (")[0]: line for line in fn.compare(runs).lines}
    assert lines["fednas, seed 1"].cheaper == pytest.approx(18)
    mean = lines["fednas, mean of 3 runs"]
    assert mean.cheaper == pytest.approx(12)  # 8 and 18; seed 2 has no pair
    assert mean.client_seconds == 7.5
    assert mean.parent == pytest.approx((0.375 + 0.5) / 2)
    (told,) = [
        contrasts.contrast(m, contrasts.baseline(found))
        for found in [contrasts.methods(comparing.read(runs, "report")[0])]
        for m in found
        if m.name == "fednas"
    ]
    assert (told.cheaper.value, told.searched) == (pytest.approx(12), 2)
    assert told.parent.value == mean.parent


def test_parents_of_other_sizes_are_said(made):
    runs = [made("a", changed()), made("b", changed(seed=1))]
    result = json.loads((runs[1] / "result.json").read_text())
    result["parent"]["macs"] = 1000
    write_json(runs[1] / "result.json", result)
    (note,) = fn.compare(runs).notes
    assert note.startswith("Parents have 100 to 1,000 MACs: shares are of each run's own parent")


def test_a_smaller_network_that_stands_for_one_that_was_not_tested_is_said(made):
    runs = [made("all", changed()), made("least", changed(seed=1), tests=(0.5, None, 0.75))]
    found = fn.compare(runs)
    assert found.lines[1].accuracy[0.75] == 0.75
    (note,) = found.notes
    assert (
        note == "Within 75 % MACs in 1 of 2 runs the largest network was not tested: the accuracy is a smaller one's."
    )


def test_a_run_without_a_fingerprint_is_compared_by_its_config_which_is_said(made):
    runs = [made("new", changed()), made("old", changed(), None)]
    (note,) = fn.compare(runs).notes
    assert note.startswith(f"{runs[1]} is of an older version, without a fingerprint")
    console = Console(width=100, record=True)
    print_comparison(console, runs)
    assert note in console.export_text()


def test_no_run_is_refused():
    with pytest.raises(RunError, match="compare: got no run"):
        fn.compare([])


@pytest.mark.parametrize(
    ("preset", "source", "said"),
    [
        ("digits", "digits", "fednas on digits, seed 3"),
        ("digits", "dataset:0badcafe", "fednas on dataset:0badcafe (cnn), seed 3"),
        ("", "fashion_mnist", "fednas on fashion_mnist (cnn), seed 3"),
        ("mine", "synthetic", "fednas on synthetic (cnn), seed 3"),
    ],
)
def test_a_run_is_called_by_its_data_where_that_is_not_its_preset_s(preset, source, said, tmp_path):
    config = Config(preset=preset, data=DataConfig(source=source), search=SearchConfig())
    assert Run(tmp_path, config, {"method": "fednas", "preset": preset, "seed": 3}).title == said
