"""Estimates follow from passes over the data, which follow from the config."""

import pytest
from rich.console import Console
from stub_trials import StubPool

from fednas_jax.config.files import override
from fednas_jax.config.methods import resolve, with_method
from fednas_jax.config.presets import preset
from fednas_jax.run.folder import RunDir
from fednas_jax.sweep import dropping, estimating, running
from fednas_jax.sweep.dropping import Dropped, Reported
from fednas_jax.sweep.estimating import Measured, estimated, iterations_of, passes, print_estimates, short
from fednas_jax.sweep.scheduling import Outcome

MEASURED = Measured("", 1.0, 1.0, 1.0, dict.fromkeys(estimating.STAGES, 1.0), 40, 3, 0.5, 10**9, 10**6)
DROPPED = Dropped(policy="median", iteration=1, place=2, trials=2, score=0.5)


def config(method="fednas", **fields):
    changes = {name.replace("__", "."): value for name, value in fields.items()}
    base = with_method(override(preset("digits"), {"method": method}))
    return resolve(override(base, changes))


def test_passes_count_who_trains_what():
    # fednas: 8 groups; rungs (1, 1), (1, 1): 3 candidates for a round, then 1; growth of 0.2 rounds an iteration.
    fields = {"search__growth": 0.0, "pretrain__clients_per_round": 10, "pretrain__rounds": 8}
    found = passes(config(**fields), clients=40, candidates=3, iterations=2)
    assert found == {"pretrain": 8 * 10 / 40, "search": 2 * (3 + 1) / 8, "finetune": 20 * 3}
    # naive: all candidates on all clients for 10 rounds.
    found = passes(config("naive", train__local_epochs=2.0, finetune__members=(0, 1)), 40, candidates=3, iterations=2)
    assert found == {"pretrain": 2 * 40, "search": 2 * 2 * 3 * 10, "finetune": 2 * 20 * 2}


def test_iterations_reach_the_budget_by_the_targets():
    assert iterations_of(config(search__reduction=0.1, search__decay=1.0, search__budget=0.5), 0) == 5
    assert iterations_of(config(search__reduction=0.1, search__decay=0.5, search__budget=0.5), 0) == 100
    assert iterations_of(config(search__max_iterations=3), 0) == 3
    assert iterations_of(config(search__budget_absolute=20.0), progress=0.25) == 4


def test_the_measured_run_has_a_round_of_each_stage():
    found = short(config("naive", finetune__shares=(0.5,)))
    assert passes(found, 40, 3, 1) == {"pretrain": 1, "search": 3, "finetune": 2}
    assert short(found) == found


def test_a_sweep_is_estimated_in_proportion_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    class Timed(StubPool):
        """The first run takes 10 seconds, the next 6, of which 2 go by before it trains."""

        def __init__(self, number, logs):
            super().__init__()

        def wait(self, seconds):
            [(worker, outcome)] = super().wait(seconds)
            run = RunDir(estimating.Path(self.path))
            run.append({"event": "iteration", "iteration": 1, "candidates": [{}, {}, {}]})
            run.append({"event": "select", "iteration": 1, "winner": "conv1", "score": 0.5, "progress": 0.5})
            seconds = 10.0 if self.path.endswith("first") else 6.0
            return [(worker, outcome._replace(wall_seconds=seconds, began_seconds=2.0, memory_bytes=10**9))]

        def begin(self, worker, pack):
            super().begin(worker, pack)
            self.path = pack[0].path

    monkeypatch.setattr(estimating, "Processes", Timed)
    trials = [{"pretrain.rounds": 10}, {"pretrain.rounds": 20}]
    estimates = estimated(trials, tmp_path / "s", "digits")
    assert not (tmp_path / "s").exists()
    found = estimates.measured
    work = 1 + 3 / 8 + 2
    assert (found.first_seconds, found.begin_seconds, found.candidates) == (4.0, 2.0, 3)
    assert found.pass_seconds == pytest.approx(4 / work)
    few, many = estimates.trials
    assert many.wall_seconds - few.wall_seconds == pytest.approx(10 * found.pass_seconds)
    assert many.client_seconds - few.client_seconds == pytest.approx(10 * 2.5e6 / 40)
    print_estimates(Console(width=120), estimates)
    said = capsys.readouterr().out
    assert "2 of 2 trials are to be run" in said
    assert "1,000 MB of memory for each worker" in said
    assert "pack" not in said
    estimates = estimated(trials, tmp_path / "s", "digits", pack="auto")
    assert estimates.packs == (("rounds10", "rounds20"),)
    print_estimates(Console(width=120), estimates)
    assert "1 packs of 2 trials; the largest takes" in capsys.readouterr().out


def test_an_estimate_knows_what_a_sweep_would_run(tmp_path, monkeypatch):
    """Trials that failed are not tried again unasked; those whose configs have changed are refused, or begin anew."""
    fails = StubPool(lambda values, tries: Outcome("failed", "odd") if values["seed"] == 1 else None)
    monkeypatch.setattr(running, "_pool", lambda *of_sweep: fails)
    monkeypatch.setattr(estimating, "measured", lambda planned, trial: MEASURED._replace(trial=trial.name))

    def status(changed, **more):
        trials = [{"seed": n} | changed for n in (0, 1, 2)]
        return [one.status for one in estimated(trials, tmp_path / "s", "digits", **more).trials]

    running.run_sweep([{"seed": 0}, {"seed": 1}], tmp_path / "s", "digits")
    assert status({}) == ["finished", "failed", "waiting"]
    assert status({}, retry_failed=True) == ["finished", "waiting", "waiting"]
    dropping.write(tmp_path / "s", "seed2", Reported(scores=[0.5], ended=False, dropped=DROPPED, spared=False))
    assert status({}) == ["finished", "failed", "dropped"]
    assert status({}, continue_dropped=True) == ["finished", "failed", "waiting"]
    with pytest.raises(estimating.RunError, match="configs of 2 trials have changed: seed0, seed1"):
        status({"pretrain.rounds": 3})
    assert status({"pretrain.rounds": 3}, replace=True) == ["waiting", "waiting", "dropped"]


def test_a_measured_trial_that_fails_is_one_line(tmp_path, monkeypatch):
    failed = Outcome("failed", "data: no such file")
    monkeypatch.setattr(estimating, "Processes", lambda number, logs: StubPool(lambda values, tries: failed))
    with pytest.raises(estimating.RunError, match="the measured trial failed: data: no such file"):
        estimated([{}], tmp_path / "s", "digits")
