"""A sweep's folder from first to last, with trials that train nothing."""

import gc
import json
import tracemalloc

import pyarrow.parquet as pq
import pytest
from stub_trials import StubPool

from fednas_jax.cli import signals
from fednas_jax.cli.app import main
from fednas_jax.config.presets import preset
from fednas_jax.errors import FednasError, Interrupted, RunError
from fednas_jax.run.lock import Lock
from fednas_jax.run.manifest import sealed
from fednas_jax.sweep import running
from fednas_jax.sweep.designs import grid
from fednas_jax.sweep.folder import SweepDir
from fednas_jax.sweep.running import run_sweep
from fednas_jax.sweep.scheduling import Outcome


@pytest.fixture
def pool(monkeypatch):
    """The pool of the next sweeps."""
    made = StubPool()
    monkeypatch.setattr(running, "_pool", lambda *of_sweep: made)
    return made


def rows(out):
    return {row["trial"]: row for row in pq.read_table(out / "trials.parquet").to_pylist()}


def seeds(*numbers, **more):
    return [{"seed": n} | more for n in numbers]


def fails_with(error, *seeds):
    return lambda values, tries: Outcome("failed", error, "Traceback", 2.0) if values["seed"] in seeds else None


def test_the_table_has_a_row_for_each_trial_in_their_order(tmp_path, pool):
    trials = grid({"method": ["fednas", "naive"], "data.alpha": [0.5, 1], "seed": [0, 1]})
    assert run_sweep(trials, tmp_path / "s", "digits") == (tmp_path / "s", 8, 0, 0)
    table = pq.read_table(tmp_path / "s" / "trials.parquet")
    assert table.column_names[:5] == ["trial", "method", "data.alpha", "seed", "status"]
    assert table["data.alpha"].to_pylist() == [0.5, 0.5, 1.0, 1.0] * 2
    row = table.to_pylist()[1]
    assert row["trial"] == "fednas-alpha0.5-seed1"
    assert (row["status"], row["error"], row["stop_reason"], row["iterations"]) == (
        "finished",
        None,
        "budget reached",
        2,
    )
    assert (row["parent_accuracy"], row["accuracy_75"], row["accuracy_50"], row["accuracy_25"]) == (
        0.9,
        0.8,
        0.701,
        0.701,
    )
    assert (row["macs_75"], row["seconds"], row["megabytes_up"], row["wall_seconds"]) == (600, 2.5e6, 2.5, 1.5)
    assert pool.closed


@pytest.mark.parametrize("values", [[10**20, 10**21], [2**53 + 1, 1e9], [2**60, 2**61]])
def test_numbers_of_any_size_stand_in_the_table(tmp_path, pool, values):
    run_sweep(grid({"search.budget_absolute": values}), tmp_path / "s", "digits")
    assert pq.read_table(tmp_path / "s" / "trials.parquet")["search.budget_absolute"].to_pylist() == pytest.approx(
        values
    )


def test_finished_trials_are_not_run_again(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    before = (tmp_path / "s" / "trials.parquet").read_bytes()
    events = []
    run_sweep(seeds(0, 1), tmp_path / "s", "digits", observe=events.append)
    assert pool.tried == ["seed0", "seed1"]
    assert events == [{"event": "sweep", "trials": 2, "done": 2, "new": 0, "left_out": []}]
    assert (tmp_path / "s" / "trials.parquet").read_bytes() == before


def test_new_trials_are_added_and_those_left_out_stay(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    events = []
    assert run_sweep(seeds(1, 2, 3), tmp_path / "s", "digits", observe=events.append).finished == 3
    assert pool.tried == ["seed0", "seed1", "seed2", "seed3"]
    assert (events[0]["new"], events[0]["left_out"], events[0]["done"]) == (2, ["seed0"], 1)
    assert (tmp_path / "s" / "trials" / "seed0" / "result.json").exists()
    assert run_sweep(seeds(0, 1, 2, 3), tmp_path / "s", "digits").finished == 4
    assert len(pool.tried) == 4


def test_a_field_more_keeps_the_names_of_trials_that_are_known(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    run_sweep(grid({"pretrain.rounds": [40, 10], "seed": [0, 1]}), tmp_path / "s", "digits")
    assert pool.tried == ["seed0", "seed1", "rounds10-seed0", "rounds10-seed1"]


def test_numbers_that_are_equal_are_one_trial(tmp_path, pool):
    run_sweep(grid({"data.alpha": [1, 2]}), tmp_path / "s", "digits")
    run_sweep(grid({"data.alpha": [1.0, 2.0]}), tmp_path / "s", "digits")
    assert pool.tried == ["alpha1", "alpha2"]


def test_a_field_that_an_older_manifest_lacks_has_its_default(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    file = tmp_path / "s" / "sweep.json"
    manifest = json.loads(file.read_text())
    del manifest["checksum"], manifest["config"]["train.precision"]
    manifest["trials"] = [one | {"checksum": "of another version"} for one in manifest["trials"]]
    file.write_text(json.dumps(sealed(manifest)))
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    assert pool.tried == ["seed0", "seed1"]


def test_changed_trials_are_refused_by_name_unless_they_are_to_be_replaced(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    before = (tmp_path / "s" / "sweep.json").read_bytes()
    changed = seeds(0, 1, **{"pretrain.rounds": 10})
    with pytest.raises(RunError, match=r"configs of 2 trials have changed: seed0, seed1; .*--replace"):
        run_sweep(changed, tmp_path / "s", "digits")
    assert (tmp_path / "s" / "sweep.json").read_bytes() == before
    assert run_sweep(changed, tmp_path / "s", "digits", replace=True).finished == 2
    assert pool.tried == ["seed0", "seed1"] * 2
    run_sweep(seeds(0, 1), tmp_path / "s", "digits", replace=True)
    assert sorted(p.name for p in (tmp_path / "s" / "replaced").iterdir()) == [
        "seed0-1",
        "seed0-2",
        "seed1-1",
        "seed1-2",
    ]


def test_a_failing_trial_is_recorded_and_the_rest_go_on(tmp_path, pool):
    pool.becomes = fails_with("ValueError: odd", 1)
    assert run_sweep(seeds(0, 1, 2), tmp_path / "s", "digits") == (tmp_path / "s", 2, 1, 0)
    row = rows(tmp_path / "s")["seed1"]
    assert (row["status"], row["error"]) == ("failed", "ValueError: odd (traceback: failed/seed1.txt)")
    assert (tmp_path / "s" / "failed" / "seed1.txt").read_text() == "Traceback"
    pool.becomes = fails_with("", 9)
    assert run_sweep(seeds(0, 1, 2), tmp_path / "s", "digits").failed == 1  # not tried again
    assert rows(tmp_path / "s")["seed1"] == row
    assert run_sweep(seeds(0, 1, 2), tmp_path / "s", "digits", retry_failed=True) == (tmp_path / "s", 3, 0, 0)
    assert pool.tried == ["seed0", "seed1", "seed2", "seed1"]
    assert not (tmp_path / "s" / "failed" / "seed1.txt").exists()
    assert rows(tmp_path / "s")["seed1"]["error"] is None


def test_a_failure_of_another_config_is_none(tmp_path, pool):
    pool.becomes = fails_with("odd", 1)
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    pool.becomes = fails_with("", 9)
    changed = seeds(0, 1, **{"pretrain.rounds": 10})
    assert run_sweep(changed, tmp_path / "s", "digits", replace=True).finished == 2


def test_a_trial_whose_workers_died_is_recorded_as_failed(tmp_path, pool):
    pool.becomes = lambda values, tries: Outcome("lost", "its worker was killed by SIGKILL")
    assert run_sweep(seeds(0), tmp_path / "s", "digits").failed == 1
    assert rows(tmp_path / "s")["trial"]["error"] == "its worker was killed by SIGKILL"


def test_a_stopped_sweep_goes_on(tmp_path, pool):
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        run_sweep(seeds(0, 1, 2, 3), tmp_path / "s", "digits", should_stop=lambda: next(asked))
    states = [row["status"] for row in rows(tmp_path / "s").values()]
    assert states == ["finished", "finished", "waiting", "waiting"]
    assert run_sweep(seeds(0, 1, 2, 3), tmp_path / "s", "digits").finished == 4
    assert pool.tried == ["seed0", "seed1", "seed2", "seed3"]


def test_a_damaged_result_is_a_failure_that_says_so(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    file = tmp_path / "s" / "trials" / "seed1" / "result.json"
    file.write_text(file.read_text().replace("0.701", "0.999"))
    assert run_sweep(seeds(0, 1), tmp_path / "s", "digits").failed == 1
    assert "is damaged or was changed" in rows(tmp_path / "s")["seed1"]["error"]
    pool.tried.clear()
    assert run_sweep(seeds(0, 1), tmp_path / "s", "digits", retry_failed=True).finished == 2
    assert pool.tried == ["seed1"]  # nothing can go on from there
    assert (tmp_path / "s" / "replaced" / "seed1-1" / "result.json").exists()


def test_a_damaged_manifest_is_one_line(tmp_path, pool):
    run_sweep(seeds(0, 1), tmp_path / "s", "digits")
    file = tmp_path / "s" / "sweep.json"
    whole = file.read_text()
    for text in ("", "{}", whole[:-40], whole.replace('"seed1"', '"../x"'), whole.replace('"digits"', '"digitz"', 1)):
        file.write_text(text)
        with pytest.raises(FednasError) as error:
            run_sweep(seeds(0, 1), tmp_path / "s", "digits")
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_sweep_has_one_owner_and_a_folder_of_its_own(tmp_path, pool):
    run_sweep(seeds(0), tmp_path / "s", "digits")
    with Lock(tmp_path / "s") as lock:
        lock.acquire()
        with pytest.raises(RunError, match="is in use by process"):
            run_sweep(seeds(0), tmp_path / "s", "digits")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    for taken in (tmp_path / "other", tmp_path / "other" / "file"):
        with pytest.raises(RunError, match=r"--out: .* (no sweep|is a file, want a folder)"):
            run_sweep(seeds(0), taken, "digits")


def test_parts_make_the_whole_with_the_same_names(tmp_path, pool):
    for index in range(3):
        run_sweep(seeds(*range(7)), tmp_path / str(index), "digits", part=(index, 3))
    assert pool.tried == [f"seed{n}" for n in (0, 3, 6, 1, 4, 2, 5)]
    with pytest.raises(FednasError, match=r"part: got 7/8 of 7 trials"):
        run_sweep(seeds(*range(7)), tmp_path / "x", "digits", part=(7, 8))


def test_the_manifest_has_every_trials_resolved_config(tmp_path, pool):
    trials = grid({"method": ["fednas", "naive"], "parent": ["runs/p"], "train.augment.flip": [True, False]})
    run_sweep(trials, tmp_path / "s", preset("digits"))
    entries = SweepDir(tmp_path / "s").entries()
    for entry in entries:
        config = json.loads((tmp_path / "s" / "trials" / entry["name"] / "config.json").read_text())["config"]
        assert entry["config"] == config
        assert config["search"]["proposals"] == "groups"
    assert [entry["fields"] for entry in entries] == trials


@pytest.mark.parametrize("number", [30, pytest.param(500, marks=pytest.mark.exhaustive)])
def test_the_memory_of_a_sweep_stays_flat(tmp_path, pool, number):
    held = []

    def observe(event):
        if event.get("done") == number // 3:
            tracemalloc.start()
        elif event.get("done") == number:
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])

    pool.tried = type("Nowhere", (list,), {"append": lambda self, name: None})()
    try:
        run_sweep(seeds(*range(number)), tmp_path / "s", "digits", observe=observe)
    finally:
        tracemalloc.stop()
    assert held[0] < 1e5 + 2500 * number * 2 / 3  # bytes: a row of the table for each trial


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text("base = 'digits'\ntrials = [{'seed': n} for n in range(3)]\n")
    return str(path)


def test_the_exit_code_tells(tmp_path, pool, file, capsys):
    pool.becomes = fails_with("odd", 1)
    assert main(["sweep", file, "--out", str(tmp_path / "s")]) == 3
    said = capsys.readouterr().out
    assert "2/3 seed1 failed: odd (traceback: failed/seed1.txt)" in said
    assert "2 finished, 1 failed; table:" in said
    assert main(["sweep", file, "--out", str(tmp_path / "s")]) == 3
    pool.becomes = fails_with("", 9)
    assert main(["sweep", file, "--out", str(tmp_path / "s"), "--retry-failed"]) == 0
    assert "seed1 finished in 1.5 s, test accuracy 0.7010 at 25 % MACs" in capsys.readouterr().out


def test_a_signal_stops_it_where_nothing_is_lost(tmp_path, pool, file, capsys):
    def becomes(values, tries):
        if values["seed"] == 1 and tries == 1:
            signals.signal.raise_signal(signals.signal.SIGTERM)
            return Outcome("stopped")
        return None

    pool.becomes = becomes
    assert main(["sweep", file, "--out", str(tmp_path / "s")]) == 143
    assert "stopped; the same command goes on" in capsys.readouterr().out
    assert main(["sweep", file, "--out", str(tmp_path / "s")]) == 0
    assert pool.tried == ["seed0", "seed1", "seed1", "seed2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--part", "3/3"], "part: got 3/3, want INDEX/COUNT"),
        (["--part", "x"], "--part: got 'x', want INDEX/COUNT"),
        (["--part", "0/0", "--dry-run"], "part: got 0/0, want INDEX/COUNT"),
        (["--workers", "-1"], "workers: got -1"),
        (["--workers", "-1", "--dry-run"], "workers: got -1"),
        (["--drop", "nothing", "--dry-run"], "drop: got 'nothing', want an elimination policy for 3 trials"),
        (["--workers", "x"], "workers"),
        (["--engine", "dask"], "dask"),
        (["--engine", "ray", "--workers", "0"], "workers: got 0 with engine ray"),
        (["--engine", "ray", "--pack", "auto"], "pack: got auto with engine ray, want off"),
        (["--hosts.auto"], "workers: got workers with --hosts options, want --workers 0"),
    ],
)
def test_a_mistake_in_the_options_is_one_line(tmp_path, file, capsys, options, said):
    assert main(["sweep", file, "--out", str(tmp_path / "s"), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_very_many_trials_are_only_run_when_told(tmp_path, pool, capsys):
    path = tmp_path / "many.py"
    path.write_text("base = 'digits'\ntrials = ({'seed': n} for n in range(1001))\n")
    assert main(["sweep", str(path), "--out", str(tmp_path / "s")]) == 2
    assert "trials: got 1,001, want at most 1,000, or --yes" in capsys.readouterr().err
    path.write_text("base = 'digits'\ntrials = [{'seed': n} for n in range(1_000_000)]\n")
    assert main(["sweep", str(path), "--out", str(tmp_path / "s"), "--yes"]) == 2
    assert "trials: got more than 100,000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ("[{'train.learning_rat': 0.1}]", "train.learning_rat"),
        ("[{'train.learning_rate': 'fast'}]", "train.learning_rate"),
        ("[{'seed': 1}, {'seed': 2}, {'seed': 1}]", "trials[2]: is the same run as trials[0]"),
        ("[]", "trials: got none"),
        ("fn.grid({'seed': []})", "grid: seed: got no values"),
        ("[1 // 0]", "ZeroDivisionError"),
        ("fn.grid({'seed': range(1000), 'data.clients': range(1000)})", "grid: got 1,000,000 trials"),
        ("({'seed': n} for n in range(10**6))", "trials: got more than 100,000, want at most 1,000, or --yes"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2_and_leaves_nothing(tmp_path, capsys, trials, said):
    path = tmp_path / "bad.py"
    path.write_text(f"import fednas_jax as fn\nbase = 'digits'\ntrials = {trials}\n")
    assert main(["sweep", str(path), "--out", str(tmp_path / "s")]) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert not (tmp_path / "s").exists()
