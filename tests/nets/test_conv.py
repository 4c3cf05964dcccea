"""The fast lowering of convolutions equals lax's, forward and in both gradients, whatever is batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fednas_jax.errors import NetworkError
from fednas_jax.nets import conv_general_dilated
from fednas_jax.nets.conv import NHWC

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


@given(convolutions(), st.sampled_from([(0, 0), (None, 0), (0, None), (None, None)]))
@settings(max_examples=20, deadline=None)
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


def test_lanes_with_their_own_kernels_use_no_convolution():
    conv = jax.vmap(lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME"))
    text = str(jax.make_jaxpr(jax.jit(conv))(jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((2, 3, 3, 3, 5))))
    assert "dot_general" in text
    assert "conv_general_dilated[" not in text


def test_lanes_with_one_kernel_use_a_convolution():
    conv = jax.vmap(lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME"), (0, None))
    text = str(jax.make_jaxpr(jax.jit(conv))(jnp.zeros((2, 1, 4, 4, 3)), jnp.zeros((3, 3, 3, 5))))
    assert "conv_general_dilated[" in text


@pytest.mark.parametrize("dilation", ["lhs_dilation", "rhs_dilation"])
def test_a_dilated_convolution_is_refused_in_one_line(dilation):
    with pytest.raises(NetworkError, match=r"want 1: dilated convolutions") as caught:
        conv_general_dilated(jnp.zeros((1, 4, 4, 1)), jnp.zeros((2, 2, 1, 1)), (1, 1), "SAME", **{dilation: (2, 2)})
    assert "\n" not in str(caught.value)
