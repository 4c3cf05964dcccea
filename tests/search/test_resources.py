"""Budgets of every kind: monotone in the widths, as many as the user names, and refused in one line."""

import dataclasses
import functools
import itertools
import math
from dataclasses import replace

import networks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.checks import Limit, limits
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config, CostConfig, NetConfig, ParticipationConfig, SearchConfig
from fednas_jax.errors import ConfigError, DataError, RunError
from fednas_jax.files import write_json
from fednas_jax.nets import build
from fednas_jax.run import inputs
from fednas_jax.run import problem as setup
from fednas_jax.search import lut
from fednas_jax.search.memory import peak_table
from fednas_jax.search.proposals import proposer_of, target_of
from fednas_jax.search.resources import Goal, Resource, goal_of, resource_of
from fednas_jax.space.probing import probe

PARENT = (12, 8, 16)


@functools.cache
def space_of(multiple=(2, 1, 4)):
    return probe(build(NetConfig("cnn", widths=PARENT), (8, 8, 1), 3), multiple, check=False)


def propose(space, config, widths, iteration, seed, goal=None):
    goal = goal or goal_of(space, config, check=False)
    return proposer_of(space, config, goal).propose(widths, iteration, seed)


def macs(widths):
    """Of the cnn at 8x8x1 with 3 classes, by hand."""
    a, b, c = widths
    return 8 * 8 * 25 * a + 4 * 4 * 25 * a * b + 2 * 2 * b * c + 3 * c


def params(widths):
    a, b, c = widths
    return (25 * a + a) + (25 * a * b + b) + (4 * b * c + c) + (3 * c + 3)


def memory(widths):
    """Bytes of float32 at the points of the cnn that can be the peak, by hand: values in, values out.

    Bias and ReLU write over the convolution's output; pooling reads slices of it, which are views.
    """
    a, b, c = widths
    points = (
        64 + 64 * a,  # image, first convolution
        64 * a + 16 * a,  # its output, pooled
        16 * a + 16 * b,  # second convolution
        16 * b + 4 * b,  # pooled
        4 * b + c,  # dense
        c + 3,  # classifier
    )
    return 4 * max(points)


def table_of(space, layers=None, **changes):
    """A lookup table by hand: two layers, 1 ms for each channel of conv1, 0.001 ms for conv2 x dense."""
    points = ((2, 7, 12), (1, 8), (4, 16))
    layers = layers or (
        lut.Layer("first", ("conv1",), points[:1], (2.0, 7.0, 12.0)),
        lut.Layer("second", ("conv2", "dense"), points[1:], ((0.004, 0.016), (0.032, 0.128))),
    )
    about = dict(
        network=space.network.name,
        input_shape=space.network.input_shape,
        groups=space.groups,
        widths=space.widths,
        macs=space.macs(space.widths),
        device="a hand",
        layers=layers,
        base_ms=0.5,
        scale=2.0,
        checked=(),
    )
    return lut.Table(**(about | changes))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lut") / "lut.json"
    write_json(path, lut.to_json(table_of(space_of())))
    return path


@functools.cache
def by_name(name):
    return resource_of(space_of(), name, CostConfig(watts=2.0))


widths_ = st.tuples(*(st.integers(1, w) for w in PARENT))


@given(widths_)
def test_each_resource_is_what_it_is_by_hand(widths):

    def of(name):
        return by_name(name)(widths)

    assert of("macs") == macs(widths)
    assert of("params") == params(widths)
    assert of("bytes") == 4 * params(widths)
    assert of("memory") == memory(widths)
    assert of("latency:pixel2") == pytest.approx(2.5 + 0.286 * macs(widths) / 1e6)
    assert of("energy:pixel2") == pytest.approx(2 * (2.5 + 0.286 * macs(widths) / 1e6))


@given(widths_)
def test_a_lookup_table_interpolates_between_measured_widths(file, widths):
    a, b, c = (min(max(w, low), high) for w, low, high in zip(widths, (2, 1, 4), PARENT, strict=True))
    want = 0.5 + 2 * (a + 0.001 * b * c)
    assert resource_of(space_of(), f"latency:{file}", CostConfig())(widths) == pytest.approx(want)
    assert resource_of(space_of(), f"energy:{file}", CostConfig(watts=3.0))(widths) == pytest.approx(3 * want)


def test_a_lookup_table_that_was_measured_so_never_grows_when_a_width_shrinks(file):
    resource = resource_of(space_of(), f"latency:{file}", CostConfig())

    @given(widths_, widths_)
    def check(some, others):
        smaller, larger = np.minimum(some, others), np.maximum(some, others)
        assert resource(smaller) <= resource(larger)

    check()


def test_many_widths_at_once_are_looked_up_as_one_after_another(file):
    resource = resource_of(space_of(), f"latency:{file}", CostConfig())
    many = np.asarray(list(itertools.product((1, 5, 12), (2, 8), (3, 16)))).reshape(3, 2, 2, 3)
    together = resource(many)
    assert together.shape == (3, 2, 2)
    for index in np.ndindex(3, 2, 2):
        assert together[index] == resource(tuple(int(w) for w in many[index]))


# Memory


@functools.cache
def memory_of(name, widths=None):
    """The table of a network's memory, made at some widths."""
    network = networks.residual() if name == "residual" else networks.segmented(name)
    space = probe(network, (2,), check=False)
    return peak_table(dataclasses.replace(space, widths=widths or space.widths))


@pytest.mark.parametrize("name", ["residual", "concatenated", "unet", "shuffled", "halves"])
def test_memory_at_other_widths_is_that_of_a_network_built_there(name):
    for widths in ((2, 6, 4), (10, 4, 12)):
        widths = widths[: len(memory_of(name).exponents[0])]
        assert memory_of(name)(widths) == memory_of(name, widths)(widths)


def test_a_skip_keeps_its_value_alive():
    """At 3x3: beside the stem's output, stage wide, lies the first convolution's, inner wide, with gelu's copy."""
    table = memory_of("residual")
    wide = 9 * 4 * (6 + 2 * 4)
    assert table((6, 4)) == max(wide, 4 * (72 + 9 * 6), 9 * 4 * (6 + 4 + 6))
    assert table((6, 40)) == 9 * 4 * (6 + 2 * 40)


def test_what_is_concatenated_lies_beside_its_parts():
    """At 6x6: the first convolution's output stays until it is put beside what comes back from 3x3."""
    for high, low, out in ((8, 8, 8), (4, 6, 30), (2, 12, 4)):
        concatenating, reading = 36 * (high + low) * 2, 36 * (high + low + out)
        assert memory_of("unet")((high, low, out)) == 4 * max(concatenating, reading)


def test_a_split_and_a_shuffle_are_counted_by_hand():
    """At 6x6: what is split stays whole, since the half that stays is a view of it, until both halves are copied."""
    table = memory_of("halves")
    for half, inner in ((8, 8), (4, 20), (40, 4)):
        changing, concatenating = 36 * (2 * half + inner + half), 36 * (2 * half + half + 2 * half)
        assert table((half, inner)) == 4 * max(changing, concatenating)


# Goals


def search(names, budget=0.25, absolute=None, **more):
    return SearchConfig(resource=names, budget=budget, budget_absolute=absolute, proposals="groups", **more)


def test_a_budget_is_a_fraction_of_the_parent_or_a_number():
    assert goal_of(space_of(), search("macs", 0.5)).budgets == (0.5 * macs(PARENT),)
    assert goal_of(space_of(), search("params", 0.5)).budgets == (0.5 * params(PARENT),)
    assert goal_of(space_of(), search("macs", 0.001, 9000)).budgets == (9000,)
    both = goal_of(space_of(), search("macs, params", (0.5, 0.001), (None, 900.0)))
    assert both.budgets == (0.5 * macs(PARENT), 900)
    assert limits(search("macs,params", 0.5)) == (Limit("macs", 0.5, None), Limit("params", 0.5, None))


def test_of_several_resources_the_most_violated_is_brought_down_and_all_must_hold():
    """MACs of (12, 8, 16) are 19,200 + 38,400 + 512 + 48, parameters 312 + 2,408 + 528 + 51."""
    config = search("macs,params", (0.3, 0.9), reduction=0.1, decay=0.5)
    goal = goal_of(space_of(), config)
    assert (goal.whole, macs(PARENT), params(PARENT)) == ((58160, 3299), 58160, 3299)
    assert goal.most_exceeded(PARENT).name == "macs"
    assert target_of(space_of(), config, PARENT, 1) == pytest.approx(58160 - 0.1 * 58160)
    assert target_of(space_of(), config, PARENT, 2, goal) == pytest.approx(58160 - 0.05 * 58160)
    # conv1 at 2: 3,200 + 6,400 + 560 MACs, well below 17,448; 1,059 parameters, well below 2,969.
    assert goal.reached((2, 8, 16))
    # The other way round: parameters wait for 20 %, MACs for 90 %.
    config = search("macs,params", (0.9, 0.2), reduction=0.1, decay=0.5)
    goal = goal_of(space_of(), config)
    assert goal.most_exceeded(PARENT).name == "params"
    target = 3299 - 0.1 * 3299
    assert target_of(space_of(), config, PARENT, 1) == pytest.approx(target)
    for _, candidate in propose(space_of(), config, PARENT, 1, 0, goal):
        assert params(candidate) < target
    # MACs hold at conv1 = 10, parameters do not.
    assert macs((10, 8, 16)) <= 0.9 * 58160
    assert not goal.reached((10, 8, 16))
    done = (3299 - params((6, 8, 16))) / (0.8 * 3299)
    assert goal.progress((6, 8, 16)) == pytest.approx(done)


def test_the_energy_of_phones_without_watts_is_no_goal():
    with pytest.raises(ConfigError, match=r"^search\.resource: energy:pixel2 gives 0\.0 at the parent's widths, want"):
        goal_of(space_of(), SearchConfig(resource="energy:pixel2"), CostConfig(watts=0.0))


def test_progress_is_none_where_a_measured_latency_rose_above_the_parents():
    uneven = Resource("latency", "ms", lambda widths: {PARENT: 10.0, (6, 8, 16): 11.0, (2, 8, 16): 4.0}[widths])
    goal = Goal((uneven,), (5.0,), (10.0,))
    assert [goal.progress(widths) for widths in (PARENT, (6, 8, 16), (2, 8, 16))] == [0.0, 0.0, 1.0]


def test_as_the_search_goes_the_resource_that_is_brought_down_changes():
    config = search("params,macs", (0.5, 0.55), reduction=0.05, decay=1.0)
    goal, widths, seen = goal_of(space_of((1, 1, 1)), config), PARENT, []
    for iteration in range(1, 100):
        if goal.reached(widths):
            break
        seen.append(goal.most_exceeded(widths).name)
        excess = {"params": params(widths) / (0.5 * 3299), "macs": macs(widths) / (0.55 * 58160)}
        assert excess[seen[-1]] == max(excess.values())
        # The dense layer has parameters and hardly any MACs: take its candidate while there is one.
        widths = propose(space_of((1, 1, 1)), config, widths, iteration, 0, goal)[-1].widths
    assert set(seen) == {"params", "macs"}
    assert params(widths) <= 0.5 * 3299
    assert macs(widths) <= 0.55 * 58160


@given(widths_, st.floats(0.01, 0.5), st.integers(1, 4))
def test_a_single_resource_goes_as_its_table_alone(widths, reduction, iteration):
    for name, table in (("macs", macs), ("params", params)):
        config = search(name, reduction=reduction)
        target = table(widths) - reduction * table(PARENT) * 0.98 ** (iteration - 1)
        assert target_of(space_of(), config, widths, iteration) == target
        assert all(table(p.widths) < target for p in propose(space_of(), config, widths, iteration, 0))


def test_a_budget_below_the_smallest_widths_is_refused_with_one_that_is_not():
    least = macs((2, 1, 4)) / macs(PARENT)
    with pytest.raises(ConfigError, match=r"^search.budget: got 0.01, want at least 0\.\d+, the macs of the") as caught:
        goal_of(space_of(), search("macs", 0.01))
    offered = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert least <= offered < least + 1e-3
    goal_of(space_of(), search("macs", offered))


@pytest.mark.parametrize("name", ["params", "latency:note8", "memory"])
def test_an_absolute_budget_below_the_smallest_widths_is_refused_with_one_that_is_not(name):
    least = resource_of(space_of(), name, CostConfig())((2, 1, 4))
    want = f"^search.budget_absolute: got {least / 2}, want at least .*, the {name} of the smallest widths$"
    with pytest.raises(ConfigError, match=want) as caught:
        goal_of(space_of(), search(name, absolute=least / 2))
    offered = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert least <= offered <= math.ceil(1e4 * least) / 1e4
    assert goal_of(space_of(), search(name, absolute=offered)).budgets == (offered,)


def test_a_budget_above_the_parents_is_refused():
    with pytest.raises(
        ConfigError, match=r"^search.budget_absolute: got 99999, want at most 58160, the macs of the par"
    ):
        goal_of(space_of(), search("macs", absolute=99999))


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (
            search("flops"),
            "search.resource: got 'flops', want one of macs, params, bytes, memory, latency, energy",
        ),
        (search("macs,"), "search.resource: got '', want one of macs"),
        (search("latency"), "search.resource: got 'latency', want latency:DEVICE"),
        (search("latency:"), "search.resource: got 'latency:', want latency:DEVICE"),
        (search("macs:pixel2"), "search.resource: got 'macs:pixel2', want macs"),
        (search("macs,params,macs"), "search.resource: got 'macs' twice, want each once"),
        (search("macs,params", (0.5, 0.5, 0.5)), "search.budget: got 3 numbers, want 2, one for each of macs, params"),
        (search("macs", (0.5, 0.5)), "search.budget: got 2 numbers, want 1, one for each of macs"),
        (search("macs,params", absolute=9.0), "search.budget_absolute: got 1 number, want 2, one for each of macs,"),
        (search("macs,params", (0.5, 1.5)), "search.budget: got 1.5, want above 0 and at most 1"),
        (search("macs,params", absolute=(None, -1.0)), "search.budget_absolute: got -1.0, want above 0"),
    ],
)
def test_resources_and_budgets_that_do_not_fit_are_refused_in_one_line(config, want):
    with pytest.raises(ConfigError) as caught:
        resolve(Config(search=config))
    assert str(caught.value).startswith(want)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_in_the_table_is_refused_by_name():
    want = r"want one of lg_g8, .*, or FILE.csv:NAME of a table of your own, or the .json of fednas latency$"
    with pytest.raises(ConfigError, match=rf"^search.resource: got 'pixel9', {want}"):
        goal_of(space_of(), search("macs,latency:pixel9"))


OWN = "name,base [s],speed [ns/MAC],down [Mbit/s],up [Mbit/s],power [mW]\nold,0.009,700,1,1,1500\n"


def test_a_device_may_be_a_phone_of_ones_own_table(tmp_path):
    """9 ms and 700 ms for a million MACs, at 1.5 W."""
    path = tmp_path / "phones.csv"
    path.write_text(OWN)
    ms = 9 + 700 * macs(PARENT) / 1e6
    assert resource_of(space_of(), f"latency:{path}:old", CostConfig())(PARENT) == pytest.approx(ms)
    assert resource_of(space_of(), f"energy:{path}:old", CostConfig(watts=3.0))(PARENT) == pytest.approx(1.5 * ms)
    for device, want in (
        (f"{path}:new", f"got 'new' of {path}, want one of old"),
        ("none.csv:old", "none.csv cannot be read: No such file"),
    ):
        with pytest.raises(ConfigError) as caught:
            resource_of(space_of(), f"latency:{device}", CostConfig())
        assert str(caught.value).startswith(f"search.resource: {want}")


def test_hosts_that_read_different_tables_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "phones.csv"
    path.write_text(OWN)
    config = Config(search=search(f"macs,latency:{path}:old"))
    setup._same_tables(config)  # one process agrees with itself
    monkeypatch.setattr(setup.hosts, "allgather", lambda sums: [sums, [s + 1 for s in sums]])
    with pytest.raises(DataError, match=r"^search\.resource: host 1 has another .*phones\.csv, want the same file"):
        setup._same_tables(config)


def test_a_run_keeps_the_tables_it_names_and_sees_when_they_change(tmp_path):
    names = ("phones.csv", "lut.json", "trace.csv")
    for name in names:
        (tmp_path / name).write_text(name)
    phones, lookup, trace = (tmp_path / name for name in names)
    config = Config(
        search=search(f"macs,latency:{lookup},energy:{lookup},energy:{phones}:old,latency:pixel2"),
        cost=CostConfig(population=str(phones)),
        participation=ParticipationConfig(availability="trace", trace=trace),
    )
    want = [("search.resource", lookup), ("search.resource", phones), ("cost.population", phones)]
    assert inputs.tables(config) == [*want, ("participation.trace", trace)]
    assert inputs.tables(Config()) == []
    own = f"{phones}:old"
    assert inputs.tables(Config(cost=CostConfig(phone=own))) == []  # nobody reads it
    assert inputs.tables(Config(cost=CostConfig(population="uniform", phone=own))) == [("cost.phone", phones)]
    absent = Config(participation=ParticipationConfig(availability="trace", trace=tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"^participation\.trace: .*none cannot be read: No such file"):
        inputs.keep(absent, tmp_path / "other")
    inputs.keep(config, tmp_path / "inputs")
    assert sorted(p.read_text() for p in (tmp_path / "inputs").iterdir()) == [names[1], names[0], names[0], names[2]]
    inputs.check(config, tmp_path / "inputs")
    phones.write_text("others")
    with pytest.raises(
        RunError, match=r"^search\.resource: .*phones\.csv has changed since this run began with it, want"
    ):
        inputs.check(config, tmp_path / "inputs")


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"network": "resnet"}, "got network resnet, want cnn, as in this search"),
        ({"input_shape": (28, 28, 1)}, "got images of 28-28-1, want 8-8-1, as in this search"),
        ({"widths": (12, 8, 8)}, "got widths up to 12-8-8, want up to 12-8-16, the parent's"),
        ({"macs": 7}, "got 7 MACs at widths 12-8-16, want 58,160, as in this search: another network of the same"),
    ],
)
def test_a_lookup_table_of_another_network_is_refused(changes, want, tmp_path):
    path = tmp_path / "lut.json"
    write_json(path, lut.to_json(replace(table_of(space_of()), **changes)))
    with pytest.raises(ConfigError) as caught:
        goal_of(space_of(), search(f"latency:{path}"))
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)
