"""Rungs: their tables by hand, their states against a Python twin; and the draws of a round by their properties."""

import functools
import io
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax.config.schema import SearchConfig
from fednas_jax.search import assignment, brackets, policies
from fednas_jax.search.assignment import client_groups
from fednas_jax.search.brackets import State, Table, init
from fednas_jax.search.policies import policy_of

K = 5
NAN, INF = math.nan, math.inf

tell = jax.jit(brackets.tell)
wants_scores = jax.jit(brackets.wants_scores)
finished = jax.jit(brackets.finished)
draw_ = jax.jit(assignment.draw, static_argnames=("groups", "most", "help_out"))


def begin(rounds=(1, 1), keep=(2, 1), alive=(True,) * K, resource=(1.0,) * K):
    """The start of an iteration with one bracket of these rungs."""
    table = Table(*(np.asarray(value, np.int32) for value in ([sum(alive)], [rounds], [keep])))
    return init(table, np.asarray(alive), np.asarray(resource))


def select(state, parent_score, parent_resource, ratio=False):
    return policies.winner(state.alive, state.scores, state.resource, parent_score, parent_resource, ratio)


def progress(state):
    return tuple(int(number) for number in brackets.progress(state))


def scores(*values):
    return jnp.asarray(values, jnp.float32)


def living(state):
    return [int(k) for k in np.flatnonzero(state.alive)]


# Schedule

PAPER = ((2, 4), (10, 1))
HALVING = ((1, 0.5), (1, 0.5), (4, 1))


@pytest.mark.parametrize(
    ("table", "settings", "iteration", "candidates", "rounds", "keep"),
    [
        (PAPER, {}, 1, 14, [2, 10], [4, 1]),
        (PAPER, {}, 1, 3, [2, 10], [3, 1]),  # K smaller than keep
        (PAPER, {}, 1, 1, [2, 10], [1, 1]),
        (PAPER, dict(growth=0.0), 9, 14, [2, 10], [4, 1]),
        (PAPER, dict(growth=1.0), 3, 14, [4, 12], [4, 1]),
        (PAPER, dict(growth=0.5), 2, 14, [3, 11], [4, 1]),  # 2.5 and 10.5: halves go up
        (PAPER, dict(growth=0.4), 2, 14, [2, 10], [4, 1]),
        (PAPER, dict(growth=2.0, round_cap=12), 4, 14, [8, 12], [4, 1]),
        (HALVING, {}, 1, 14, [1, 1, 4], [7, 7, 1]),  # fractions are of all candidates
        (((1, 0.5), (1, 0.25), (4, 1)), {}, 1, 14, [1, 1, 4], [7, 4, 1]),
        (((1, 0.5), (1, 1)), {}, 1, 7, [1, 1], [4, 1]),  # a fraction is rounded up
        (((1, 0.55), (1, 1)), {}, 1, 20, [1, 1], [11, 1]),  # 0.55 x 20 is 11.000000000000002
        (((1, 0.01), (1, 1)), {}, 1, 7, [1, 1], [1, 1]),
        (((1, 0.3), (1, 5), (1, 1)), {}, 1, 10, [1, 1, 1], [3, 3, 1]),  # never more than the rung before
        (((3, 1),), {}, 1, 8, [3], [1]),
        (PAPER, dict(dynamic_rounds=False, settle_rounds=7, growth=5.0), 6, 14, [2, 5], [4, 1]),
        (PAPER, dict(dynamic_rounds=False, settle_rounds=1), 1, 14, [2, 1], [4, 1]),
        (PAPER, dict(early_dropping=False), 1, 14, [12], [1]),
        (PAPER, dict(early_dropping=False, growth=1.0), 3, 14, [16], [1]),
        (PAPER, dict(early_dropping=False, dynamic_rounds=False, settle_rounds=7), 3, 14, [7], [1]),
    ],
)
def test_schedules_are_those_of_the_hand_written_table(table, settings, iteration, candidates, rounds, keep):
    config = SearchConfig(rungs=table, **dict(dynamic_rounds=True, early_dropping=True) | settings)
    got = policy_of(config).table(iteration, candidates)
    assert (got.size.tolist(), got.rounds.tolist(), got.keep.tolist()) == ([candidates], [rounds], [keep])
    assert got.size.dtype == got.rounds.dtype == got.keep.dtype == np.int32


# Client groups


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.data())
def test_client_groups_differ_by_at_most_the_largest_client(sizes, data):
    groups = data.draw(st.integers(1, len(sizes)))
    group_of = client_groups(np.array(sizes), groups)
    assert group_of.shape == (len(sizes),)
    loads = np.bincount(group_of, weights=sizes, minlength=groups)
    assert len(loads) == groups
    assert np.all(loads > 0)
    assert loads.max() - loads.min() <= max(sizes)
    np.testing.assert_array_equal(group_of, client_groups(np.array(sizes), groups))


def test_client_groups_by_hand():
    # 9 to 0; 8 to 1; 5 to 1 (8 < 9): 13; 4 to 0: 13; 4 to 0 (a tie): 17; 1 to 1.
    assert client_groups(np.array([4, 1, 9, 5, 8, 4]), 2).tolist() == [0, 1, 0, 1, 1, 0]
    assert client_groups(np.array([3, 3, 3, 3]), 3).tolist() == [0, 1, 2, 0]


# Draws

CLIENTS = 20


@st.composite
def draws(draw):
    """Arguments of a draw, its living candidates, and the draw."""
    groups = draw(st.sampled_from([1, 3, 8]))
    most, help_out = draw(st.sampled_from([0, 2])), draw(st.booleans())
    alive = draw(st.lists(st.booleans(), min_size=K, max_size=K).filter(any))
    group_of = np.array([*range(groups), *draw(st.lists(st.integers(0, groups - 1), min_size=12, max_size=12))])
    group_of = np.resize(group_of, CLIENTS).astype(np.int32)
    seed = draw(st.integers(0, 2**31))
    got = draw_(np.array(alive), jax.random.key(seed), group_of, groups=groups, most=most, help_out=help_out)
    return groups, most, help_out, np.array(alive), group_of, jax.tree.map(np.asarray, got)


@pytest.mark.exhaustive
@given(draws())
@settings(max_examples=30)
def test_draws_give_every_candidate_its_groups(drawn):
    groups, _, help_out, alive, _, (assign, _) = drawn
    assert assign.shape == (K, groups)
    assert not assign[~alive].any()
    of_candidate, of_group, many = assign.sum(1)[alive], assign.sum(0), alive.sum()
    if many > groups:
        assert np.all(of_candidate == 1)
        assert of_group.max() - of_group.min() <= 1
    elif help_out:
        assert np.all(of_group == 1)
        assert of_candidate.max() - of_candidate.min() <= 1
    else:
        assert np.all(of_candidate == 1)
        assert np.all(of_group <= 1)
    if groups == 1:
        assert np.all(assign[alive])


@given(draws())
@settings(max_examples=30)
def test_cohorts_hold_so_many_clients_of_each_group(drawn):
    groups, most, _, _, group_of, (_, cohort) = drawn
    assert cohort.shape == (CLIENTS,)
    for m in range(groups):
        size = int(np.sum(group_of == m))
        assert cohort[group_of == m].sum() == (min(most, size) if most else size)


def test_draws_are_made_anew_with_every_key_and_the_same_with_the_same():
    group_of = np.arange(CLIENTS) % 8
    plans = [draw_(np.ones(K, bool), jax.random.key(seed), group_of, groups=8, most=1) for seed in (*range(100), 0)]
    jax.tree.map(np.testing.assert_array_equal, plans[0], plans.pop())
    assert len({np.asarray(p.assign).tobytes() for p in plans}) > 90
    # Every candidate meets every group, and every client has its turn.
    assert np.all(np.sum([p.assign for p in plans], axis=0) > 0)
    assert np.all(np.sum([p.cohort for p in plans], axis=0) > 0)


# Tell


def test_the_best_stay_and_ties_go_to_the_smaller_resource_then_to_the_lower_number():
    state = tell(begin(keep=(3, 1), resource=(5, 5, 5, 2, 1)), scores(0.5, 0.5, 0.9, 0.5, 0.1))
    assert living(state) == [0, 2, 3]


def test_dropped_is_final_however_good_later_scores_are():
    state = tell(begin((1, 1, 1), (2, 1, 1)), scores(0.1, 0.2, 0.3, 0.4, 0.5))
    assert living(state) == [3, 4]
    state = tell(state, scores(0.9, 0.9, 0.9, 0.6, 0.7))
    assert living(state) == [4]
    np.testing.assert_allclose(state.scores, [0.1, 0.2, 0.3, 0.6, 0.7])


def test_scores_that_are_not_finite_never_stay_nor_win():
    state = tell(begin(keep=(4, 1)), scores(NAN, INF, -INF, 0.1, 0.2))
    assert living(state) == [3, 4]
    state = tell(state, scores(1, 1, 1, 0.1, NAN))
    assert living(state) == [3]
    assert bool(finished(state))
    assert int(select(state, jnp.float32(0.5), jnp.float32(9.0))) == 3


def test_an_iteration_in_which_nobody_is_left_is_over_without_a_winner():
    state = tell(begin(), scores(*[NAN] * K))
    assert living(state) == []
    assert bool(finished(state))
    assert not bool(wants_scores(state))
    for ratio in (False, True):
        assert int(select(state, jnp.float32(0.5), jnp.float32(9.0), ratio)) == -1


def test_scores_are_ignored_where_they_are_not_wanted():
    state = begin((2, 1), (2, 1))
    assert not bool(wants_scores(state))
    state = tell(state, scores(NAN, 0.9, 0.8, 0.7, 0.6))
    assert living(state) == [0, 1, 2, 3, 4]
    assert np.all(np.isnan(state.scores))
    assert progress(state) == (1, 2, 2, 3)
    assert bool(wants_scores(state))
    assert living(tell(state, scores(0.5, 0.4, 0.3, 0.2, 0.1))) == [0, 1]


def test_a_rung_that_drops_nobody_wants_no_scores_but_the_last_always_does():
    state = begin((1, 1), (K, 1))
    assert not bool(wants_scores(state))
    state = tell(state, scores(*[NAN] * K))
    assert living(state) == [0, 1, 2, 3, 4]
    assert bool(wants_scores(state))
    state = tell(state, scores(0.1, NAN, 0.3, 0.2, 0.0))
    assert living(state) == [0, 2, 3, 4]  # the last rung leaves the choice to select
    assert int(select(state, jnp.float32(0), jnp.float32(9))) == 2


def test_a_finished_iteration_stays_as_it_is():
    state = tell(tell(begin(), scores(0.1, 0.2, 0.3, 0.4, 0.5)), scores(0, 0, 0, 0.4, 0.5))
    assert bool(finished(state))
    assert not bool(wants_scores(state))
    jax.tree.map(np.testing.assert_array_equal, tell(state, scores(*[0.9] * K)), state)


# Select


def over(values, resource, alive=(True,) * K):
    state = begin((1,), (1,), alive, resource)
    return tell(state, scores(*values))


def test_accuracy_takes_the_best_score_and_ties_as_tell_does():
    choose = functools.partial(select, parent_score=jnp.float32(0.9), parent_resource=jnp.float32(100))
    assert int(choose(over((0.5, 0.8, 0.8, 0.8, 0.1), (10, 30, 20, 20, 10)))) == 2
    assert int(choose(over((0.9, 0.8, 0.8, 0.8, 0.1), (10, 30, 20, 20, 10), (False, True, True, True, True)))) == 2


def test_ratio_takes_the_least_accuracy_lost_for_the_resource_saved():
    # Lost 0.10 for 50, 0.04 for 10, 0.30 for 90, 0.06 for 40: 0.0020, 0.0040, 0.0033, 0.0015.
    state = over((0.80, 0.86, 0.60, 0.84, NAN), (50, 90, 10, 60, 1))
    assert int(select(state, jnp.float32(0.9), jnp.float32(100), ratio=True)) == 3
    assert int(select(state, jnp.float32(0.9), jnp.float32(100), ratio=False)) == 1


# A whole iteration against its twin


def iteration(table, resource, alive, told):
    """The iteration as documented, in plain Python: survivors, latest scores, wanted flags."""
    names = [k for k in range(K) if alive[k]]
    latest, wanted = {}, []
    for s, (rounds, keep) in enumerate(table):
        last = s == len(table) - 1
        for r in range(rounds):
            if not names:
                return names, latest, wanted
            wanted.append(r == rounds - 1 and (last or len(names) > keep))
            if wanted[-1]:
                row = told[len(wanted) - 1]
                latest.update({k: row[k] for k in names})
                ranked = sorted((k for k in names if math.isfinite(row[k])), key=lambda k: (-row[k], resource[k], k))
                names = sorted(ranked if last else ranked[:keep])
    return names, latest, wanted


def winner(names, latest, resource):
    return min(names, key=lambda k: (-latest[k], resource[k], k)) if names else -1


score = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, NAN, INF, -INF]), st.floats(0, 1, width=32))
tables = st.lists(st.tuples(st.integers(1, 3), st.integers(1, K + 1)), min_size=1, max_size=3)
rows = st.lists(st.lists(score, min_size=K, max_size=K), min_size=9, max_size=9)
alives = st.lists(st.booleans(), min_size=K, max_size=K).filter(any)
resources = st.lists(st.sampled_from([1.0, 2.0, 3.0]), min_size=K, max_size=K)


@pytest.mark.exhaustive
@given(tables, resources, alives, rows)
@settings(max_examples=100)
def test_an_iteration_goes_as_its_plain_python_twin(table, resource, alive, told):
    names, latest, wanted = iteration(table, resource, alive, told)
    state = begin(*zip(*table, strict=True), alive, resource)
    seen = []
    while not finished(state):
        seen.append(bool(wants_scores(state)))
        state = tell(state, scores(*told[len(seen) - 1]))
    assert seen == wanted
    assert living(state) == names
    np.testing.assert_array_equal(state.scores, np.array([latest.get(k, NAN) for k in range(K)], np.float32))
    assert int(select(state, jnp.float32(0), jnp.float32(9))) == winner(names, latest, resource)


@functools.partial(jax.jit, static_argnums=3)
def replay(table, resource, told, rounds):
    """An iteration of one policy over recorded scores [rounds, K]; made for vmap over policies."""
    state = init(table, jnp.ones(K, bool), resource)
    for r in range(rounds):
        state = brackets.tell(state, told[r])
    return state, select(state, jnp.float32(0), jnp.float32(9))


@pytest.mark.exhaustive
def test_policies_of_different_lengths_side_by_side_choose_as_each_alone():
    rng = np.random.default_rng(0)
    told = rng.uniform(size=(9, K)).astype(np.float32)
    told[2, 1] = NAN
    resource = (3.0, 1.0, 2.0, 2.0, 1.0)
    ladders = [
        ((1, 3), (2, 2), (1, 1)),
        ((3, 2), (3, 1), (3, 1)),
        ((1, 5), (1, 5), (1, 5)),
        ((2, 1), (1, 1), (1, 1)),
    ]
    rounds, keep = (np.array(ladders, np.int32)[:, None, :, column] for column in (0, 1))
    table = Table(np.full((4, 1), K, np.int32), rounds, keep)
    many, winners = jax.vmap(replay, (0, None, None, None))(table, jnp.asarray(resource), told, 9)
    for n, policy in enumerate(ladders):
        alone = begin(*zip(*policy, strict=True), resource=resource)
        for row in told:
            alone = brackets.tell(alone, row)  # neither jit nor vmap
        jax.tree.map(lambda a, b, n=n: np.testing.assert_array_equal(a[n], b), many, alone)
        names, latest, _ = iteration(policy, resource, [True] * K, told)
        assert int(winners[n]) == winner(names, latest, resource)
    assert len(set(np.asarray(winners).tolist())) > 1


@pytest.mark.exhaustive
def test_draws_side_by_side_equal_draws_alone():
    group_of = np.arange(CLIENTS) % 3
    alive = np.array([[True] * 5, [True, False, True, False, False], [False, False, False, False, True]])
    keys = jax.random.split(jax.random.key(0), 3)

    def drawn(alive, key):
        return assignment.draw(alive, key, group_of, 3, most=2)

    many = jax.jit(jax.vmap(drawn))(alive, keys)
    for n in range(3):
        alone = drawn(alive[n], keys[n])
        jax.tree.map(lambda a, b, n=n: np.testing.assert_array_equal(a[n], b), many, alone)


def test_a_state_survives_being_written_and_goes_on_as_before():
    told = np.random.default_rng(1).uniform(size=(4, K)).astype(np.float32)
    state = tell(begin((2, 2), (3, 1), resource=(1, 2, 3, 4, 5)), told[0])
    file = io.BytesIO()
    leaves, tree = jax.tree.flatten(tell(state, told[1]))
    np.savez(file, *leaves)
    file.seek(0)
    with np.load(file) as read:
        restored = jax.tree.unflatten(tree, [read[f"arr_{n}"] for n in range(len(leaves))])
    assert isinstance(restored, State)
    before = tell(state, told[1])
    for row in told[2:]:
        before, restored = tell(before, row), tell(restored, row)
    jax.tree.map(np.testing.assert_array_equal, restored, before)
    assert bool(finished(restored))
