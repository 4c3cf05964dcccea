"""nnx and linen modules give one interface: variables, costs, fast convolutions, dropout and statistics."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import linen, nnx

from fednas_jax.errors import NetworkError
from fednas_jax.nets import from_linen, from_nnx
from fednas_jax.space.network import Variables
from fednas_jax.space.probing import probe

WIDTHS = (8, 8)
both = pytest.mark.parametrize("make", [networks.norm, networks.linen_norm])


def apply(network, variables, train, key=None):
    images, _ = networks.batch(network)
    return network.apply(WIDTHS, variables, images, train=train, key=key)


def test_a_linen_network_is_labelled_and_priced_as_its_nnx_twin():
    twins = [probe(make(), (2,)) for make in (networks.norm, networks.linen_norm)]
    for field in ("groups", "widths", "multiple", "labels", "macs", "params", "size"):
        one, other = (getattr(space, field) for space in twins)
        assert one == other, field


def test_a_linen_network_computes_and_trains_as_its_nnx_twin():
    variables = networks.start(networks.norm(), WIDTHS)
    for train in (False, True):
        one, other = (apply(make(), variables, train) for make in (networks.norm, networks.linen_norm))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)


def test_a_linen_candidate_masked_trains_as_sliced():
    space = probe(networks.linen_norm(), (2,), check=False)
    networks.assert_masked_equals_sliced(space, (np.arange(8) % 2 == 1, np.arange(8) < 3))


@both
def test_initialised_variables_have_the_abstract_shapes_and_differ_between_keys(make):
    network = make()
    one, same, other = (network.init(WIDTHS, jax.random.key(seed)) for seed in (0, 0, 1))
    described = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), one)
    assert described == jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), network.abstract(WIDTHS))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert np.any(one.params["conv/kernel"] != other.params["conv/kernel"])


@both
@pytest.mark.parametrize("train", [False, True])
def test_lanes_with_their_own_weights_run_no_convolution_forward_or_backward(make, train):
    network = make()
    images, _ = networks.batch(network)

    def loss(params, stats):
        return jnp.sum(network.apply(WIDTHS, Variables(params, stats), images, train=train)[0])

    variables = network.abstract(WIDTHS)
    lanes = jax.tree.map(lambda s: jax.ShapeDtypeStruct((3, *s.shape), s.dtype), variables)
    assert "conv_general_dilated[" in str(jax.make_jaxpr(jax.grad(loss))(*variables))
    in_lanes = str(jax.make_jaxpr(jax.jit(jax.vmap(jax.grad(loss))))(*lanes))
    assert "conv_general_dilated[" not in in_lanes
    assert "dot_general[" in in_lanes


def test_a_convolution_that_the_user_replaced_stays_as_it_is():
    calls = []

    def mine(*args, **kwargs):
        calls.append(1)
        return jax.lax.conv_general_dilated(*args, **kwargs)

    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return linen.Conv(4, (3, 3), conv_general_dilated=mine)(x).mean((1, 2))

    networks_ = [
        from_linen("mine", lambda w: Linen(), {}, (4, 4, 1)),
        from_nnx(
            "mine",
            lambda w, rngs: nnx.Conv(1, 4, (3, 3), conv_general_dilated=mine, rngs=rngs),
            {},
            (4, 4, 1),
        ),
    ]
    for network in networks_:
        calls.clear()
        jax.eval_shape(
            lambda v, network=network: network.apply((), v, jnp.zeros((1, 4, 4, 1)), train=False),
            network.abstract(()),
        )
        assert calls


@both
def test_dropout_follows_the_key_and_is_off_without_one(make):
    variables = networks.start(make(), WIDTHS)
    one, same, other = (apply(make(), variables, True, jax.random.key(seed))[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    off = apply(make(), variables, True)[0]
    np.testing.assert_array_equal(off, apply(make(), variables, True)[0])
    assert np.any(off != one)


@both
def test_evaluation_is_not_random_even_with_a_key(make):
    variables = networks.start(make(), WIDTHS)
    np.testing.assert_array_equal(
        apply(make(), variables, False, jax.random.key(3))[0], apply(make(), variables, False)[0]
    )


class Drawing(linen.Module):
    """Names with a / in them, as WeightNorm makes, a layer that draws by itself, and dropout of a named argument."""

    @linen.compact
    def __call__(self, x, train):
        x = linen.WeightNorm(linen.Dense(8))(x)
        if train:
            x = x + jax.random.normal(self.make_rng("dropout"), x.shape)
        return linen.SpectralNorm(linen.Dense(3))(
            linen.Dropout(0.5)(inputs=x, deterministic=not train), update_stats=train
        )


def test_a_linen_network_may_draw_by_itself_and_its_names_may_have_a_slash():
    network, images = from_linen("drawing", lambda w: Drawing(), {}, (4,)), jnp.ones((2, 4))
    variables = jax.device_get(network.init((), jax.random.key(0)))
    assert "WeightNorm_0/Dense_0/kernel/scale" in variables.params
    tree = Drawing().init(jax.random.key(0), images, train=False)
    want = Drawing().apply(tree, images, train=False)
    np.testing.assert_allclose(network.apply((), variables, images, train=False)[0], want, atol=1e-6)
    (one, stats), (same, _), (other, _) = (
        network.apply((), variables, images, train=True, key=key) for key in (None, None, jax.random.key(1))
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    assert stats.keys() == variables.stats.keys()


def test_two_dropouts_of_one_network_draw_differently():
    class Twice(nnx.Module):
        def __init__(self, widths, rngs):
            self.one, self.other = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return jnp.stack([self.one(x), self.other(x)])

    network = from_nnx("twice", Twice, {}, (64,))
    (one, other), _ = network.apply((), Variables({}, {}), jnp.ones((1, 64)), train=True, key=jax.random.key(0))
    assert np.any(one != other)


@both
def test_statistics_change_in_training_only_and_move_towards_the_batch(make):
    network = make()
    variables = networks.start(network, WIDTHS)
    _, trained = apply(network, variables, True)
    _, evaluated = apply(network, variables, False)
    assert trained.keys() == evaluated.keys() == variables.stats.keys() == {"norm/mean", "norm/var"}
    jax.tree.map(np.testing.assert_array_equal, evaluated, variables.stats)
    images, _ = networks.batch(network)
    convolved = jax.lax.conv_general_dilated(
        images, variables.params["conv/kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batch = {"norm/mean": convolved.mean((0, 1, 2)), "norm/var": convolved.var((0, 1, 2))}
    for path, new in trained.items():
        np.testing.assert_allclose(new, 0.9 * variables.stats[path] + 0.1 * batch[path], atol=1e-5)


@both
def test_the_callers_own_arrays_are_not_written_to(make):
    variables = jax.tree.map(np.copy, networks.start(make(), WIDTHS))
    before = jax.tree.map(np.copy, variables)
    apply(make(), variables, True, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_modules_in_lists_keep_their_places():
    def make(widths, rngs):
        sizes = [2, *[widths["a"]] * 11]
        return nnx.Sequential(*(nnx.Linear(i, o, rngs=rngs) for i, o in zip(sizes, [*sizes[1:], 3], strict=True)))

    network = from_nnx("deep", make, {"a": 2}, (2,))
    variables = networks.start(network, (2,))
    want = images = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    for n in range(12):  # the eleventh comes after the second in the order of texts
        want = want @ variables.params[f"layers/{n}/kernel"] + variables.params[f"layers/{n}/bias"]
    np.testing.assert_allclose(network.apply((2,), variables, images, train=False)[0], want, atol=1e-5)


class Scaled(nnx.Module):
    """Holds a constant that is no parameter."""

    def __init__(self, widths, rngs, hold):
        self.dense = nnx.Linear(4, widths["a"], rngs=rngs)
        self.constant = hold(jnp.full(4, 3.0))

    def __call__(self, x):
        return self.dense(x * self.constant)


class LinenScaled(linen.Module):
    """Holds a constant that is no parameter."""

    @linen.compact
    def __call__(self, x, train):
        return linen.Dense(4)(x * self.variable("held", "constant", lambda: jnp.full(4, 3.0)).value)


@pytest.mark.parametrize(
    "network",
    [
        from_nnx("bad", lambda w, rngs: Scaled(w, rngs, nnx.Variable), {"a": 4}, (4,)),
        from_nnx("bad", lambda w, rngs: Scaled(w, rngs, nnx.data), {"a": 4}, (4,)),
        from_nnx("bad", lambda w, rngs: Scaled(w, rngs, lambda array: array), {"a": 4}, (4,)),
        from_linen("bad", lambda w: LinenScaled(), {"a": 4}, (4,)),
    ],
    ids=["nnx variable", "nnx data", "array", "linen collection"],
)
def test_a_variable_that_nobody_would_carry_is_refused_by_its_path(network):
    with pytest.raises(NetworkError, match=r"^bad: '(held/)?constant' is neither, want every variable") as caught:
        probe(network, (4,))
    assert "\n" not in str(caught.value)


def test_variables_that_are_no_float32_are_refused_by_their_path():
    def half(widths, rngs):
        return nnx.Linear(4, widths["a"], param_dtype=jnp.bfloat16, rngs=rngs)

    with pytest.raises(NetworkError, match=r"^bad: '(bias|kernel)' is bfloat16, want every variable float32"):
        probe(from_nnx("bad", half, {"a": 4}, (4,)), (4,))
