"""Lanes without work cost nothing while there are none, and keep their state where there are; no pass is made twice."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import ClosedJaxpr, Jaxpr
from rounds import CONFIG, TASKS, WIDTHS, assert_close, assert_equal, fleet, trained_and_scored

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine import lane_plan, local
from fednas_jax.space.network import Variables


@given(st.lists(st.integers(1, 20), max_size=40).map(np.array), st.integers(1, 6), st.sampled_from([0.0, 1.0, 50.0]))
def test_the_steps_in_which_every_lane_works_are_counted_as_the_lanes_would_run_them(steps, lanes, boundary):
    plan = lane_plan.segments(steps.astype(int), lanes, boundary)
    found = lane_plan.all_busy(plan, steps.astype(int))
    assert (found.shape, found.dtype) == ((lane_plan.SEGMENTS,), np.int32)
    for s in range(lane_plan.SEGMENTS):
        busy = 0
        for t in range(plan.length[s]):
            works = [plan.task[s, n] >= 0 and plan.begun[s, n] + t < steps[plan.task[s, n]] for n in range(lanes)]
            assert busy in (t, found[s]), "lanes that end do not begin again in the segment"
            busy += all(works)
        assert found[s] == busy


def test_a_small_plan_has_the_counts_that_a_hand_would_write():
    # Lanes of 5 and 3 steps, then 2 more beside the last 2 of the first; then one task alone.
    assert lane_plan.all_busy(lane_plan.segments(np.array([5, 3, 2]), 2), np.array([5, 3, 2]))[:2].tolist() == [3, 2]
    assert lane_plan.all_busy(lane_plan.segments(np.array([4]), 2), np.array([4]))[:1].tolist() == [0]


@pytest.mark.parametrize("per_lane", [8, 16, 64])
@pytest.mark.parametrize("lanes", [4, 32, 256])
def test_most_steps_of_a_long_round_find_work_in_every_lane(lanes, per_lane):
    examples = np.random.default_rng(0).lognormal(np.log(120), 0.5, lanes * per_lane).clip(20, 500)
    steps = np.ceil(examples / 20).astype(int)
    plan = lane_plan.segments(steps, lanes)
    assert lane_plan.all_busy(plan, steps).sum() > 0.75 * plan.length.sum()


@pytest.mark.parametrize(("lanes", "devices"), [(4, 1), pytest.param(2, 8, marks=pytest.mark.exhaustive)])
def test_a_round_equals_one_that_chooses_between_states_after_every_step(
    network, dataset, packed, candidates, monkeypatch, lanes, devices
):
    everyone = TASKS._replace(candidate=np.repeat([0, 1, 2], 9), client=np.tile(np.arange(9), 3))
    quick, tally = trained_and_scored(fleet(network, dataset, packed, lanes, devices), candidates, everyone)
    count, counted = lane_plan.all_busy, []

    def none(plan, steps):
        counted.append(count(plan, steps).sum())
        return np.zeros(lane_plan.SEGMENTS, np.int32)

    monkeypatch.setattr(lane_plan, "all_busy", none)
    careful, same = trained_and_scored(fleet(network, dataset, packed, lanes, devices), candidates, everyone)
    assert sum(counted) > 0, "else the two rounds are one and the same"
    # Not bit for bit: XLA contracts multiplications and additions as they come to lie in its fusions.
    assert_close(quick, careful, atol=1e-6)
    assert np.array_equal(tally.total, same.total)


def inner(jaxpr):
    """The jaxprs in an equation's parameters."""
    for value in jaxpr.params.values():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, (Jaxpr, ClosedJaxpr)):
                yield one.jaxpr if isinstance(one, ClosedJaxpr) else one


def equations(jaxpr):
    """All equations, those of inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation
        for one in inner(equation):
            yield from equations(one)


def loops_of_steps(jaxpr):
    """The bodies of the loops that train, in their order: while loops with a product in them and no loop inside."""
    found = []
    for equation in equations(jaxpr):
        if equation.primitive.name == "while":
            body = equation.params["body_jaxpr"].jaxpr
            names = {e.primitive.name for e in equations(body)}
            if "dot_general" in names and "while" not in names:
                found.append(body)
    return found


def selected(body):
    """How often the loop selects whole arrays of each shape."""
    return collections.Counter(e.outvars[0].aval.shape for e in equations(body) if e.primitive.name == "select_n")


@pytest.fixture
def traced(network, dataset, packed, candidates, monkeypatch):
    """The jaxpr of a fleet's training program."""

    def trace(lanes, config=CONFIG):
        engine = fleet(network, dataset, packed, lanes, 1, config)
        programs = []
        call = engine._call

        def recorded(kind, size, effort, *args):
            if kind == "train":
                programs.append(jax.make_jaxpr(engine._function(kind, size))(*args).jaxpr)
                raise StopIteration
            return call(kind, size, effort, *args)

        engine._call = recorded
        with pytest.raises(StopIteration):
            trained_and_scored(engine, candidates)
        return programs[0]

    return trace


def test_no_states_are_selected_in_the_steps_in_which_every_lane_works(traced, candidates):
    first, rest = map(selected, loops_of_steps(traced(4)))
    state = collections.Counter((4, *leaf.shape) for leaf in jax.tree.leaves(candidates[0]))
    weights = [shape for shape in state if len(shape) > 2]
    assert len(weights) == 3
    # Parameters, momentum and FedProx's anchor; of a shape that activations have too there may be more.
    assert [first[shape] for shape in weights] == [0, 0, 0]
    assert [rest[shape] for shape in weights] == [3 * state[shape] for shape in weights]
    assert all(rest[shape] - first[shape] >= state[shape] for shape in state)


def test_a_lone_lane_has_one_loop_without_selects(traced, candidates):
    (only,) = map(selected, loops_of_steps(traced(1)))
    assert not any(only[(1, *leaf.shape)] for leaf in jax.tree.leaves(candidates[0]) if leaf.ndim > 1)


def test_plain_sgd_carries_no_state_of_an_optimiser(network, candidates):
    def carried(**changed):
        config = TrainConfig(weight_decay=0.0, proximal=0.0, momentum=0.0, **changed)
        return jax.tree.leaves(local.make_local(network, WIDTHS, config).init(candidates[0]))

    assert len(carried()) == len(jax.tree.leaves(candidates[0]))
    assert len(carried(precision="bfloat16")) == len(carried()) + len(candidates[0].params)


def test_bfloat16_rounds_weights_where_they_are_written_and_nowhere_else():
    network = nets.build(NetConfig("cnn", (2, 3, 4)), (8, 8, 1), 10)
    widths = tuple(network.widths.values())
    client = local.make_local(network, widths, TrainConfig(precision="bfloat16", momentum=0.0, weight_decay=0.0))
    state = jax.eval_shape(client.init, network.abstract(widths))
    batch = jnp.zeros((5, 8, 8, 1)), jnp.zeros(5, int), jnp.float32(0.1), jax.random.key(0)
    casts = [
        (e.invars[0].aval, e.outvars[0].aval)
        for e in equations(jax.make_jaxpr(client.step)(state, *batch).jaxpr)
        if e.primitive.name == "convert_element_type"
    ]
    rounded = [new.shape for old, new in casts if (old.dtype, new.dtype) == (jnp.float32, jnp.bfloat16)]
    weights = [leaf.shape for leaf in state.variables.params.values() if leaf.ndim > 1]
    assert len(weights) == 4
    assert [rounded.count(shape) for shape in weights] == [1, 1, 1, 1]
    assert {leaf.dtype for leaf in state.computed.values()} == {jnp.dtype("bfloat16")}


@pytest.mark.exhaustive
def test_weights_that_are_carried_in_bfloat16_train_as_those_that_are_rounded_in_each_step(network, candidates):
    config = TrainConfig(precision="bfloat16", weight_decay=0.0, momentum=0.9)
    client, forward = local.make_local(network, WIDTHS, config), local.make_forward(network, WIDTHS, config)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    images, labels = rng.normal(size=(8, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 8)
    state, plain = client.init(candidates[0]), candidates[0]
    optimizer = optax.sgd(1.0, momentum=0.9)
    memory = optimizer.init(plain.params)

    def loss(params, stats):
        logits, new = forward(Variables(params, stats), images, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new

    for _ in range(3):
        state = client.step(state, images, labels, jnp.float32(0.1), key)
        grads, stats = jax.grad(loss, has_aux=True)(*plain)
        updates, memory = optimizer.update(grads, memory)
        plain = Variables(jax.tree.map(lambda p, u: p + jnp.float32(0.1) * u, plain.params, updates), stats)
    # Operation by operation, nothing compiled together: so they are equal to the last bit.
    assert_equal(state.variables, plain)
    assert np.abs(state.variables.params["conv/kernel"] - candidates[0].params["conv/kernel"]).max() > 1e-3
