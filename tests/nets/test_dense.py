"""The dense layer's product is lax's, in values and in both gradients, and flax's layers use it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

from fednas_jax.nets import from_linen, from_nnx
from fednas_jax.nets.dense import dot_general

KINDS = [jnp.float32, jnp.bfloat16]


def numbers(dimensions_of_inputs):
    return (((dimensions_of_inputs - 1,), (0,)), ((), ()))


def outputs(product, inputs, weights, target):
    """Product and gradients of a scalar of it."""

    def scalar(x, w):
        out = product(x, w, numbers(x.ndim))
        return jnp.sum(jnp.sin(out) * target), out

    (_, out), grads = jax.value_and_grad(scalar, (0, 1), has_aux=True)(inputs, weights)
    return out, *grads


def drawn(*shapes, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize(("outer", "n", "m"), [((5,), 4, 6), ((1,), 1, 3), ((3, 2), 7, 1), ((2, 1, 4), 3, 5)])
def test_values_and_gradients_are_those_of_lax(outer, n, m):
    with jax.enable_x64(True):
        arrays = drawn((*outer, n), (n, m), (*outer, m))
        for ours, lax_s in zip(outputs(dot_general, *arrays), outputs(lax.dot_general, *arrays), strict=True):
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, lax_s, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, 0, None), (0, None, None), (None, 0, None), (0, 0, 0)])
def test_lanes_compute_each_their_own_product(axes):
    with jax.enable_x64(True):
        shapes = [(5, 4), (4, 6), (5, 6)]
        arrays = drawn(*((3, *s) if axis == 0 else s for s, axis in zip(shapes, axes, strict=True)))
        ours, lax_s = (
            jax.vmap(lambda *a, p=product: outputs(p, *a), axes)(*arrays) for product in (dot_general, lax.dot_general)
        )
        for one, other in zip(ours, lax_s, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", KINDS)
def test_values_and_gradients_have_the_type_of_their_inputs(dtype):
    for array in outputs(dot_general, *drawn((5, 4), (4, 6), (5, 6), dtype=dtype)):
        assert array.dtype == dtype


@jax.jit
def ours_and_laxs(inputs, weights, grad):
    """The gradients to inputs and weights."""
    products = (lambda x, w, p=product: p(x, w, numbers(2)) for product in (dot_general, lax.dot_general))
    return [jax.vjp(product, inputs, weights)[1](grad) for product in products]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, 1), (4, 5)])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_finite_number_spreads_as_far_as_with_lax(which, place, bad):
    """And no farther: the gradient of the weights waits for that to the inputs, and takes nothing of it."""
    arrays = drawn((5, 6), (6, 6), (5, 6), dtype=np.float32)
    arrays[which] = arrays[which].at[place].set(bad)
    for ours, lax_s in zip(*ours_and_laxs(*arrays), strict=True):
        np.testing.assert_allclose(ours, lax_s, rtol=1e-5, atol=1e-5)  # NaN and infinities at the same places


def test_one_lanes_nan_does_not_reach_the_others():
    inputs, weights, grad = drawn((3, 5, 6), (3, 6, 6), (3, 5, 6), dtype=np.float32)
    lanes = jax.vmap(ours_and_laxs)
    broken = lanes(inputs, weights, grad.at[1].set(np.nan))[0]
    for one, other in zip(lanes(inputs, weights, grad)[0], broken, strict=True):
        assert np.isnan(other[1]).all()
        assert np.array_equal(one[::2], other[::2])


@pytest.mark.parametrize(("wanted", "products"), [((0, 1), 3), ((1,), 2)])
def test_a_first_layer_computes_no_gradient_to_its_inputs(wanted, products):
    def scalar(x, w):
        return jnp.sum(jnp.sin(dot_general(x, w, numbers(2))))

    text = str(jax.make_jaxpr(jax.grad(scalar, wanted))(jnp.ones((5, 4)), jnp.ones((4, 6))))
    assert text.count("dot_general[") == products


@pytest.mark.parametrize("product", [dot_general, lax.dot_general])
def test_only_lax_transposes_the_gradient_of_the_weights(product):
    text = str(jax.make_jaxpr(jax.grad(lambda w: dot(product, w).sum()))(jnp.ones((4, 6))))
    assert ("transpose[" in text) == (product is lax.dot_general)


def dot(product, weights):
    return product(jnp.ones((5, 4)), weights, numbers(2))


@pytest.mark.parametrize(
    ("left", "right", "dimensions"),
    [
        ((4, 5), (4, 6), (((0,), (0,)), ((), ()))),
        ((5, 4), (6, 4), (((1,), (1,)), ((), ()))),
        ((4,), (4, 6), (((0,), (0,)), ((), ()))),
        ((3, 5, 4), (3, 4, 6), (((2,), (1,)), ((0,), (0,)))),
        ((2, 5, 4), (5, 4, 6), (((1, 2), (0, 1)), ((), ()))),
        ((5, 4), (4, 6, 2), (((1,), (0,)), ((), ()))),
    ],
)
def test_other_products_are_laxs_affair(left, right, dimensions):
    a, b = drawn(left, right, dtype=np.float32)
    assert np.array_equal(dot_general(a, b, dimensions), lax.dot_general(a, b, dimensions))
    assert "custom_vjp_call" not in str(jax.make_jaxpr(lambda a, b: dot_general(a, b, dimensions))(a, b))


def test_a_type_of_the_output_that_was_asked_for_is_given():
    a, b = drawn((5, 4), (4, 6), dtype=jnp.bfloat16)
    assert dot_general(a, b, numbers(2), preferred_element_type=jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("precision", ["highest", lax.Precision.HIGH])
def test_the_precision_reaches_the_product_and_both_gradients(precision):
    def scalar(x, w):
        return jnp.sum(dot_general(x, w, numbers(2), precision))

    text = jax.jit(jax.grad(scalar, (0, 1))).lower(jnp.ones((5, 4)), jnp.ones((4, 6))).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    name = str(precision).split(".")[-1].upper()
    assert len(products) >= 2
    assert all(re.search(rf"precision = \[{name}, {name}\]", line) for line in products)


class NnxLayer(nnx.Module):
    def __init__(self, widths, rngs):
        self.layer = nnx.Linear(12, widths["layer"], rngs=rngs)

    def __call__(self, x):
        return self.layer(x.reshape(x.shape[0], -1))


class LinenLayer(linen.Module):
    width: int

    @linen.compact
    def __call__(self, x, train):
        return linen.Dense(self.width, name="layer")(x.reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("adapt", "make"),
    [(from_nnx, NnxLayer), (from_linen, lambda widths: LinenLayer(widths["layer"]))],
    ids=["nnx", "linen"],
)
def test_layers_of_both_kinds_of_modules_use_it(adapt, make):
    network = adapt("layer", make, {"layer": 7}, (2, 3, 2))
    variables = network.init((7,), jax.random.key(0))
    (images,) = drawn((5, 2, 3, 2), dtype=np.float32)

    def scalar(params):
        return jnp.sum(network.apply((7,), variables._replace(params=params), images, train=True)[0])

    text = str(jax.make_jaxpr(jax.grad(scalar))(variables.params))
    assert "transpose[" not in text
    assert "dot_general[" in text
    flat = images.reshape(5, -1)
    logits = network.apply((7,), variables, images, train=False)[0]
    expected = flat @ variables.params["layer/kernel"] + variables.params["layer/bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
