"""The growing panel: its test by hand, and its stated error rate against simulated clients."""

import numpy as np
import pytest

from fednas_jax.config.schema import SearchConfig
from fednas_jax.search import panel
from fednas_jax.search.panel import Counts
from fednas_jax.search.policies import compiled, policy_of

CLIENTS = 100


@pytest.mark.parametrize(
    ("first", "most", "stages"),
    [(5, 20, [5, 5, 10]), (5, 12, [5, 5, 2]), (5, 5, [5]), (5, 0, [5]), (1, 8, [1, 1, 2, 4]), (6, 7, [6, 1])],
)
def test_a_panel_doubles(first, most, stages):
    assert panel.sizes(first, most) == stages


def test_a_claim_by_hand():
    # Four clients of ten examples; a has 2, 3, 1 and 2 more right: 8 of 40. Residuals 0, 1, -1, 0: squares 2, and 1.
    counts = Counts(np.asarray([[9, 7], [9, 6], [9, 8], [9, 7]]), np.full(4, 10))
    deviation = np.sqrt((1 - 4 / 100) * 3 * 4 / 3) / 40
    least = 3.182446  # Student's t with 3 degrees of freedom, 97.5 %
    assert 0.2 > least * deviation > 0.1
    assert panel.clear(counts, [(0, 1)], 100, 1, 0.025, 0.0)
    assert not panel.clear(counts, [(1, 0)], 100, 1, 0.025, 0.0)
    assert panel.clear(counts, [(1, 0)], 100, 1, 0.025, 0.2 + least * deviation + 1e-3)
    assert not panel.clear(counts, [(1, 0)], 100, 1, 0.025, 0.2 + least * deviation - 1e-3)
    # Twice the looks, or two claims, ask for more.
    assert panel.clear(counts, [(0, 1)], 100, 2, 0.05, 0.0) == panel.clear(counts, [(0, 1)], 100, 1, 0.025, 0.0)


def test_what_cannot_be_told_is_not_clear():
    alike = Counts(np.asarray([[5, 5]] * 5), np.full(5, 6))
    assert not panel.clear(alike, [(0, 1)], 100, 1, 0.1, 0.0)
    assert not panel.clear(Counts(np.asarray([[6, 0]]), np.asarray([6])), [(0, 1)], 100, 1, 0.1, 0.0)  # one client
    assert panel.clear(alike, [], 100, 1, 0.1, 0.0)  # nobody goes
    assert panel.clear(alike, [(0, 1)], 5, 1, 0.1, 1e-9)  # all were asked


@pytest.mark.parametrize(
    ("scores", "pairs"),
    [
        ([0.9, 0.5, 0.8, np.nan], {(0, 1), (2, 1)}),  # two of three stay
        ([0.5, np.nan, np.nan, np.nan], set()),
    ],
)
def test_claims_are_what_a_policy_decides(scores, pairs):
    policy = compiled(policy_of(SearchConfig(rungs=((1, 2), (1, 1)), early_dropping=True, dynamic_rounds=True)))
    state = policy.init(policy.table(1, 3), np.arange(4) < 3, np.ones(4, np.float32))
    assert set(panel.claims(policy, state, np.asarray(scores), 0.5, 9.0)) == pairs
    after = policy.tell(state, np.float32([0.9, 0.5, 0.8, 0]))
    assert panel.claims(policy, after, np.asarray([0.6, 0.1, 0.7, np.nan]), 0.5, 9.0) == [(2, 0)]  # the end: one wins


def population(rng, gap, spread):
    """C clients' correct counts [C, 2] and sizes [C]: b is better than a by `gap` over all, by chance within each."""
    total = rng.integers(5, 30, CLIENTS)
    level = np.clip(rng.normal(0.75, spread, CLIENTS), 0.3, 0.95)
    correct = np.stack([rng.binomial(total, np.clip(level + d, 0, 1)) for d in (0.0, gap)], axis=1)
    return correct, total


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_the_rate_of_wrong_early_decisions_is_at_most_the_one_stated(error, tolerance):
    """In the worst case: the other candidate is better by a little more than the tolerance, over all clients."""
    rng = np.random.default_rng(1)
    stages, wrong, many = panel.sizes(5, 20), 0, 0
    while many < 1000:
        correct, total = population(rng, tolerance + 0.005, 0.1)
        true = (correct[:, 1] - correct[:, 0]).sum() / total.sum()
        if not tolerance < true < tolerance + 0.02:
            continue
        many += 1
        order = rng.permutation(CLIENTS)
        for asked in np.cumsum(stages)[:-1]:
            counts = Counts(correct[order[:asked]], total[order[:asked]])
            better = int(counts.scores[1] > counts.scores[0])
            if panel.clear(counts, [(better, 1 - better)], CLIENTS, len(stages) - 1, error, tolerance):
                wrong += better == 0
                break
    assert wrong / many <= error + 2 * np.sqrt(error / many)


def test_clear_differences_are_found_with_few_clients():
    rng, asked = np.random.default_rng(2), []
    for _ in range(200):
        correct, total = population(rng, 0.15, 0.05)
        order = rng.permutation(CLIENTS)
        sizes = np.cumsum(panel.sizes(5, 40))
        found = [
            n for n in sizes[:-1] if panel.clear(Counts(correct[order[:n]], total[order[:n]]), [(1, 0)], 100, 3, 0.1, 0)
        ]
        asked.append(found[0] if found else sizes[-1])
    assert np.mean(asked) < 15
