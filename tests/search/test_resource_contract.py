"""What every resource keeps to, the project's own and a user's; and what is refused."""

import functools
import itertools

import numpy as np
import own_search
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.checks import limits
from fednas_jax.config.registries import RESOURCES
from fednas_jax.config.schema import Config, CostConfig, NetConfig, SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import build
from fednas_jax.run import inputs
from fednas_jax.search.resources import Resource, goal_of, register_resource, resource_of
from fednas_jax.space.probing import probe

PARENT, MULTIPLE = (12, 8, 16), (2, 1, 4)
DEVICE = {"latency": "latency:pixel2", "energy": "energy:note8"}
NAMES = (
    *(DEVICE.get(name, name) for name in RESOURCES),
    *("own_search:flash", "own_search:flash(bits=4)", "channels", "at:pixel2"),
)


@functools.cache
def space():
    return probe(build(NetConfig("cnn", widths=PARENT), (8, 8, 1), 3), MULTIPLE, check=False)


def at(device, space, cost):
    """A resource of the user's own that depends on a device."""
    return Resource("at", f"{device} units", lambda widths: widths.prod(-1) / len(device))


@pytest.fixture(autouse=True, scope="module")
def _registered():
    """Resources that a user registered under names, which are forgotten again."""
    register_resource("channels", "channels", own_search.channels)
    RESOURCES.register("at", at)
    yield
    del RESOURCES._homes["channels"], RESOURCES._homes["at"]


widths_ = st.tuples(*(st.integers(1, w) for w in PARENT))


@pytest.mark.parametrize("name", NAMES)
def test_a_resource_has_its_name_and_unit_and_never_grows_when_a_width_shrinks(name):
    resource = resource_of(space(), name, CostConfig())
    assert resource.name == name
    assert resource.unit

    @given(widths_, widths_)
    def check(some, others):
        smaller, larger = np.minimum(some, others), np.maximum(some, others)
        assert 0 <= resource(smaller) <= resource(larger)

    check()


@pytest.mark.parametrize("name", NAMES)
def test_many_widths_at_once_are_as_one_after_another(name):
    resource = resource_of(space(), name, CostConfig())
    many = np.asarray(list(itertools.product((1, 5, 12), (2, 8), (3, 16)))).reshape(3, 2, 2, 3)
    together = resource(many)
    assert together.shape == (3, 2, 2)
    for index in np.ndindex(3, 2, 2):
        alone = resource(tuple(int(w) for w in many[index]))
        assert isinstance(alone, int | float)
        assert together[index] == alone


@pytest.mark.parametrize("name", NAMES)
def test_a_resource_can_be_the_goal_of_a_search_alone_or_beside_another(name):
    goal = goal_of(space(), SearchConfig(resource=name, budget=0.999))  # of a latency little is the layers'
    assert goal.reached(space().smallest)
    assert not goal.reached(PARENT)
    both = goal_of(space(), SearchConfig(resource=f"{name}, own_search:flash(bits=2)", budget=(0.999, 0.8)))
    assert [r.name for r in both.resources] == [name, "own_search:flash(bits=2)"]


def test_a_users_resource_is_what_it_says():
    assert resource_of(space(), "own_search:flash(bits=4)", CostConfig())(PARENT) == space().params(PARENT) / 2
    assert resource_of(space(), "channels", CostConfig())([1, 2, 3]) == 6
    assert resource_of(space(), "at:pixel2", CostConfig())((2, 3, 6)) == 6


def test_commas_between_arguments_do_not_divide_resources():
    search = SearchConfig(resource="macs,own_search:flash(bits=4, banks=2) ,own_search:flash", budget=0.5)
    assert [limit.resource for limit in limits(search)] == [
        "macs",
        "own_search:flash(bits=4, banks=2)",
        "own_search:flash",
    ]


def test_a_run_keeps_no_table_for_a_function_even_if_an_argument_looks_like_one():
    assert inputs.tables(Config(search=SearchConfig(resource="own_search:flash(path='a.json:b', bits=3)"))) == []


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("own_search:flush", "got 'own_search:flush', want one of the functions of own_search"),
        ("own_search:flash(bytes=4)", "with the argument 'bytes', want bits"),
        ("own_search:a_number", "returned int, want a Resource (docs/extend.md)"),
        ("own_search:without_a_unit", "has the unit '', want a text such as 'ms'"),
        ("own_search:by_the_first", "gives (3,) for widths (2, 3), want (2,): a number for each [..., groups]"),
        ("own_search:negative", "gives -26 at widths 12-8-16, want a number, at least 0 and finite"),
        ("own_search:of_complex", "gives 36j at widths 12-8-16, want a number, at least 0 and finite"),
        ("own_search:constant", "gives 7 at the parent's widths and 7 at the smallest, want more at the parent's"),
        ("own_search:of_the_batch", "gives [216, 42] for two widths at once, want [108, 21] as alone"),
        ("own_search:failing", "IndexError: only integers, slices"),
    ],
)
def test_a_resource_that_breaks_its_contract_is_refused_in_one_line(name, want):
    with pytest.raises(ConfigError) as caught:
        resource_of(space(), name, CostConfig())
    said = str(caught.value)
    assert want in said
    assert said.startswith("search.resource: ")
    assert "\n" not in said


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_users_table_with_a_hole_is_refused_where_the_search_comes_by(monkeypatch, hole):
    """At the parent's and the smallest widths, where it is tried, it has numbers."""

    def holed(space, cost):
        return Resource("holed", "ms", lambda w: np.where(w[..., 0] == 6, hole, w.sum(-1)))

    monkeypatch.setitem(RESOURCES._homes, "holed", holed)
    resource = resource_of(space(), "holed", CostConfig())
    assert resource((8, 8, 16)) == 32
    for widths in ((6, 8, 16), np.asarray([(8, 8, 16), (6, 8, 16)])):
        with pytest.raises(ConfigError, match=r"holed gives what is no finite number at widths 6-8-16, want one$"):
            resource(widths)
