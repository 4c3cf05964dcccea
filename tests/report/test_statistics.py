"""Intervals against scipy's own and numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fednas_jax.report import statistics


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipy_s(found):
    right, examples = found
    want = stats.binomtest(right, examples).proportion_ci(method="wilson")
    assert statistics.wilson(right / examples, examples) == pytest.approx((want.low, want.high), abs=1e-12)


def test_wilson_by_hand():
    # z = 1.959964; (0.5 + z^2/20 +- z sqrt(0.025 + z^2/400)) / (1 + z^2/10)
    assert statistics.wilson(0.5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert statistics.wilson(1.0, 1)[1] == 1.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8).filter(lambda v: np.std(v) > 1e-6))
def test_a_mean_s_interval_is_scipy_s(values):
    want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = statistics.mean(values)
    assert (found.low, found.high) == pytest.approx((want.low, want.high), rel=1e-6, abs=1e-6)


def test_what_groups_explain_by_hand():
    # mean 2.5, sum of squares 5, within 0.5 + 0.5: 1 - (1 / 2) / (5 / 3)
    assert statistics.explained([[1, 2], [3, 4]]) == pytest.approx(0.7)
    assert statistics.explained([[1, 1], [2, 2]]) == pytest.approx(1)
    assert statistics.explained([[1, 2], [1, 2]]) < 0


@pytest.mark.parametrize("groups", [[[1.0], [2.0], [3.0]], [[1.0, 2.0]], [[1.0, 1.0], [1.0]]])
def test_groups_of_single_values_or_of_equal_ones_explain_nothing(groups):
    assert statistics.explained(groups) == 0


def test_chance_explains_nothing_however_many_groups_there_are():
    draws = np.random.default_rng(0).normal(size=(400, 24))
    for size in (2, 12):
        found = [statistics.explained(values.reshape(-1, size)) for values in draws]
        assert abs(np.mean(found)) < 0.05


def test_one_value_has_no_interval():
    assert statistics.mean([0.5]) == (0.5, None, None, 1)
    assert statistics.difference({0: 2.0}, {0: 0.5}) == (1.5, None, None, 1)


def test_three_seeds_by_hand():
    # mean 2, s = 1, t(0.975, 2) = 4.302653, 4.302653 / sqrt(3) = 2.484138
    assert statistics.mean([1, 2, 3])[1:3] == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_shared_seeds_are_paired():
    a, b = {0: 0.9, 1: 0.7, 2: 0.5, 9: 0.0}, {2: 0.4, 1: 0.6, 0: 0.8}
    found = statistics.difference(a, b)
    assert found.value == pytest.approx(0.1)
    assert found.high - found.low == pytest.approx(0, abs=1e-12)  # each seed differs by the same
    assert found.values == 3


def test_other_seeds_are_compared_by_welch():
    a, b = [1.0, 2.0, 4.0], [2.0, 2.5]
    want = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = statistics.difference(dict(enumerate(a)), dict(enumerate(b, 10)))
    assert (found.low, found.high) == pytest.approx((want.low, want.high))
    assert statistics.difference({0: 1.0, 1: 1.0}, {2: 1.0, 3: 1.0}) == (0.0, 0.0, 0.0, 2)


def test_a_ratio_is_the_geometric_mean_of_the_pairs():
    found = statistics.ratio({0: 10.0, 1: 40.0}, {0: 1.0, 1: 1.0})
    assert found.value == pytest.approx(20.0)
    half = stats.t.ppf(0.975, 1) * np.std([math.log(10), math.log(40)], ddof=1) / math.sqrt(2)
    assert (found.low, found.high) == pytest.approx((20 * math.exp(-half), 20 * math.exp(half)))
    assert statistics.ratio({0: 0.0}, {0: 1.0}) is None
    assert statistics.ratio({}, {0: 1.0}) is None
    assert statistics.ratio({0: 1e-300, 1: 1e300}, {0: 1.0, 1: 1.0}).high < math.inf


@pytest.mark.parametrize(
    ("pairs", "want"),
    [
        ([(0, "a"), (1, "b"), (0, "a"), (1, "b")], True),
        ([(0, "a"), (0, "a")], False),  # of one seed nothing is known
        ([(0, "a"), (1, "a")], False),
        ([(0, "a"), (0, "b"), (1, "c")], False),
        ([(0, None), (1, None)], False),
        ([(0, None), (1, "b")], True),  # the first seed's parent is pretrained by its own run
        ([], False),
    ],
)
def test_a_value_that_each_seed_has_to_itself_is_of_the_seed(pairs, want):
    assert statistics.of_seed(pairs) is want
