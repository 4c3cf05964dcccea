"""What every kind of proposals keeps to, the project's own and a user's; and what is refused."""

import functools

import own_search
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.registries import PROPOSALS
from fednas_jax.config.schema import NetConfig, SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import build
from fednas_jax.search.proposals import checked, proposer_of, target_of
from fednas_jax.search.resources import goal_of
from fednas_jax.space.probing import probe

PARENT, MULTIPLE = (12, 8, 16), (2, 1, 4)
NAMES = (*PROPOSALS, "random(candidates=3)", "own_search:two_at_a_time", "own_search:two_at_a_time(most=1)", "sample")


@functools.cache
def space():
    return probe(build(NetConfig("cnn", widths=PARENT), (8, 8, 1), 3), MULTIPLE, check=False)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """Proposals that a user registered under a name, which is forgotten again."""
    PROPOSALS.register("sample", own_search.two_at_a_time)
    yield
    del PROPOSALS._homes["sample"]


def of(name, **changes):
    search = SearchConfig(proposals=name, **changes)
    goal = goal_of(space(), search, check=False)
    return proposer_of(space(), search, goal), search, goal


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_few_distinct_within_bounds_under_the_target_and_repeatable(name):
    @given(
        st.tuples(*(st.integers(m, w) for m, w in zip(MULTIPLE, PARENT, strict=True))),
        st.sampled_from(["macs", "params", "macs,params"]),
        st.floats(0.01, 0.9),
        st.integers(1, 5),
        st.integers(0, 2**32 - 1),
    )
    def check(widths, resource, reduction, iteration, seed):
        proposer, search, goal = of(name, resource=resource, reduction=reduction)
        found = proposer.propose(widths, iteration, seed)
        again, _, _ = of(name, resource=resource, reduction=reduction)
        assert found == proposer.propose(widths, iteration, seed) == again.propose(widths, iteration, seed)
        assert len(found) <= proposer.most
        assert len({p.widths for p in found}) == len({p.name for p in found}) == len(found)
        target, table = target_of(space(), search, widths, iteration, goal), goal.most_exceeded(widths)
        for label, candidate in found:
            assert label
            assert isinstance(label, str)
            assert all(isinstance(width, int) for width in candidate)
            assert table(candidate) < target
            for width, before, step in zip(candidate, widths, MULTIPLE, strict=True):
                assert width == before or (width % step == 0 and step <= width < before)
        # The check that a user's own proposals go through finds nothing against the project's.
        assert checked(name, proposer, space(), search, goal).propose(widths, iteration, seed) == found

    check()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_proposed_where_nothing_is_feasible(name):
    assert of(name, reduction=0.5)[0].propose(space().smallest, 1, 0) == []


def test_proportional_takes_the_largest_factor_on_the_parents_widths():
    """From (8, 8, 16) with MACs 64 x 25 a + 16 x 25 ab + 4 bc + 3c: 38,960."""
    search = SearchConfig(proposals="proportional", reduction=0.1)
    table, widths = space().macs, (8, 8, 16)
    ((name, candidate),) = of("proportional", reduction=0.1)[0].propose(widths, 1, 0)
    target = target_of(space(), search, widths, 1)
    factors = [n / 1000 for n in range(1, 1000)]
    scaled = {f: tuple(max(m, int(w * f) // m * m) for w, m in zip(widths, MULTIPLE, strict=True)) for f in factors}
    best = max(f for f in factors if table(scaled[f]) < target)
    assert (name, candidate) == (f"proportional {best:.3f}", scaled[best])


def test_random_proposals_are_as_many_as_the_argument_says_or_else_the_field():
    assert of("random", random_candidates=5)[0].most == 5
    assert of("random(candidates=2)", random_candidates=5)[0].most == 2
    assert len(of("random(candidates=2)", reduction=0.3)[0].propose(PARENT, 1, 0)) <= 2


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("all", "got 'all', want one of groups, random, uniform, proportional, sample, or MODULE:FUNCTION"),
        ("random(candidates=0)", "got random(candidates=0), want a whole number, at least 1"),
        ("groups(most=2)", "got 'groups(most=2)' with the argument 'most', want none"),
        ("own_search:quick", "own_search:quick: TypeError: quick() takes 0 positional arguments but 3 were given"),
        ("own_search:of_nothing", "returned most=0, want a Proposer with the most candidates of an iteration"),
        ("own_search:flash", "returned Resource, want a Proposer with the most candidates of an iteration, at least 1"),
        ("own_search:too_wide", "proposes 'a' of widths 14-8-16, want conv1 from 2 to 12, the parent's, a multiple"),
        ("own_search:too_narrow", "proposes 'a' of widths 0-8-16, want conv1 from 2 to 12, the parent's, a multiple"),
        ("own_search:of_no_multiple", "proposes 'a' of widths 3-8-16, want conv1 from 2 to 12, the parent's, a mul"),
        ("own_search:of_two_groups", "proposes 'a' of widths 2-8, want 3 widths: conv1, conv2, dense"),
        ("own_search:above_the_target", "widths 12-8-12: 58,020 MACs, want below 55,252 MACs, the target of"),
        ("own_search:of_fractions", "own_search:of_fractions: TypeError: 'float' object cannot be interpreted as an"),
        ("own_search:twice", "proposes 'b' of widths 2-8-16, want names and widths unlike those of 'a' before it"),
        ("own_search:of_one_name", "proposes 'a' of widths 2-4-16, want names and widths unlike those of 'a'"),
        ("own_search:too_many", "proposes 3 candidates, want at most 2, its `most`"),
    ],
)
def test_proposals_that_break_their_contract_are_refused_in_one_line(name, want):
    with pytest.raises(ConfigError) as caught:
        of(name)[0].propose(PARENT, 1, 0)
    said = str(caught.value)
    assert want in said
    assert said.startswith("search.proposals: ")
    assert "\n" not in said


def test_a_rung_may_keep_more_than_there_are_where_only_one_candidate_is_proposed_or_others_decide():
    for proposals, policy in (("proportional", "rungs"), ("groups", "halving"), ("groups", "median(warmup=1)")):
        of(proposals, policy=policy, early_dropping=True, rungs=((1, 4), (1, 1)))
    with pytest.raises(ConfigError, match=r"^search\.rungs: got keep=4, want at most 3, the number of candidates$"):
        of("own_search:two_at_a_time", policy="rungs", early_dropping=True, rungs=((1, 4), (1, 1)))
