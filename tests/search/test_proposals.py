"""Candidates are exactly those of the definition: checked by brute force where the space is small."""

import functools
import itertools
from dataclasses import replace

import jax
import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import NetConfig, SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import build
from fednas_jax.search.proposals import keep_masks, proposer_of, target_of
from fednas_jax.search.resources import goal_of
from fednas_jax.space.jaxprs import count_macs
from fednas_jax.space.probing import probe

GROUPS = SearchConfig(proposals="groups")
PARENT = (12, 8, 16)


@functools.cache
def space_of(multiple=(2, 1, 4)):
    network = build(NetConfig("cnn", widths=PARENT), (8, 8, 1), 3)
    return probe(network, multiple, check=False)


def propose(space, config, widths, iteration, seed):
    return proposer_of(space, config, goal_of(space, config, check=False)).propose(widths, iteration, seed)


def most_candidates(space, config):
    return proposer_of(space, config, goal_of(space, config, check=False)).most


def resource(kind, widths):
    """MACs or parameters of the cnn at 8x8x1 with 3 classes, by hand."""
    a, b, c = widths
    macs = 8 * 8 * 25 * a + 4 * 4 * 25 * a * b + 2 * 2 * b * c + 3 * c
    params = (25 * a + a) + (25 * a * b + b) + (4 * b * c + c) + (3 * c + 3)
    return macs if kind == "macs" else params


multiples = st.sampled_from([(1, 1, 1), (2, 1, 4), (4, 4, 4), (8, 4, 16)])
kinds = st.sampled_from(["macs", "params"])
parents = st.tuples(*(st.integers(1, w) for w in PARENT))
reductions = st.floats(0.01, 0.9)


def test_the_hand_written_resource_is_that_of_the_network():
    for widths in (PARENT, (3, 5, 7)):
        assert resource("macs", widths) == count_macs(space_of().network, widths)
        assert resource("params", widths) == space_of().params(widths)


def test_targets_are_those_of_the_formula():
    config = SearchConfig(reduction=0.05, decay=0.9)
    parent, now = resource("macs", PARENT), resource("macs", (6, 8, 16))
    assert target_of(space_of(), config, PARENT, 1) == pytest.approx(0.95 * parent)
    assert target_of(space_of(), config, (6, 8, 16), 3) == pytest.approx(now - 0.05 * parent * 0.9 * 0.9)


@given(multiples, kinds, parents, reductions, st.integers(1, 5))
def test_each_group_gives_its_largest_smaller_multiple_under_the_target(multiple, kind, widths, rho, iteration):
    config = SearchConfig(proposals="groups", resource=kind, reduction=rho, decay=0.9)
    target = resource(kind, widths) - rho * resource(kind, PARENT) * 0.9 ** (iteration - 1)
    want = []
    for g, name in enumerate(("conv1", "conv2", "dense")):
        fits = []
        for n in range(1, widths[g]):
            candidate = (*widths[:g], n, *widths[g + 1 :])
            if n % multiple[g] == 0 and resource(kind, candidate) < target:
                fits.append(candidate)
        if fits:
            want.append((name, fits[-1]))
    assert [tuple(p) for p in propose(space_of(multiple), config, widths, iteration, 0)] == want


def test_a_candidate_that_meets_the_target_exactly_is_not_under_it():
    table = space_of().macs
    rho = (table(PARENT) - table((6, 8, 16))) / table(PARENT)
    for reduction, width in ((rho, 4), (0.999 * rho, 6)):
        first = propose(space_of(), replace(GROUPS, reduction=reduction), PARENT, 1, 0)[0]
        assert first == ("conv1", (width, 8, 16))


def test_nothing_is_proposed_when_nothing_is_feasible():
    for proposals in ("groups", "random", "uniform", "proportional"):
        config = SearchConfig(proposals=proposals, reduction=0.5)
        assert propose(space_of(), config, space_of().smallest, 1, 0) == []


@given(multiples, kinds, parents, reductions, st.integers(1, 3), st.integers(0, 2**40))
def test_random_candidates_are_feasible_distinct_and_repeatable(multiple, kind, widths, rho, iteration, seed):
    space = space_of(multiple)
    widths = tuple(max(w, m) for w, m in zip(widths, multiple, strict=True))
    config = SearchConfig(proposals="random", resource=kind, reduction=rho, random_candidates=6)
    found = propose(space, config, widths, iteration, seed)
    assert found == propose(space, config, widths, iteration, seed)
    target = resource(kind, widths) - rho * resource(kind, PARENT) * 0.98 ** (iteration - 1)
    assert bool(found) == (resource(kind, multiple) < target)
    assert len({p.widths for p in found}) == len(found) <= 6
    assert [p.name for p in found] == [f"random {n}" for n in range(len(found))]
    for _, candidate in found:
        assert resource(kind, candidate) < target
        for width, before, step in zip(candidate, widths, multiple, strict=True):
            assert width == before or (width % step == 0 and step <= width < before)


def test_random_candidates_differ_between_seeds_and_iterations():
    config = SearchConfig(proposals="random", reduction=0.3, random_candidates=6)
    draws = [propose(space_of(), config, PARENT, i, seed) for i, seed in itertools.product((1, 2), (0, 1))]
    assert len({tuple(p.widths for p in draw) for draw in draws}) == 4


def test_uniform_shrinks_every_group_together_and_never_grows():
    config = SearchConfig(proposals="uniform", reduction=0.1, decay=1.0)
    space, widths, family = space_of((1, 1, 1)), PARENT, [PARENT]
    while found := propose(space, config, widths, 1, 0):
        assert len(found) == 1
        assert resource("macs", found[0].widths) < resource("macs", widths) - 0.1 * resource("macs", PARENT)
        multiplier = float(found[0].name.removeprefix("uniform "))
        assert found[0].widths == tuple(max(1, int(w * multiplier)) for w in PARENT)
        widths = found[0].widths
        family.append(widths)
    assert len(family) > 4
    for before, after in itertools.pairwise(family):
        assert all(a <= b for a, b in zip(after, before, strict=True))
        assert after != before


def test_uniform_takes_the_largest_multiplier_and_keeps_to_the_multiples():
    config = SearchConfig(proposals="uniform", reduction=0.3)
    ((name, widths),) = propose(space_of((2, 4, 4)), config, PARENT, 1, 0)
    target = 0.7 * resource("macs", PARENT)
    choices = {
        thousandth: tuple(max(m, w * thousandth // 1000 // m * m) for w, m in zip(PARENT, (2, 4, 4), strict=True))
        for thousandth in range(1, 1000)
    }
    best = max(t for t, candidate in choices.items() if resource("macs", candidate) < target)
    assert (name, widths) == (f"uniform {best / 1000:.3f}", choices[best])


# Blocks


@functools.cache
def residual(depth=True):
    return probe(networks.residual(), (2, 2), check=False, depth=depth)


def test_a_block_is_removed_where_a_narrower_one_would_not_do():
    table, widths = residual().macs, residual().widths
    for width in (2, 0):
        reduction = (table(widths) - table((6, width))) / table(widths) - 1e-6
        config = replace(GROUPS, reduction=reduction)
        assert dict(propose(residual(), config, widths, 1, 0))["inner"] == (6, width)
        assert ("inner" in dict(propose(residual(depth=False), config, widths, 1, 0))) == (width > 0)


def test_a_removed_block_is_no_candidate_again_and_nothing_stays_below_the_smallest():
    config = replace(GROUPS, reduction=1e-6)
    assert propose(residual(), config, (6, 0), 1, 0) == [("stage", (4, 0))]
    assert propose(residual(), config, (2, 0), 1, 0) == []


@given(st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_random_candidates_remove_blocks_and_never_stages(reduction, seed):
    config = SearchConfig(proposals="random", reduction=reduction, random_candidates=4)
    found = propose(residual(), config, residual().widths, 1, seed)
    assert bool(found) == (residual().macs((2, 0)) < (1 - reduction) * residual().macs(residual().widths))
    for _, (stage, inner) in found:
        assert stage in (2, 4, 6)
        assert inner in (0, 2, 4)


def test_a_width_multiplier_removes_blocks_only_where_nothing_else_meets_the_target():
    table, widths = residual().macs, residual().widths
    whole = table(widths)
    for reduction, narrowest in ((1 - table((2, 2)) / whole - 1e-6, 2), (1 - table((2, 2)) / whole + 1e-6, 0)):
        config = SearchConfig(proposals="uniform", reduction=reduction)
        ((_, (_, inner)),) = propose(residual(), config, widths, 1, 0)
        assert inner == narrowest


def test_a_budget_may_need_blocks_removed():
    table = residual().macs
    config = SearchConfig(budget_absolute=table((2, 0)))
    assert goal_of(residual(), config).budgets == (table((2, 0)),)
    with pytest.raises(ConfigError, match=rf"want at least {table((2, 2))}, the macs of the smallest widths$"):
        goal_of(residual(depth=False), config)


# Channels


def test_the_channels_with_the_largest_norms_are_kept():
    norms = (np.array([3.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 2.0]))
    kept = (np.ones(4, bool), np.ones(3, bool))
    first, second = keep_masks(norms, kept, (2, 2))
    np.testing.assert_array_equal(first, [True, False, False, True])
    np.testing.assert_array_equal(second, [True, False, True])  # of equal norms the lower number


def test_channels_that_the_parent_lost_are_not_kept_again():
    (mask,) = keep_masks((np.array([9.0, 1.0, 8.0, 0.0]),), (np.array([False, True, False, True]),), (1,))
    np.testing.assert_array_equal(mask, [False, True, False, False])


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.booleans()), min_size=1, max_size=10),
    st.data(),
)
def test_kept_channels_are_the_parents_best(channels, data):
    norms, kept = np.array([n for n, _ in channels]), np.array([k for _, k in channels])
    width = data.draw(st.integers(0, int(kept.sum())))  # 0: the group's block is removed
    (mask,) = keep_masks((norms,), (kept,), (width,))
    ranked = sorted((c for c in range(len(norms)) if kept[c]), key=lambda c: (-norms[c], c))
    assert sorted(ranked[:width]) == list(np.flatnonzero(mask))


def test_blocks_are_kept_whole_by_the_norm_of_all_their_channels():
    norms = (np.array([3.0, 3.0, 5.0, 0.0, 4.5, 0.0]), np.array([1.0, 3.0, 2.0]))
    everything = (np.ones(6, bool), np.ones(3, bool))
    first, second = keep_masks(norms, everything, (4, 1), (2, 1))
    np.testing.assert_array_equal(first, [False, False, True, True, True, True])  # 18, 25 and 20.25
    np.testing.assert_array_equal(second, [False, True, False])
    (first,) = keep_masks(norms[:1], (np.array([True, True, False, False, True, True]),), (2,), (2,))
    np.testing.assert_array_equal(first, [False, False, False, False, True, True])  # the parent lost the largest


@given(st.integers(1, 3), st.integers(1, 5), st.data())
def test_kept_blocks_are_the_parents_best_whatever_their_size(block, number, data):
    norms = np.array(data.draw(st.lists(st.floats(0, 9), min_size=block * number, max_size=block * number)))
    alive = data.draw(st.lists(st.booleans(), min_size=number, max_size=number))
    few = data.draw(st.integers(0, sum(alive)))
    (mask,) = keep_masks((norms,), (np.repeat(alive, block),), (few * block,), (block,))
    whole = mask.reshape(number, block)
    assert (whole.all(1) == whole.any(1)).all()
    sizes = np.square(norms).reshape(number, block).sum(1)
    ranked = sorted((b for b in range(number) if alive[b]), key=lambda b: (-sizes[b], b))
    assert sorted(ranked[:few]) == list(np.flatnonzero(whole.all(1)))


def test_norms_of_a_network_choose_the_channels_that_are_kept():
    space = probe(networks.norm(), (2,), check=False)
    params = networks.start(networks.norm(), space.widths).params
    norms = jax.device_get(space.norms(params))
    masks = keep_masks(norms, tuple(np.ones(w, bool) for w in space.widths), (3, 5))
    produced = params["conv/kernel"] ** 2, params["depthwise/kernel"] ** 2
    conv = sum(kernel.sum((0, 1, 2)) for kernel in produced)
    assert set(np.flatnonzero(masks[0])) == set(np.argsort(-conv)[:3])
    assert masks[1].sum() == 5


# Number of candidates


def test_the_most_candidates_are_the_groups_the_random_ones_or_one():
    for proposals, most in (("groups", 3), ("random", 5), ("uniform", 1)):
        config = SearchConfig(proposals=proposals, random_candidates=5, early_dropping=True)
        assert most_candidates(space_of(), config) == most


@pytest.mark.parametrize("rungs", [((1, 4), (1, 1)), ((1, 0.9), (1, 4), (1, 1))])
def test_a_rung_that_keeps_more_than_there_are_candidates_is_refused(rungs):
    config = SearchConfig(proposals="groups", rungs=rungs, early_dropping=True)
    with pytest.raises(ConfigError, match=r"^search.rungs: got keep=4, want at most 3, the number of candidates$"):
        most_candidates(space_of(), config)
    assert most_candidates(space_of(), replace(config, early_dropping=False)) == 3
    assert most_candidates(space_of(), replace(config, proposals="uniform")) == 1
    assert most_candidates(space_of(), replace(config, proposals="random", random_candidates=4)) == 4
