"""What figures are made of, against the run's own events, ledger and result."""

import pyarrow as pa
import pytest

from fednas_jax.phones import ledger
from fednas_jax.report import figures, findings, search_figures, theme
from fednas_jax.run.finished import Run, load_run, members


@pytest.fixture(scope="module")
def run(finished_run):
    return load_run(finished_run)


def test_scores_are_the_events_own_with_the_examples_that_the_ledger_has(run):
    rounds = [e for e in run.events() if e["event"] == "round" and e.get("stage") == "search"]
    found = findings.scores(run)
    said = [(e["iteration"], name, score) for e in rounds for name, score in e.get("scores", {}).items()]
    assert [(s.iteration, s.candidate, s.score) for s in found] == said
    frame = run.ledger.to_pandas()
    evaluated = frame[(frame.stage == "search") & (frame.phase == "evaluate")]
    assert sum(s.examples for s in found) == evaluated.examples.sum()
    assert all(s.low <= s.score <= s.high and s.low >= 0 and s.high <= 1 for s in found)


def test_an_interval_is_of_the_examples_that_were_counted_not_of_who_went_away(run):
    away = Run(run.path, run.config, run.result)
    vars(away)["ledger"] = pa.concat_tables([run.ledger, ledger.in_vain(run.ledger)]).unify_dictionaries()
    assert findings.scores(away) == findings.scores(run)
    some = run.ledger.to_pandas()
    asked = some[(some.stage == "pretrain") & (some.phase == "evaluate")]
    few = Run(run.path, run.config, run.result)
    vars(few)["ledger"] = pa.Table.from_pandas(
        some.drop(asked.index[1:]), schema=ledger.SCHEMA, preserve_index=False
    )  # one client was there when the parent was scored
    score, examples = run.result["parent"]["score"], int(asked.examples.iloc[0])
    assert findings.validated(few, [])[0] == findings.interval(score, examples)
    assert findings.validated(run, [])[0] == findings.interval(score, run.result["data"]["validation_examples"])


def test_scores_tell_who_was_dropped_and_who_won(run):
    events = list(run.events())
    found = findings.scores(run)
    winners = {(e["iteration"], e["winner"]) for e in events if e["event"] == "select"}
    dropped = {(e["iteration"], name) for e in events if e["event"] == "drop" for name in e["candidates"]}
    assert {(s.iteration, s.candidate) for s in found if s.won} == winners
    assert {(s.iteration, s.candidate) for s in found if s.dropped} == dropped
    last = {(s.iteration, s.candidate): s for s in found}
    assert all(last[s.iteration, s.candidate] == s for s in found if s.dropped)


def test_cuts_lead_from_each_network_to_the_next(run):
    whole = run.result["parent"]["macs"]
    left = 1.0
    for cut, member in zip(findings.cuts(run), run.result["models"], strict=True):
        left -= cut.taken
        assert left == pytest.approx(cut.left) == pytest.approx(member["macs"] / whole)
        assert all(after < before for before, after in zip(cut.before, cut.after, strict=True))
        assert [member["widths"][group] for group in cut.groups] == list(cut.after)


def test_the_bill_is_the_result_s_and_one_network_s_tuning_is_a_part_of_it(run):
    spent, cost = findings.bill(run), run.result["client_cost"]
    assert spent.whole == pytest.approx(cost["all"]["seconds"]["mean"])
    assert sum(spent.tuning.values()) == pytest.approx(cost["finetune"]["seconds"]["mean"])
    assert spent.one == len(run.result["models"])
    assert spent.alone == pytest.approx(spent.whole - sum(s for n, s in spent.tuning.items() if n != spent.one))
    assert spent.search_share == pytest.approx(cost["search"]["seconds"]["mean"] / cost["all"]["seconds"]["mean"])


def test_costs_by_client_and_phase_add_up_to_the_result_s(run):
    for stage, seconds in findings.by_client(run).items():
        assert len(seconds) == run.result["clients"]
        assert seconds.sum() == pytest.approx(run.result["client_cost"][stage]["seconds"]["total"])
    phases = findings.phase_seconds(run)
    assert set(phases) == set(ledger.PHASES)
    mean = run.result["client_cost"]["search"]["seconds"]["mean"]
    assert sum(map(sum, phases.values())) == pytest.approx(mean)


def test_the_clients_label_mixes_are_in_the_run(run):
    mix = findings.label_mix(run)
    assert len(mix["counts"]) == run.result["clients"]
    assert sum(map(sum, mix["counts"])) == run.result["data"]["examples"]


@pytest.mark.parametrize(
    ("metric", "title", "scale"), [("accuracy", "validation accuracy (%)", 100), ("macro_f1", "validation macro_f1", 1)]
)
def test_scores_are_shown_by_the_metric_that_they_are_of(metric, title, scale, run):
    other = Run(run.path, run.config, run.result | {"metric": metric})
    scores = findings.scores(other)
    shown = search_figures.candidates(other, scores)
    assert [row["score"] for row in shown.chart["data"]["values"]] == [scale * s.score for s in scores]
    assert shown.chart["layer"][0]["encoding"]["y"]["title"] == title
    assert f"<!-- {title} -->" in theme.drawn(shown, pdf=False).svg
    together = theme.drawn(figures.hours(other, scores), pdf=False).svg  # on one axis with test accuracies
    assert ("<!-- validation, as found -->" in together) == (metric == "accuracy")


def test_intervals_are_of_accuracies_alone(run):
    assert findings.interval(0.5, None) is None
    assert findings.interval(None, 10) is None
    assert findings.interval(-3.0, 10) is None
    assert findings.interval(0.5, 10, "balanced_accuracy") is None
    low, high = findings.tested(run, members(run.result)[0])
    assert low < run.result["parent"]["test_accuracy"] < high
