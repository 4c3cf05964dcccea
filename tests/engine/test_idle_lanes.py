"""Lanes without work cost no pass over the weights in any step, and hand in what they had; no pass is made twice."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import ClosedJaxpr, Jaxpr
from rounds import CONFIG, WIDTHS, assert_close, assert_equal, fleet, trained_and_scored

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine import local, training
from fednas_jax.space.network import Variables


@jax.jit
def counted(ends, length):
    """Lanes that count their steps, and fall to NaN in the first step after they ended."""

    def step(t, state):
        number = jnp.where(t < ends, state.variables.params["a"][:, 0] + 1, jnp.nan)
        params = {"a": jnp.stack([number] * 2, 1)}
        return state._replace(variables=Variables(params, {}), optimizer=state.optimizer + 1)

    start = Variables({"a": jnp.zeros((len(ends), 2))}, {})
    state = local.LocalState(start, jnp.zeros(len(ends), int), None)
    return training._until_each_is_done(ends, length, step, state, start)


@given(st.lists(st.integers(1, 9), min_size=4, max_size=4), st.integers(0, 3))
def test_each_lane_has_what_it_had_when_it_ended_whatever_it_computes_after(ends, more):
    length = max(ends) + more
    state, taken = counted(np.array(ends), length)
    early = np.array(ends) < length
    assert taken.params["a"][early].tolist() == [[end, end] for end in ends if end < length]
    last = state.variables.params["a"][~early]
    assert last.tolist() == [[length, length]] * len(last), "what ends last is the state itself"
    assert state.optimizer.tolist() == [length] * 4, "all lanes step together, to the segment's end"


def test_a_lane_that_goes_on_after_a_segment_has_its_state():
    state, _ = counted(np.array([2, 5, 5, 3]), 5)
    assert state.variables.params["a"][1:3].tolist() == [[5, 5], [5, 5]]


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
        call = engine.compiled.call

        def recorded(kind, size, effort, *args):
            if kind == "round":
                programs.append(jax.make_jaxpr(engine.compiled.function(kind, size))(*args).jaxpr)
                raise StopIteration
            return call(kind, size, effort, *args)

        engine.compiled.call = recorded
        with pytest.raises(StopIteration):
            trained_and_scored(engine, candidates)
        return programs[0]

    return trace


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_step_is_compiled_once_and_selects_no_states(traced, candidates, lanes):
    (only,) = map(selected, loops_of_steps(traced(lanes)))
    weights = [(lanes, *leaf.shape) for leaf in jax.tree.leaves(candidates[0]) if leaf.ndim > 1]
    assert len(weights) == 3
    assert not any(only[shape] for shape in weights)


def stepped(network, candidate, steps=3, **changed):
    """The variables after some steps in two lanes, and the program of one."""
    config = TrainConfig(weight_decay=0.0, momentum=0.0, **changed)
    client = local.make_local(network, tuple(network.widths.values()), config)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 8, *network.input_shape)).astype(np.float32)
    batch = images, rng.integers(0, 10, (2, 8)), jnp.float32(0.1), jax.random.split(jax.random.key(0), 2)
    step = jax.vmap(client.step, (0, 0, 0, None, 0))
    state = jax.vmap(client.init)(jax.tree.map(lambda a: np.stack([a, a]), candidate))
    program = jax.make_jaxpr(step)(state, *batch).jaxpr
    for _ in range(steps):
        state = jax.jit(step)(state, *batch)
    return state.variables, program


def test_plain_sgd_adds_a_product_to_the_dense_weights_and_writes_no_gradient(network, candidates):
    plain, program = stepped(network, candidates[0])
    general, _ = stepped(network, candidates[0], client_optimizer="optax:sgd")
    assert_close(plain, general, atol=1e-6)
    made = {str(out): e.primitive.name for e in program.eqns for out in e.outvars}
    updates = {
        e.outvars[0].aval.shape: [made.get(str(operand)) for operand in e.invars]
        for e in program.eqns
        if e.primitive.name in ("add", "add_any")
    }
    for path in ("dense/kernel", "classifier/kernel"):
        # The other operand is the weights as they came in, which no equation made.
        assert sorted(map(str, updates[2, *candidates[0].params[path].shape])) == ["None", "dot_general"]


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
