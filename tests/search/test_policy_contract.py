"""What every elimination policy keeps to, the project's own and a user's; and the tables of each by hand."""

import io
import itertools
import math
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import own_search
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.registries import POLICIES
from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.search import policies
from fednas_jax.search.policies import compiled, policy_of, progress_of

SLOTS = 6
NAN, INF = math.nan, math.inf
SEARCH = SearchConfig(
    early_dropping=True, dynamic_rounds=True, growth=0.5, round_cap=9, rungs=((1, 0.5), (1, 2), (2, 1))
)
OWN = ("own_search:within", "own_search:within(margin=0.1, rounds=2)", "own_search:worst_out", "sample")
NAMES = (
    *POLICIES,
    *("halving(eta=3, rounds=2)", "halving(eta=2.5)", "hyperband(eta=3, rounds=9)", "median(warmup=3, rounds=5)"),
    *("none(score_every=1)", "none(score_every=3)"),
    *OWN,
    "own_search:drops_by_number",
)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """A policy that a user registered under a name, which is forgotten again."""
    POLICIES.register("sample", own_search.worst_out)
    yield
    del POLICIES._homes["sample"]


def of(name, **changes):
    return policy_of(SearchConfig(**(vars(SEARCH) | {"policy": name} | changes)))


@pytest.fixture(scope="module", params=NAMES)
def both(request):
    """A policy as it is, and compiled."""
    policy = of(request.param)
    return policy, compiled(policy)


def begin(policy, candidates, iteration=1, slots=SLOTS):
    alive = np.arange(slots) < candidates
    resource = np.where(alive, 1 + np.arange(slots) % 3, 0).astype(np.float32)
    return policy.init(policy.table(iteration, candidates), alive, resource)


def states_of(policy, state, told):
    """An iteration's states, told these scores over and over."""
    states = [state]
    while not policy.finished(states[-1]):
        assert len(states) < 99
        states.append(policy.tell(states[-1], told[(len(states) - 1) % len(told)]))
    return states


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


score = st.one_of(st.sampled_from([0.0, 0.5, 0.5, 1.0, NAN, INF, -INF]), st.floats(0, 1, width=32))
scorings = st.lists(st.lists(score, min_size=SLOTS, max_size=SLOTS), min_size=3, max_size=9)
sizes = st.integers(1, SLOTS)
iterations = st.integers(1, 30)


def test_an_iteration_ends_as_it_said_and_dropped_is_final_and_the_winner_lives(both):
    policy = both[1]

    @given(scorings, sizes, iterations)
    def check(told, candidates, iteration):
        told = np.asarray(told, np.float32)
        states = states_of(policy, begin(policy, candidates, iteration), told)
        rounds = progress_of(policy, states[0]).rounds
        assert len(states) - 1 <= rounds
        rungs = []
        for n, (before, after) in enumerate(itertools.pairwise(states)):
            at = progress_of(policy, before)
            assert (at.round, at.rounds) == (n + 1, rounds)
            assert 1 <= at.rung <= at.rungs
            rungs.append(at.rung)
            trains = np.asarray(policy.plan(before))
            assert trains.any()
            assert not (trains & ~np.asarray(before.alive)).any()
            assert not (np.asarray(after.alive) & ~np.asarray(before.alive)).any()
            wanted = bool(policy.wants_scores(before))
            if not wanted:
                np.testing.assert_array_equal(before.scores, after.scores)
        assert rungs == sorted(rungs)
        end = states[-1]
        assert not np.asarray(policy.plan(end)).any()
        assert not policy.wants_scores(end)
        same(policy.tell(end, told[0]), end)
        chosen = int(policy.select(end, np.float32(0.5), np.float32(9)))
        left = np.asarray(end.alive) & np.isfinite(end.scores)
        assert left[chosen] if left.any() else chosen == -1

    check()


def test_none_can_have_everybody_scored_every_so_many_rounds_and_drops_nobody_but_who_diverged():
    told = np.full((1, SLOTS), 0.5, np.float32)
    told[0, 2] = NAN
    changes = {"early_dropping": False, "dynamic_rounds": False, "settle_rounds": 5}
    for name, scored in (
        ("none", [5]),
        ("none(score_every=1)", [1, 2, 3, 4, 5]),
        ("none(score_every=2)", [2, 4, 5]),
        ("halving", [5]),
    ):
        policy = of(name, **changes)
        states = states_of(policy, begin(policy, SLOTS), told)
        assert [n for n, state in enumerate(states, 1) if policy.wants_scores(state)] == scored
        gone = [n for n, (a, b) in enumerate(itertools.pairwise(states), 1) if not (a.alive == b.alive).all()]
        assert gone == scored[:1]
        assert np.flatnonzero(~np.asarray(states[-1].alive)).tolist() == [2]
    with pytest.raises(ConfigError, match="score_every=-1, want a whole number, at least 0"):
        of("none(score_every=-1)")


def test_scores_that_are_not_finite_never_win(both):
    policy = both[1]
    for bad in (NAN, INF, -INF):
        for candidates in (1, 4, SLOTS):
            told = np.full((1, SLOTS), bad, np.float32)
            end = states_of(policy, begin(policy, candidates), told)[-1]
            assert int(policy.select(end, np.float32(0.5), np.float32(9))) == -1
        told[0, 3] = 0.1  # worse than any number but the bad ones
        end = states_of(policy, begin(policy, SLOTS), told)[-1]
        assert int(policy.select(end, np.float32(0.5), np.float32(9))) in (3, -1)


def test_compiled_functions_say_what_they_say_eagerly(both):
    policy, jitted = both
    told = np.random.default_rng(0).uniform(size=(5, SLOTS)).astype(np.float32)
    told[1, 0] = NAN
    state, twin = begin(policy, 5), begin(jitted, 5)
    while not policy.finished(state):
        for name in ("plan", "wants_scores", "finished", "progress"):
            same(getattr(policy, name)(state), getattr(jitted, name)(twin))
        at = progress_of(policy, state).round % len(told)
        state, twin = policy.tell(state, told[at]), jitted.tell(twin, told[at])
        same(state, twin)
    chosen = [p.select(state, np.float32(0.5), np.float32(9)) for p in (policy, jitted)]
    assert int(chosen[0]) == int(chosen[1])


def test_states_and_tables_side_by_side_go_as_each_alone(both):
    policy = both[0]
    rng = np.random.default_rng(1)
    cases = [(1, SLOTS), (3, 4), (12, 1), (7, 5)]
    told = rng.uniform(size=(8, len(cases), SLOTS)).astype(np.float32)
    told[2, 1, 2] = NAN
    tables = [policy.table(iteration, candidates) for iteration, candidates in cases]
    assert len({str(jax.tree.map(lambda a: (np.shape(a), np.asarray(a).dtype), t)) for t in tables}) == 1
    alive = np.asarray([np.arange(SLOTS) < candidates for _, candidates in cases])
    resource = np.ones((len(cases), SLOTS), np.float32)
    stacked = jax.tree.map(lambda *x: np.stack(x), *tables)

    def replay(init, tell, select):
        states = init(stacked, alive, resource)
        for row in told:
            states = tell(states, row)
        return states, select(states)

    def choose(state):
        return policy.select(state, jnp.float32(0.5), jnp.float32(9))

    many, winners = replay(*(jax.jit(jax.vmap(f)) for f in (policy.init, policy.tell, choose)))
    for n in range(len(cases)):
        alone = both[1].init(tables[n], alive[n], resource[n])
        for row in told:
            alone = both[1].tell(alone, row[n])
        same(jax.tree.map(lambda a, n=n: a[n], many), alone)
        assert int(winners[n]) == int(choose(alone))


def test_a_state_that_was_written_and_read_goes_on_as_before(both):
    policy = both[1]
    told = np.random.default_rng(2).uniform(size=(4, SLOTS)).astype(np.float32)
    states = states_of(policy, begin(policy, SLOTS, 2), told)
    for n, state in enumerate(states):
        file, (leaves, tree) = io.BytesIO(), jax.tree.flatten(state)
        np.savez(file, *leaves)
        file.seek(0)
        with np.load(file) as read:
            restored = jax.tree.unflatten(tree, [read[f"arr_{m}"] for m in range(len(leaves))])
        assert type(restored) is type(state)
        told_next = [told[m % len(told)] for m in range(n, n + len(told))]
        again = states_of(policy, restored, told_next)
        assert len(again) == len(states) - n
        same(again[-1], states[-1])


@pytest.mark.parametrize("name", NAMES)
def test_without_early_dropping_nobody_is_dropped_whatever_the_policy(name):
    policy, none = of(name, early_dropping=False), of("none")
    same(policy.table(4, 5), none.table(4, 5))
    told = np.arange(SLOTS, dtype=np.float32)[None]
    ends = [states_of(compiled(p), begin(p, 5), told)[-1] for p in (policy, none)]
    same(*ends)
    assert np.asarray(ends[0].alive).sum() == 5


@pytest.mark.parametrize("name", NAMES)
def test_rounds_grow_with_the_iteration_up_to_the_cap_or_settle(name):
    def rounds(iteration, **changes):
        policy = of(name, **changes)
        return progress_of(policy, begin(policy, 5, iteration)).rounds

    assert rounds(1) == rounds(2, growth=0.0) <= rounds(5) <= rounds(40) == rounds(99)
    assert rounds(5) > rounds(1)
    assert rounds(1, dynamic_rounds=False, settle_rounds=30) == rounds(9, dynamic_rounds=False, settle_rounds=30) == 30


@pytest.mark.parametrize("name", [name for name in NAMES if name != "own_search:drops_by_number"])
def test_of_equal_scores_the_smaller_resource_wins_then_the_lower_number(name):
    policy = of(name)
    told = np.full((1, SLOTS), 0.5, np.float32)
    alive, resource = np.ones(SLOTS, bool), np.asarray([3, 2, 1, 2, 1, 3], np.float32)
    state = policy.init(policy.table(1, SLOTS), alive, resource)
    end = states_of(compiled(policy), state, told)[-1]
    assert int(policy.select(end, np.float32(0.5), np.float32(9))) == 2


def test_the_ratio_selects_by_what_is_lost_for_what_is_saved_under_every_policy():
    for name in ("rungs", "hyperband", "median", "none"):
        chosen = []
        for select in ("accuracy", "ratio"):
            policy = compiled(of(name, select=select, rungs=((1, 1),)))
            state = policy.init(policy.table(1, 2), np.arange(SLOTS) < 2, np.asarray([8, 1, 0, 0, 0, 0], np.float32))
            end = states_of(policy, state, np.asarray([[0.8, 0.79, NAN, NAN, NAN, NAN]], np.float32))[-1]
            living = np.asarray(end.alive).sum()
            chosen.append(int(policy.select(end, np.float32(0.9), np.float32(9))) if living == 2 else None)
        assert chosen in ([0, 1], [None, None])
        assert name == "median" or chosen == [0, 1]


# Tables by hand


def table(name, candidates, iteration=1, **changes):
    got = of(name, growth=0.0, round_cap=99, **changes).table(iteration, candidates)
    return got.size.tolist(), [[r for r in row if r] for row in got.rounds.tolist()], got.keep


@pytest.mark.parametrize(
    ("name", "candidates", "rounds", "keep"),
    [
        ("halving", 14, [1, 2, 4], [7, 3, 1]),
        ("halving", 16, [1, 2, 4, 8], [8, 4, 2, 1]),
        ("halving", 2, [1], [1]),
        ("halving", 1, [1], [1]),
        ("halving(eta=3, rounds=2)", 14, [2, 6], [4, 1]),
        ("halving(eta=2.5)", 10, [1, 3], [4, 1]),
    ],
)
def test_successive_halving_keeps_a_share_and_lengthens_the_rungs(name, candidates, rounds, keep):
    size, got, kept = table(name, candidates)
    assert (size, got, kept[0, : len(rounds)].tolist()) == ([candidates], [rounds], keep)


def test_hyperbands_brackets_are_those_of_its_paper():
    """R = 81 and eta = 3 [Li et al. 2018, table 1]: candidates and rounds of each rung, of 143 candidates."""
    size, rounds, keep = table("hyperband(eta=3, rounds=81)", 143)
    assert size == [81, 34, 15, 8, 5]
    assert [np.cumsum(row).tolist() for row in rounds] == [
        [1, 3, 9, 27, 81],
        [3, 9, 27, 81],
        [9, 27, 81],
        [27, 81],
        [81],
    ]
    left = [[n, *row[: len(r) - 1].tolist()] for n, row, r in zip(size, keep, rounds, strict=True)]
    assert left == [[81, 27, 9, 3, 1], [34, 11, 3, 1], [15, 5, 1], [8, 2], [5]]


def test_few_candidates_are_dealt_to_brackets_in_the_papers_proportions():
    for candidates, want in ((22, [8, 6, 4, 4]), (11, [4, 3, 2, 2]), (3, [1, 1, 1, 0]), (1, [1, 0, 0, 0])):
        size, rounds, _ = table("hyperband", candidates)
        assert size == want
        assert [sum(row) for row in rounds] == [8 * bool(n) for n in want]
    state = begin(of("hyperband"), 11, slots=12)
    assert np.bincount(np.asarray(state.bracket)[:11]).tolist() == [4, 3, 2, 2]
    assert set(np.asarray(state.bracket)[:4].tolist()) == {0, 1, 2, 3}  # neighbours part ways


def test_brackets_end_together_however_their_rungs_grow():
    for changes in (dict(dynamic_rounds=False, settle_rounds=5), dict(growth=1.0, round_cap=9)):
        for iteration in (1, 4):
            policy = of("hyperband", **changes)
            lengths = policy.table(iteration, 11).rounds.sum(1)
            assert len(set(lengths.tolist())) == 1


# Twins


def deal(size, candidates):
    """Each candidate's bracket: in the order in which brackets would be served evenly."""
    stands = sorted(((j + 0.5) / n, b) for b, n in enumerate(size) for j in range(n))
    return [b for _, b in stands][:candidates]


@given(scorings, sizes, st.sampled_from(["hyperband", "hyperband(eta=3, rounds=9)", "hyperband(rounds=4)"]))
def test_hyperband_goes_as_its_plain_python_twin(told, candidates, name):
    policy = compiled(of(name, growth=0.0))
    states = states_of(policy, begin(policy, candidates), np.asarray(told, np.float32))
    size, rounds, keep = policy.table(1, candidates)
    resource = [1 + k % 3 for k in range(SLOTS)]
    names, latest, bracket = set(range(candidates)), {}, deal(size.tolist(), candidates)
    for done in range(1, len(states)):
        row = np.asarray(told[(done - 1) % len(told)], np.float32)
        wanted = False
        for b in range(len(size)):
            ends = np.cumsum([r for r in rounds[b] if r]).tolist()
            mine = [k for k in sorted(names) if bracket[k] == b]
            if done in ends and mine and (done == ends[-1] or len(mine) > keep[b, ends.index(done)]):
                wanted = True
                latest.update({k: row[k] for k in mine})
                fit = sorted((k for k in mine if np.isfinite(row[k])), key=lambda k: (-row[k], resource[k], k))
                most = len(fit) if done == ends[-1] else keep[b, ends.index(done)]
                names -= set(mine) - set(fit[:most])
        assert bool(policy.wants_scores(states[done - 1])) == wanted
        assert set(np.flatnonzero(states[done].alive).tolist()) == names
    np.testing.assert_array_equal(states[-1].scores, np.array([latest.get(k, NAN) for k in range(SLOTS)], np.float32))


finite = st.lists(
    st.lists(st.integers(0, 16).map(lambda n: n / 16), min_size=SLOTS, max_size=SLOTS), min_size=8, max_size=8
)


@given(finite, sizes, st.integers(0, 3))
def test_the_median_rule_goes_as_its_plain_python_twin(told, candidates, warmup):
    policy = compiled(of(f"median(warmup={warmup}, rounds=8)", growth=0.0))
    state, names, seen = begin(policy, candidates), list(range(candidates)), {k: [] for k in range(SLOTS)}
    for n, row in enumerate(told):
        wanted = n >= warmup and (len(names) > 1 or n == 7)
        assert bool(policy.wants_scores(state)) == wanted
        state = policy.tell(state, np.asarray(row, np.float32))
        if wanted:
            for k in names:
                seen[k].append(row[k])
            middle = statistics.median(sum(seen[k]) / len(seen[k]) for k in names)
            best = max(names, key=lambda k: (row[k], -(1 + k % 3), -k))
            if n < 7:
                names = [k for k in names if np.float32(max(seen[k])) >= np.float32(middle) or k == best]
        assert np.flatnonzero(state.alive).tolist() == names
    assert bool(policy.finished(state))


# Refusals


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("halving(eta=1)", "search.policy: got eta=1, want a number, at least 2"),
        ("halving(eta='2')", "search.policy: got eta='2', want a number, at least 2"),
        ("halving(rounds=0)", "search.policy: got rounds=0, want a whole number, 1 to 9 (search.round_cap)"),
        ("hyperband(rounds=10)", "search.policy: got rounds=10, want a whole number, 1 to 9 (search.round_cap)"),
        ("hyperband(rounds=2.0)", "search.policy: got rounds=2.0, want a whole number, 1 to 9"),
        ("median(warmup=-1)", "search.policy: got warmup=-1, want a whole number, at least 0"),
        ("median(share=1)", "search.policy: got 'median(share=1)' with the argument 'share', want warmup, rounds"),
        ("rungs(eta=2)", "search.policy: got 'rungs(eta=2)' with the argument 'eta', want none"),
        ("best", "search.policy: got 'best', want one of rungs, halving, hyperband, median, none, sample, or MODULE"),
        ("own_search:best", "search.policy: got 'own_search:best', want one of the functions of own_search, which has"),
        ("own_search:returns_nothing", "returned NoneType, want a Policy (docs/extend.md)"),
        (
            "own_search:fails_at_once",
            "AttributeError: 'SearchConfig' object has no attribute 'nonsense' (own_search.py",
        ),
        (
            "own_search:has_a_rule_that_fails",
            "AttributeError: 'Seen' object has no attribute 'nonsense' (own_search.py",
        ),
        ("own_search:takes_back", "takes a dropped candidate back, want dropped to be final"),
        ("own_search:trains_the_dropped", "trains a candidate that is dropped, want only those who live"),
        ("own_search:never_ends", "is not finished after round 4, want at most 4 as it says itself"),
        ("own_search:trains_nobody", "trains nobody in round 1, want at least one until it is finished"),
        ("own_search:takes_nan", "selects a candidate with the score nan, want a finite one"),
        ("own_search:takes_the_dead", "selects candidate 0, want one who lives, or -1"),
        ("own_search:takes_nobody", "selects nobody, want one where somebody had a finite score"),
        ("own_search:changes_its_form", "want the same form"),
        ("own_search:has_tables_of_any_form", "want one form in all iterations"),
        ("own_search:never_scores", "never wants scores, want them before the end, to select a winner by"),
        ("own_search:plans_too_few", "plans bool of (1,), want bool of (6,), all slots"),
        ("own_search:is_endless", "says that an iteration has 1000000000 rounds, want 1 to 100000"),
    ],
)
def test_a_policy_that_breaks_its_contract_is_refused_in_one_line(name, want):
    with pytest.raises(ConfigError) as caught:
        of(name)
    said = str(caught.value)
    assert want in said
    assert said.startswith("search.policy: ")
    assert "\n" not in said


def test_a_policy_that_goes_on_for_longer_than_it_said_is_stopped():
    policy = of("rungs")
    longer = policy._replace(progress=lambda state: policies.Progress(1, 1, 5, 4))
    with pytest.raises(ConfigError, match=r"^search\.policy: got a round 5, want at most the 4 that the policy says"):
        progress_of(longer, begin(policy, 3))


def test_more_rungs_than_a_table_has_are_refused():
    with pytest.raises(ConfigError, match=r"^search\.policy: got 79 rungs, want 1 to 64$"):
        of("own_search:worst_out").table(1, 80)


@pytest.mark.parametrize("name", ["rungs", "median(rounds=4)", "own_search:worst_out"])
def test_who_is_alone_is_not_scored_again_and_all_else_stays_as_it_is(name):
    policy, sparing = (compiled(of(name, rungs=((1, 1), (2, 1)), score_alone=alone)) for alone in (True, False))
    told = np.random.default_rng(0).uniform(size=(9, SLOTS)).astype(np.float32)
    for candidates in (1, 3, SLOTS):
        state, spared = begin(policy, candidates), 0
        while not policy.finished(state):
            known = np.asarray(state.alive) & np.isfinite(state.scores)
            alone = state.alive.sum() == 1 and known.any()
            assert bool(sparing.wants_scores(state)) == bool(policy.wants_scores(state) and not alone)
            spared += bool(policy.wants_scores(state) and alone)
            row = told[int(policy.progress(state).round) % len(told)]
            after = sparing.tell(state, np.full(SLOTS, NAN, np.float32) if alone else row)
            same(after, policy.tell(state, np.asarray(state.scores) if alone else row))
            state = after
        assert spared or name != "rungs" or candidates == 1
        assert int(policy.select(state, 0.5, 99.0)) == int(sparing.select(state, 0.5, 99.0)) >= 0
