"""A replay says what its slow twin says, and what runs under those policies really did, to the last second."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_loop import Looped, loop

from fednas_jax.cli.app import main
from fednas_jax.config.checks import validate
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
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import as_json
from fednas_jax.phones.totals import phase_seconds
from fednas_jax.run.finished import load_run
from fednas_jax.run.loop import run_search
from fednas_jax.search import assignment
from fednas_jax.search.policies import policy_of
from fednas_jax.sweep import curves as curves_module
from fednas_jax.sweep import grids, playing, replay
from fednas_jax.sweep.curves import Curves, curves_of, expected_clients

CONFIG = Config(
    data=DataConfig(clients=6, partition="dirichlet", alpha=1.0),
    net=NetConfig(widths=(4, 6, 16), multiple=(1, 1, 4)),
    train=TrainConfig(batch_size=60),
    pretrain=StageConfig(rounds=1),
    search=SearchConfig(
        proposals="random(candidates=5)",
        partial_clients=False,
        early_dropping=True,
        dynamic_rounds=True,
        rungs=((6, 1),),
        reduction=0.2,
        max_iterations=1,
        compact_at=0.99,
    ),
    finetune=FinetuneConfig(rounds=1, members=(1,)),
    engine=EngineConfig(lanes=2),
)
RUNGS = {"policy": "rungs", "rungs": ((2, 3), (1, 2), (2, 1))}
HALVING = {"policy": "halving(eta=2, rounds=1)"}


def searching(out, **search):
    config = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, **search))
    run_search(config, out, devices=jax.devices()[:1])
    return out


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run with all curves."""
    return searching(tmp_path_factory.mktemp("recorded") / "run", policy="none(score_every=1)")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """A run of two iterations on parts of the clients that drops candidates."""
    out = tmp_path_factory.mktemp("dropping") / "run"
    scored = {"score_clients": 2, "score_most": 5, "score_alone": False}
    alone = {"policy": "rungs", "rungs": ((2, 3), (1, 1), (2, 1))}
    parts = {"partial_clients": True, "groups": 3, "idle_groups": "help"}
    return searching(out, **alone, **parts, **scored, growth=1.0, max_iterations=2, reduction=0.1)


def told(out, name):
    events = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    return [event for event in events if event["event"] == name]


def as_run(out):
    """Winners, drops, rounds, client seconds and megabytes of the search of a run, from its own files."""
    run = load_run(out)
    rows = run.ledger.to_pandas()
    search = rows[rows.stage == "search"]
    assert search.seconds.sum() == pytest.approx(sum(phase_seconds(run.ledger, "search").values()))
    return {
        "winners": [event["winner"] for event in told(out, "select")],
        "drops": [{n: e[n] for n in ("iteration", "round", "candidates")} for e in told(out, "drop")],
        "rounds": sum(event["stage"] == "search" for event in told(out, "round")),
        "client_seconds": pytest.approx(search.seconds.sum() / run.result["clients"], rel=1e-9),
        "megabytes": pytest.approx(search.bytes.sum() / 1e6 / run.result["clients"], rel=1e-9),
    }


def test_the_policy_that_was_used_is_replayed_as_the_run_went(recorded, dropping):
    for out in (recorded, dropping):
        own = load_run(out).config.search
        found = replay.replay_run(out, [own])
        want = as_run(out)
        assert {name: found["used"][name] for name in want} == want
        assert {**found["policies"][0], "front": False} | {"drops": want["drops"]} == found["used"]
        assert json.loads((out / "replay" / "replay.json").read_text()) == found
    assert len(as_run(dropping)["drops"]) >= 3


@pytest.mark.exhaustive
@pytest.mark.parametrize("changes", [RUNGS, HALVING], ids=str)
def test_a_replay_foretells_a_run_that_trains_the_same_candidates(recorded, tmp_path, changes):
    real = as_run(searching(tmp_path / "run", **changes))
    search = dataclasses.replace(load_run(recorded).config.search, **changes)
    found = replay.replay_run(recorded, [search])["policies"][0]
    drops = real.pop("drops")
    assert {name: found[name] for name in real} == real
    curves = curves_of(load_run(recorded))
    assert replay.drops_of(curves, playing.play([policy_of(search)], curves), 0) == drops


def test_regret_is_what_the_winner_lacks_at_the_end_of_the_recorded_curves(recorded):
    own = load_run(recorded).config.search
    scores = [event["scores"] for event in told(recorded, "round") if event["stage"] == "search"]
    first = max(scores[0].values())
    policies = replay.replay_run(recorded, [own, dataclasses.replace(own, rungs=((1, 1),))])["policies"]
    assert policies[0]["regret"] == 0
    assert scores[0][policies[1]["winners"][0]] == first
    assert policies[1]["regret"] == max(scores[-1].values()) - scores[-1][policies[1]["winners"][0]]
    assert policies[1]["rounds"] == 1
    assert policies[1]["tasks"] == policies[1]["scorings"] == len(scores[0])


def test_what_was_not_recorded_is_said(recorded, dropping):
    own = load_run(recorded).config.search
    longer, never = dataclasses.replace(own, rungs=((7, 1),)), dataclasses.replace(own, policy="median(warmup=2)")
    found = replay.replay_run(recorded, [longer, never])["policies"]
    assert found[0]["unknown"] == found[1]["unknown"] == "iteration 1: wants more rounds than were recorded"
    assert found[0]["winners"] is None
    own = load_run(dropping).config.search
    found = replay.replay_run(dropping, [own, dataclasses.replace(own, policy="median(rounds=3)")])
    assert "wants scores that were not recorded" in found["policies"][1]["unknown"]
    assert found["policies"][0]["regret"] is None
    assert any("no regret" in note for note in found["notes"])


def test_fields_that_a_replay_cannot_change_are_refused(recorded):
    own = load_run(recorded).config.search
    with pytest.raises(ConfigError, match=r"search.reduction: got 0.3, want 0.2 as in the run"):
        replay.replay_run(recorded, [dataclasses.replace(own, reduction=0.3)])
    with pytest.raises(ConfigError, match=r"search.growth: got -1.0"):
        replay.replay_run(recorded, [dataclasses.replace(own, growth=-1.0)])
    with pytest.raises(ConfigError, match="got 0 policies"):
        replay.replay_run(recorded, [])


def test_a_policy_that_goes_otherwise_than_the_run_went_is_no_answer(recorded, monkeypatch):
    curves = curves_of(load_run(recorded))
    other = curves._replace(winners=(curves.winners + 1) % 5)
    monkeypatch.setattr(replay, "curves_of", lambda run: other)
    with pytest.raises(RunError, match=r"its own policy replayed: got winners .* as the run went"):
        replay.replay_run(recorded)
    dearer = curves._replace(seconds=2 * curves.seconds)
    monkeypatch.setattr(replay, "curves_of", lambda run: dearer)
    with pytest.raises(RunError, match=r"client seconds, want .* as in the ledger"):
        replay.replay_run(recorded)


@pytest.mark.exhaustive
def test_the_command_tries_a_grid_and_draws_its_front(recorded, capsys):
    assert main(["replay", str(recorded), "--groups", "1", "2", "--name", "grid"]) == 0
    shown = capsys.readouterr().out
    found = json.loads((recorded / "replay" / "grid.json").read_text())
    assert len(found["policies"]) > 200
    assert f"{sum(p['unknown'] is None for p in found['policies']):,} policies replayed" in shown
    assert "for each number of groups" in shown
    assert (recorded / "replay" / "grid.svg").read_text().startswith("<?xml")
    by_groups = {g: [p for p in found["policies"] if p["settings"].get("groups", 8) == g] for g in (1, 2)}
    for one, two in zip(by_groups[1], by_groups[2], strict=True):
        assert one["winners"] == two["winners"]
        if one["unknown"] is None:
            assert two["client_seconds"] == pytest.approx(one["client_seconds"] / 2)
    assert main(["replay", str(recorded), "--policies", "halvin"]) == 2
    assert main(["replay", str(recorded), "--rungs", "1:x"]) == 2


def test_the_front_has_whom_nobody_beats_in_both():
    points = [(3, 0.0), (1, 0.5), (2, 0.1), (2, 0.3), (4, 0.0), (0.5, 0.5), (1, None)]
    policies = [{"client_seconds": cost, "regret": regret} for cost, regret in points]
    assert replay.front(policies) == [5, 2, 0]


@pytest.mark.parametrize("changes", [{}, {"idle_groups": "help"}, {"clients_per_group": 2}, {"partial_clients": False}])
def test_the_clients_that_a_candidate_is_charged_for_are_those_of_the_draw(changes):
    groups, each = 4, 3
    search = SearchConfig(**({"partial_clients": True, "groups": groups} | changes))
    group_of = np.arange(groups * each) % groups if search.partial else np.zeros(groups * each, int)
    for trains in ([1, 0, 0, 0, 0, 0], [1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]):
        alive = np.asarray(trains, bool)
        drawn = assignment.draw(
            alive,
            jax.random.key(0),
            group_of,
            groups if search.partial else 1,
            search.clients_per_group if search.partial else 0,
            search.idle_groups == "help",
        )
        clients = (np.asarray(drawn.assign)[:, group_of] & np.asarray(drawn.cohort)).sum(1)
        np.testing.assert_array_equal(expected_clients(alive, search, groups * each), clients)


def test_the_default_grid_is_of_policies_that_a_run_can_have_and_that_fit():
    for first, last, iterations in ((1, 1, 1), (5, 5, 9), (10, 30, 20)):
        found = grids.default(CONFIG.search, first, last, iterations)
        assert len(found) == len(set(found))
        for search in found:
            validate(dataclasses.replace(CONFIG, search=search))
    assert len(found) > 500
    assert {grids.name_of(search).split("(")[0] for search in found} == {
        *("none", "rungs", "halving", "hyperband", "median")
    }


R, K = 6, 4
SEARCH = dataclasses.replace(CONFIG.search, rungs=((2, 0.5), (1, 2), (1, 1)), proposals=None)
POLICIES = [
    *("rungs", "none", "none(score_every=2)", "halving(eta=2, rounds=1)", "halving(eta=3, rounds=2)"),
    *("hyperband(eta=2, rounds=4)", "median(rounds=5)", "median(warmup=2, rounds=4)"),
]
SEARCHES = [
    dataclasses.replace(SEARCH, policy=policy, growth=growth, select=select)
    for policy in POLICIES
    for growth in (0.0, 0.5)
    for select in ("accuracy", "ratio")
]
score = st.one_of(st.sampled_from([0.0, 0.5, 0.5, 1.0, np.nan, np.inf]), st.floats(0, 1, width=32))


@st.composite
def made_up(draw):
    """Curves of two iterations with gaps."""
    form = (2, R, K)
    many = [draw(st.integers(1, K)) for _ in range(2)]
    lengths = np.asarray([draw(st.integers(1, R)) for _ in range(2)])
    exists = np.arange(K) < np.asarray(many)[:, None]
    inside = exists[:, None] & (np.arange(R)[:, None] < lengths[:, None, None])
    numbers = st.lists(score, min_size=2 * R * K, max_size=2 * R * K)
    gaps = st.lists(st.integers(0, 19), min_size=2 * R * K, max_size=2 * R * K)
    scored, trained = (inside & (np.reshape(draw(gaps), form) > 0) for _ in range(2))
    resource = np.reshape(draw(st.lists(st.integers(1, 3), min_size=2 * K, max_size=2 * K)), (2, K))
    return Curves(
        names=tuple(tuple(map(str, range(n))) for n in many),
        lengths=lengths,
        exists=exists,
        resource=np.where(exists, resource, 0).astype(np.float32),
        parent_resource=np.full(2, 5, np.float32),
        parent_score=np.full(2, 0.7, np.float32),
        scores=np.where(scored, np.reshape(np.asarray(draw(numbers), np.float32), form), np.nan).astype(np.float32),
        scored=scored,
        trained=trained,
        invited=trained.astype(float),
        diverged=np.zeros((2, K), bool),
        seconds=np.ones((*form, 2)),
        megabytes=np.ones((*form, 2)),
        winners=np.zeros(2, int),
        drops=(),
        clients=3,
    )


@pytest.mark.exhaustive
@settings(max_examples=5, deadline=None)
@given(made_up(), st.lists(st.sampled_from(SEARCHES), min_size=3, max_size=3))
def test_the_slow_twin_says_the_same_of_every_policy(curves, some):
    policies = [policy_of(search) for search in some]
    found = playing.play(policies, curves)
    for p, policy in enumerate(policies):
        for i in range(2):
            slow = loop(policy, curves, i)
            for field in Looped._fields:
                np.testing.assert_array_equal(getattr(found, field)[p, i], getattr(slow, field), err_msg=field)


def test_policies_of_one_code_over_the_same_values_are_one_program(monkeypatch):
    traced = []
    many = playing._many
    monkeypatch.setattr(playing, "_many", lambda policy: traced.append(policy) or many(policy))
    monkeypatch.setattr(playing, "AT_ONCE", 2 * K**2 * 3)  # three policies at a time
    curves = _plain()
    some = [dataclasses.replace(SEARCH, growth=growth) for growth in (0, 0.5, 1, 1.5, 2)]
    together = playing.play([policy_of(search) for search in some], curves)
    assert len(traced) == 1
    for p, search in enumerate(some):
        alone = playing.play([policy_of(search)], curves)
        for field in Looped._fields:
            np.testing.assert_array_equal(getattr(together, field)[p], getattr(alone, field)[0])
    traced.clear()
    playing.play([policy_of(dataclasses.replace(SEARCH, select=s)) for s in ("accuracy", "ratio")], curves)
    assert len(traced) == 2


def test_who_diverged_stays_so_and_goes_on_costing_what_it_cost_last():
    plain = _plain()
    scores, there = plain.scores.copy(), np.ones(plain.scores.shape, bool)
    scores[0, 2:, 1] = np.nan
    there[0, 3:, 1] = False
    seconds = np.where(there[..., None], np.arange(1.0, R + 1)[:, None, None], 0.0)
    curves = curves_module._with_diverged(
        plain._replace(scores=scores, scored=there, trained=there, invited=5.0 * there, seconds=seconds)
    )
    assert np.argwhere(curves.diverged).tolist() == [[0, 1]]
    assert curves.scored.all()
    assert curves.trained.all()
    np.testing.assert_array_equal(curves.seconds[0, :, 1, 0], [1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(curves.seconds[0, :, 0, 0], np.arange(1, R + 1))
    assert (curves.invited == 5).all()
    assert np.isnan(curves.scores[0, 2:, 1]).all()
    assert curves.complete
    found = playing.play([policy_of(dataclasses.replace(SEARCH, policy="none", early_dropping=False))], curves)
    assert not (found.unscored | found.winner[:, :1] == 1).any()


def test_a_winner_that_diverged_later_has_no_regret_that_anybody_knows():
    """A policy of fewer rounds may choose it: replaying ended in a traceback, since NaN is no JSON."""
    plain = _plain()
    scores = plain.scores.copy()
    scores[0, 0, 1], scores[0, 3:, 1] = 2.0, np.nan
    curves = curves_module._with_diverged(plain._replace(scores=scores))
    some = [dataclasses.replace(SEARCH, rungs=((rounds, 1),)) for rounds in (1, R)]
    played = playing.play([policy_of(search) for search in some], curves)
    curves = curves._replace(winners=played.winner[1])
    early, late = replay._records(some, curves, played, replay.cost_of(some, curves, played, SEARCH), SEARCH, 1.0)
    assert (early["winners"][0], early["regret"], early["worst_regret"], early["unknown"]) == ("b", None, None, None)
    assert late["regret"] == late["worst_regret"] == 0
    assert as_json([early, late])


def _plain():
    """Curves without gaps."""
    form = (2, R, K)
    rng, every = np.random.default_rng(0), np.ones(form, bool)
    return Curves(
        names=(("a", "b", "c", "d"),) * 2,
        lengths=np.full(2, R),
        exists=np.ones((2, K), bool),
        resource=np.ones((2, K), np.float32),
        parent_resource=np.full(2, 5, np.float32),
        parent_score=np.full(2, 0.7, np.float32),
        scores=rng.uniform(size=form).astype(np.float32),
        scored=every,
        trained=every,
        invited=every.astype(float),
        diverged=np.zeros((2, K), bool),
        seconds=np.ones((*form, 2)),
        megabytes=np.ones((*form, 2)),
        winners=np.zeros(2, int),
        drops=(),
        clients=3,
    )
