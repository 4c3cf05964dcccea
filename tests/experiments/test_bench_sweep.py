"""What a warm worker saves is measured in turns, and only where both ways find the same networks."""

import importlib
import json
import types
from pathlib import Path

import pytest

import fednas_jax as fn

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")  # which the command changes for all that it starts
    return importlib.import_module("bench_sweep")


def leave(run, widths):
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps({"models": [{"widths": {"conv": widths}}]}))


def fake(monkeypatch, bench, warm_widths=4, packed_widths=4, two_widths=4):
    """Both ways leave a result at once; returns in which order they were asked."""
    asked = []

    def run_sweep(trials, out, base, observe=None, **how):
        if how:
            asked.append((how, len(trials)))
            for n in range(len(trials)):
                leave(Path(out) / "trials" / str(n), packed_widths if "pack" in how else two_widths)
            return types.SimpleNamespace(failed=0)
        observe({"event": "sweep"})
        for n, fields in enumerate(trials):
            leave(Path(out) / "trials" / str(n), warm_widths)
            asked.append(("warm", fields["seed"], fields["train.learning_rate"]))
            observe({"event": "trial", "trial": str(n), "status": "finished"})
        return types.SimpleNamespace(failed=0)

    def own_process(fields, out, tiny):
        leave(out, 4)
        asked.append(("processes", fields["seed"], fields["train.learning_rate"]))
        return 50.0

    monkeypatch.setattr(fn, "run_sweep", run_sweep)
    monkeypatch.setattr(bench, "own_process", own_process)
    return asked


def test_trials_take_turns(bench, monkeypatch, tmp_path, capsys):
    asked = fake(monkeypatch, bench)
    bench.main(["--seeds", "2", "--rates", "0.1", "0.2", "--out", str(tmp_path / "b")])
    each = [(seed, rate) for seed in (0, 1) for rate in (0.1, 0.2)]
    turns = [(mode, *trial) for trial in each for mode in ("warm", "processes")]
    assert asked == [*turns, ({"workers": 2}, 4), ({"pack": "auto"}, 4)]
    said, warned = capsys.readouterr()
    assert not warned
    assert (tmp_path / "b" / "table.md").read_text() == said
    assert "| processes | 50.0 | 50.0 | 200 | 1.00 |" in said


def test_other_sweeps_are_run_as_told(bench, monkeypatch, tmp_path, capsys):
    asked = fake(monkeypatch, bench)
    bench.main(["--tiny", "--modes", "packed", "--out", str(tmp_path / "b")])
    assert [how for how, *_ in asked if not isinstance(how, str)] == [{"pack": "auto"}]
    assert "two workers" not in capsys.readouterr().out


def test_the_table_by_hand(bench):
    lines = bench.table({"processes": [40.0, 30.0, 20.0, 30.0], "warm": [42.0, 6.0, 8.0, 4.0]}).splitlines()
    assert lines[2:] == ["| processes | 40.0 | 30.0 | 120 | 1.00 |", "| warm | 42.0 | 6.0 | 60 | 2.00 |"]
    lines = bench.table({"processes": [40.0, 40.0], "packed": [20.0]}).splitlines()
    assert lines[3] == "| packed | - | - | 20 | 4.00 |"


@pytest.mark.parametrize("widths", [{"warm_widths": 8}, {"packed_widths": 8}])
def test_other_networks_are_an_error_and_not_a_result(bench, monkeypatch, tmp_path, widths):
    fake(monkeypatch, bench, **widths)
    with pytest.raises(SystemExit, match=r"0(, 1)?: the modes found other networks"):
        bench.main(["--tiny", "--out", str(tmp_path / "b")])


def test_two_workers_may_find_other_networks_and_it_is_said(bench, monkeypatch, tmp_path, capsys):
    fake(monkeypatch, bench, two_widths=8)
    bench.main(["--tiny", "--out", str(tmp_path / "b")])
    assert capsys.readouterr().err == "two-workers: 2 of 2 trials found other networks\n"


def test_a_folder_that_is_there_and_one_trial_are_refused(bench, tmp_path, capsys):
    for options, said in (
        (["--out", str(tmp_path)], "want a new folder"),
        (["--out", str(tmp_path / "b"), "--seeds", "1", "--rates", "0.1"], "want at least two"),
    ):
        with pytest.raises(SystemExit) as error:
            bench.main(options)
        assert error.value.code == 2
        assert said in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_tiny_form_measures_all(bench, tmp_path, capsys):
    bench.main(["--tiny", "--out", str(tmp_path / "b")])
    modes = [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert modes == ["| processes", "| warm", "| two workers", "| packed"]
