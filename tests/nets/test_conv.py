"""The fast lowering of convolutions equals lax's, forward and in both gradients, whatever is batched."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jax import lax

from fednas_jax.nets import conv_general_dilated
from fednas_jax.nets.geometry import Geometry
from fednas_jax.nets.lowerings import NHWC, by_rows

PADDINGS = ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (1, 0)), ((3, 3), (2, 4))]


@st.composite
def convolutions(draw):
    kind = draw(st.sampled_from(["dense", "pointwise", "depthwise"]))
    size = (1, 1) if kind == "pointwise" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    # Batches or kernels of one make XLA's own simplifier of lax's kernel gradient abort the process (jaxlib 0.10.2).
    channels = draw(st.integers(2, 4))
    many = draw(st.integers(1, 2))
    groups = channels if kind == "depthwise" else 1
    kernel = (*size, channels // groups, channels * many if groups > 1 else draw(st.integers(2, 4)))
    image = (draw(st.integers(2, 3)), draw(st.integers(5, 6)), draw(st.integers(5, 6)), channels)
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return image, kernel, strides, draw(st.sampled_from(PADDINGS)), groups


def outputs(conv, image, kernel, target, strides, padding, groups):
    """Output and both gradients of a scalar of the output."""

    def scalar(x, k):
        out = conv(x, k, strides, padding, dimension_numbers=NHWC, feature_group_count=groups)
        return jnp.sum(out * jnp.resize(target, out.shape)), out

    (_, out), grads = jax.value_and_grad(scalar, (0, 1), has_aux=True)(image, kernel)
    return out, *grads


@pytest.mark.exhaustive
@given(convolutions(), st.sampled_from([(0, 0), (None, 0), (0, None), (None, None)]))
@settings(max_examples=10, deadline=None)
def test_values_and_gradients_equal_those_of_lax(convolution, axes):
    image, kernel, strides, padding, groups = convolution
    rng = np.random.default_rng(0)
    lanes = 3
    shapes = [(lanes, *s) if axis == 0 else s for s, axis in zip((image, kernel), axes, strict=True)]
    arrays = [rng.normal(size=s).astype(np.float32) for s in shapes]
    target = rng.normal(size=97).astype(np.float32)

    def both(conv):
        def single(x, k):
            return outputs(conv, x, k, target, strides, padding, groups)

        return single(*arrays) if axes == (None, None) else jax.vmap(single, axes)(*arrays)

    for ours, lax_s in zip(both(conv_general_dilated), both(lax.conv_general_dilated), strict=True):
        np.testing.assert_allclose(ours, lax_s, rtol=1e-4, atol=1e-4)


@st.composite
def unfolded_by_rows(draw):
    """Dense convolutions whose image, or gradient's image, is unfolded along its width alone."""
    channels, features = draw(st.sampled_from([(2, 12), (12, 2), (8, 8), (16, 3), (5, 16)]))
    kernel = (draw(st.integers(2, 5)), draw(st.integers(2, 5)), channels, features)
    image = (2, draw(st.integers(5, 8)), draw(st.integers(5, 8)), channels)
    sides = st.tuples(st.integers(0, 4), st.integers(0, 4))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(sides, sides)))
    strides = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (2, 2)]))
    pads = lax.padtype_to_pads(image[1:3], kernel[:2], strides, padding) if isinstance(padding, str) else padding
    forward = Geometry(image, kernel, strides, tuple(map(tuple, pads)), 1, None)
    backward = forward._replace(kernel=(*kernel[:2], features, channels))
    assume(by_rows(forward) or by_rows(backward))
    return image, kernel, strides, padding


# One for each way: with both gradients by rows, with paddings of one side, with more padding than the gradient can be a
# convolution of, and with a stride along the rows alone.
@example(((2, 6, 7, 8), (3, 4, 8, 8), (1, 1), "SAME"), (0, 0))
@example(((2, 7, 6, 8), (5, 3, 8, 8), (1, 1), ((0, 4), (2, 0))), (0, 0))
@example(((2, 5, 5, 16), (3, 2, 16, 3), (1, 1), ((3, 0), (0, 4))), (None, 0))
@example(((2, 8, 8, 8), (5, 5, 8, 8), (1, 2), "VALID"), (0, None))
@given(unfolded_by_rows(), st.sampled_from([(0, 0), (None, 0), (0, None)]))
@settings(max_examples=5, deadline=None)
def test_unfolding_by_rows_equals_lax_in_double_precision(convolution, axes):
    image, kernel, strides, padding = convolution
    rng = np.random.default_rng(0)
    shapes = [(2, *s) if axis == 0 else s for s, axis in zip((image, kernel), axes, strict=True)]
    with jax.enable_x64(True):
        arrays = [jnp.asarray(rng.normal(size=s)) for s in shapes]
        target = jnp.asarray(rng.normal(size=97))

        def both(conv):
            lanes = jax.vmap(lambda x, k: outputs(conv, x, k, target, strides, padding, 1), axes)
            return jax.jit(lanes)(*arrays)

        for ours, lax_s in zip(both(conv_general_dilated), both(lax.conv_general_dilated), strict=True):
            assert ours.dtype == np.float64
            np.testing.assert_allclose(ours, lax_s, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kernel", "stride", "by_rows"),
    [
        ((5, 5, 32, 16), 1, True),
        ((3, 3, 16, 16), 1, True),
        ((3, 3, 1, 32), 1, False),  # few channels: the product's output would be wide for nothing
        ((1, 1, 64, 64), 1, False),
        ((5, 5, 32, 16), 2, False),
    ],
)
def test_many_channels_are_copied_once_for_each_column_of_the_kernel(kernel, stride, by_rows):
    """The product's left side has kw x C columns where rows are summed after it, kh x kw x C otherwise."""
    image = jnp.zeros((2, 1, 8, 8, kernel[2]))
    conv = jax.vmap(lambda x, k: conv_general_dilated(x, k, (stride, stride), "SAME"))
    text = jax.jit(conv).lower(image, jnp.zeros((2, *kernel))).as_text()
    (product,) = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    left = re.search(r": \(tensor<2x\d+x(\d+)xf32>", product)
    assert int(left[1]) == (kernel[1] * kernel[2] if by_rows else kernel[0] * kernel[1] * kernel[2])


def test_lanes_with_their_own_kernels_use_no_convolution():
    conv = jax.vmap(lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME"))
    text = str(jax.make_jaxpr(jax.jit(conv))(jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((2, 3, 3, 3, 5))))
    assert "dot_general" in text
    assert "conv_general_dilated[" not in text


def test_lanes_with_one_kernel_use_a_convolution():
    conv = jax.vmap(lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME"), (0, None))
    text = str(jax.make_jaxpr(jax.jit(conv))(jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((3, 3, 3, 5))))
    assert "conv_general_dilated[" in text


@pytest.mark.parametrize(("shape", "dilation"), [((2, 6, 6, 3), 2), ((2, 9, 3), 2), ((2, 4, 4, 4, 3), 1)])
def test_what_is_dilated_or_has_three_sides_is_convolved_in_lanes_as_by_lax(shape, dilation):
    rng, sides = np.random.default_rng(5), "DHW"[5 - len(shape) :]
    sizes = ((3, *shape), (3, *[2] * len(sides), 3, 5))
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in sizes)
    numbers = (f"N{sides}C", f"{sides}IO", f"N{sides}C")

    def loss(convolve, x, kernel):
        spread = (dilation,) * len(sides)
        return jnp.sum(convolve(x, kernel, (1,) * len(sides), "SAME", None, spread, dimension_numbers=numbers) ** 2)

    ours = jax.vmap(jax.value_and_grad(functools.partial(loss, conv_general_dilated), (0, 1)))(x, kernel)
    for n in range(3):
        alone = jax.value_and_grad(functools.partial(loss, lax.conv_general_dilated), (0, 1))(x[n], kernel[n])
        jax.tree.map(lambda a, b, n=n: np.testing.assert_allclose(a[n], b, rtol=1e-4, atol=1e-3), ours, alone)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((2, 0),)])
def test_a_sequence_is_convolved_as_by_lax_gradients_included(padding):
    rng = np.random.default_rng(4)
    x, kernel = rng.normal(size=(2, 7, 3)).astype(np.float32), rng.normal(size=(3, 3, 5)).astype(np.float32)

    def loss(convolve, x, kernel):
        return jnp.sum(convolve(x, kernel, (2,), padding, dimension_numbers=("NWC", "WIO", "NWC")) ** 2)

    ours, theirs = (
        jax.value_and_grad(loss, (1, 2))(convolve, x, kernel)
        for convolve in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
