"""Trials that are dropped early: the decision, what is kept of it, and that nothing else changes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stub_trials import TINY, StubPool, rows, written

from fednas_jax.cli.app import main
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.run.loop import run_search
from fednas_jax.search.policies import compiled
from fednas_jax.sweep import dropping, running, sources
from fednas_jax.sweep.attempts import attempted
from fednas_jax.sweep.dropping import NOTHING, Dropped, Reported, policy_named, verdict

HALVING, MEDIAN, NONE = (compiled(policy_named(text, 27)) for text in ("halving(eta=3)", "median(warmup=0)", "none"))
SELECT = {"event": "select", "iteration": 1, "winner": "conv1", "score": 0.5, "progress": 0.5}
NINE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


def report(*scores, ended=False, spared=False):
    return Reported(scores=list(scores), ended=ended, dropped=None, spared=spared)


def reports(*curves):
    return {f"t{number}": report(*curve) for number, curve in enumerate(curves)}


@pytest.mark.parametrize("number", [0, 5, 6, 8])
def test_a_third_of_those_who_came_to_the_first_rung_goes_on(number):
    found = verdict(HALVING, reports(*([score] for score in NINE)), f"t{number}")
    assert found.stays == (number >= 6)
    assert (found.place, found.trials) == (9 - number, 9)


def test_the_first_to_come_goes_on_and_waits_for_nobody():
    assert verdict(HALVING, reports([0.1], []), "t0").stays


def many(*of_last_three):
    """27 curves: 24 of one iteration, and three; nine of all stay after the first rung, three after the next."""
    low = [[n / 100] for n in range(18)]
    return reports(*low, *([0.5 + n / 100] for n in range(6)), *of_last_three)


def test_between_rungs_nobody_is_dropped():
    """At eta 3 of 27 the first rung ends after iteration 1, the next three iterations later."""
    assert verdict(HALVING, many([0.7, 0.1], [0.8, 0.8], [0.9, 0.9]), "t24").stays
    assert verdict(HALVING, many([0.7, 0.8, 0.8, 0.1], [0.8], [0.9]), "t24").stays  # no other has come there yet
    long = [0.8] * 4
    crowd = many(long, long, [0.7, 0.1, 0.1, 0.1])
    assert verdict(HALVING, crowd, "t26").stays  # three stay
    crowd["t20"] = report(*long)
    assert not verdict(HALVING, crowd, "t26").stays


def test_who_ended_counts_with_the_last_score():
    crowd = many([0.8] * 4, [0.8] * 4, [0.7, 0.1, 0.1, 0.1])
    crowd["t20"] = report(0.6, 0.9)
    assert verdict(HALVING, crowd, "t26").stays
    crowd["t20"] = report(0.6, 0.9, ended=True)
    assert not verdict(HALVING, crowd, "t26").stays


def test_a_score_that_is_no_number_never_goes_on():
    found = verdict(HALVING, reports([None], *([score] for score in NINE)), "t0")
    assert not found.stays
    assert found.place == 10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=16), st.sampled_from([HALVING, MEDIAN]))
def test_the_best_of_those_who_came_always_goes_on(scores, policy):
    best = scores.index(max(scores))
    assert verdict(policy, reports(*([score] for score in scores)), f"t{best}").stays


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_none_drops_nobody(scores):
    everyone = reports(*([score] for score in scores))
    assert all(verdict(NONE, everyone, name).stays for name in everyone)


@pytest.mark.parametrize("text", ["halfing", "halving(eta=1)", "halving(beta=2)", "rungs(", "no_module:at_all"])
def test_a_policy_that_is_none_is_one_line(text, tmp_path):
    with pytest.raises(ConfigError, match=r"^drop: got .*want an elimination policy for 4 trials") as error:
        policy_named(text, 4)
    assert "\n" not in str(error.value)
    source = sources.read(written(tmp_path, f"{TINY}\n[[trials]]\ngrid = {{ seed = [0, 1, 2, 3] }}\n"))
    with pytest.raises(ConfigError, match=r"^drop: got"):
        running.run_sweep(source.trials, tmp_path / "out", source.base, drop=text)
    assert not (tmp_path / "out").exists()


def test_what_was_reported_is_read_as_a_form(tmp_path):
    dropping.write(tmp_path, "one", report(0.5, None))
    assert dropping.read(tmp_path) == {"one": report(0.5, None)}
    assert dropping.reported(tmp_path, "other") == NOTHING
    (tmp_path / "scores" / "one.json").write_text('{"scores": "many"}')
    with pytest.raises(RunError, match=r"one\.json: .*scores"):
        dropping.read(tmp_path)


def test_only_trials_that_are_asked_for_are_compared(tmp_path):
    for name in ("fednas-alpha0.5", "naive-alpha0.5", "naive-alpha1.5"):
        dropping.write(tmp_path, name, report(0.5))
    dropping.count_only(tmp_path, {"naive-alpha0.5"})
    assert list(dropping.read(tmp_path)) == ["naive-alpha0.5"]
    dropping.forget(tmp_path, "naive-alpha1.5")
    dropping.count_only(tmp_path, {"fednas-alpha0.5", "naive-alpha1.5"})
    assert dropping.read(tmp_path) == {"fednas-alpha0.5": report(0.5)}


def test_a_sweep_counts_who_finished_before_and_not_who_is_left_out(tmp_path, monkeypatch):
    def becomes(values, tries):
        run = tmp_path / "out" / "trials" / f"seed{values['seed']}"
        run.mkdir(parents=True)
        (run / "events.jsonl").write_text(json.dumps(SELECT) + "\n")

    monkeypatch.setattr(running, "_pool", lambda *of_sweep: StubPool(becomes))
    running.run_sweep([{"seed": n} for n in range(3)], tmp_path / "out", "digits")
    assert dropping.read(tmp_path / "out") == {}
    running.run_sweep([{"seed": n} for n in range(1, 3)], tmp_path / "out", "digits", drop="halving")
    assert dropping.read(tmp_path / "out") == dict.fromkeys(["seed1", "seed2"], report(0.5, ended=True))
    running.run_sweep([{"seed": n} for n in range(2)], tmp_path / "out", "digits", drop="halving")
    assert list(dropping.read(tmp_path / "out")) == ["seed0", "seed1"]


@pytest.mark.parametrize(("iteration", "stays"), [(1, True), (2, False)])
def test_a_decision_outlives_the_worker_as_far_as_its_scores_do(tmp_path, iteration, stays):
    run = tmp_path / "trials" / "one"
    run.mkdir(parents=True)
    (run / "events.jsonl").write_text(json.dumps(SELECT) + "\n")
    decision = Dropped(policy="median", iteration=iteration, place=2, trials=2, score=0.5)
    dropping.write(tmp_path, "one", report(0.5, 0.5) | Reported(dropped=decision))
    watch = dropping.Watch(run, "median", lambda: 1.0)
    watch.heard({"event": "resume"})
    assert watch.dropped == stays
    assert dropping.reported(tmp_path, "one")["scores"] == [0.5]


# The last learns nothing.
RATES = 'zip = { seed = [3, 2, 1, 0], "train.learning_rate" = [0.1, 0.1, 0.1, 1e-7] }'
FOUR = f"{TINY}\n[[trials]]\n{RATES}\n"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Four real trials, of which halving drops the last, in this process."""
    home = tmp_path_factory.mktemp("dropped")
    file = written(home, FOUR)
    source = sources.read(file)
    result = running.run_sweep(source.trials, home / "out", source.base, workers=0, drop="halving(eta=2)")
    return file, home / "out", result


def test_a_sweep_drops_trials_and_says_why(swept):
    _, out, result = swept
    assert result == (out, 3, 0, 1)
    *others, dropped = rows(out)
    assert [row["status"] for row in others] == ["finished"] * 3
    assert dropped["status"] == "dropped"
    assert dropped["stop_reason"].startswith("dropped by halving(eta=2) after iteration 1: place ")
    kept = dropping.read(out)
    assert dropped["iterations"] == len(kept[dropped["trial"]]["scores"]) == 1
    assert kept[dropped["trial"]]["scores"][0] <= min(kept[row["trial"]]["scores"][0] for row in others)
    assert not (out / "trials" / dropped["trial"] / "result.json").exists()


def test_a_decision_stays_and_can_be_taken_back(swept, capsys):
    file, out, result = swept
    before = rows(out)
    table = (out / "trials.parquet").read_bytes()
    assert main(["sweep", str(file), "--out", str(out), "--workers", "0", "--drop", "halving(eta=2)"]) == 0
    assert (out / "trials.parquet").read_bytes() == table
    assert "dropped early" in capsys.readouterr().out
    name = next(row["trial"] for row in before if row["status"] == "dropped")
    source = sources.read(file)
    again = running.run_sweep(source.trials, out, source.base, workers=0, drop="halving(eta=2)", continue_dropped=True)
    assert (again.finished, again.dropped) == (4, 0)
    # What went on after it was dropped is what an undisturbed run is.
    alone = out.parent / "alone"
    run_search(running.plan(source.base, source.trials).config(_trial(source, name)), alone)
    found, wanted = (json.loads((path / "result.json").read_text()) for path in (out / "trials" / name, alone))
    for field in ("models", "parent", "client_cost", "stop_reason"):
        assert found[field] == wanted[field]
    assert result.failed == 0


def _trial(source, name):
    return next(trial for trial in running.plan(source.base, source.trials).trials if trial.name == name)


def test_a_trial_that_is_resumed_reports_what_its_events_say(tmp_path):
    """Scores of iterations that a killed run has taken back are not counted."""
    source = sources.read(written(tmp_path, FOUR))
    planned = running.plan(source.base, source.trials)
    config, path = running.to_json(planned.config(planned.trials[0])), tmp_path / "trials" / "one"
    dropping.write(tmp_path, "one", report(0.1, 0.2, 0.3))
    assert attempted(config, str(path), lambda: False, "halving(eta=2)").kind == "finished"
    kept = dropping.reported(tmp_path, "one")
    events = map(json.loads, (path / "events.jsonl").read_text().splitlines())
    scores = [event["score"] for event in events if event["event"] == "select"]
    assert kept["scores"] == scores
    assert kept["ended"]
