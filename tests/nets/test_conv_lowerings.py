"""The contract that every lowering of lanes' convolutions keeps: it equals lax, gradients too, over shapes."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import export, lax

from fednas_jax.config.schema import EngineConfig
from fednas_jax.nets import conv_general_dilated
from fednas_jax.nets.conv import agrees
from fednas_jax.nets.geometry import Geometry
from fednas_jax.nets.lowerings import DEFAULT, LOWERINGS, NHWC, lowering_of, offered, using

LANES = 2
FIRST = ((2, 6, 6, 2), (5, 5, 2, 3), (1, 1), "SAME", 1)
# What a compiled program of each is made of, for a convolution of many channels.
PRODUCTS = {"rows": 1, "patches": 1, "shifts": 9, "grouped": 0}
# Interpreted kernels compile slowly: by default only a few shapes are tried.
SLOW = [pytest.param(name, marks=pytest.mark.exhaustive if name == "fused" else ()) for name in LOWERINGS]


@st.composite
def convolutions(draw):
    """Dense, depthwise and grouped ones, with every mixture of strides and paddings that a network could have."""
    kind = draw(st.sampled_from(["dense", "pointwise", "depthwise", "grouped"]))
    size = (1, 1) if kind == "pointwise" else (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    # Batches or kernels of one make XLA's own simplifier of lax's kernel gradient abort the process (jaxlib 0.10.2).
    channels = 4 if kind == "grouped" else draw(st.integers(2, 9))
    groups = {"depthwise": channels, "grouped": 2}.get(kind, 1)
    features = groups * draw(st.integers(1, 2)) if groups > 1 else draw(st.integers(2, 9))
    image = (2, draw(st.integers(5, 8)), draw(st.integers(5, 8)), channels)
    sides = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID"]), st.tuples(sides, sides)))
    strides = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return image, (*size, channels // groups, features), strides, padding, groups


def results(conv, convolution, axes, arrays):
    """Output and both gradients of a scalar of it, in lanes."""
    _, _, strides, padding, groups = convolution
    weights = jnp.asarray(np.random.default_rng(1).normal(size=97))

    def scalar(x, k):
        out = conv(x, k, strides, padding, dimension_numbers=NHWC, feature_group_count=groups)
        return jnp.sum(out * jnp.resize(weights, out.shape)), out

    lanes = jax.vmap(jax.value_and_grad(scalar, (0, 1), has_aux=True), axes)
    (_, out), grads = jax.jit(lanes)(*arrays)
    return out, *grads


@pytest.mark.parametrize("name", SLOW)
@given(convolutions(), st.sampled_from([(0, 0), (None, 0), (0, None)]))
@example(FIRST, (0, 0))
@settings(max_examples=6, deadline=None)
def test_every_lowering_equals_lax_in_double_precision(name, convolution, axes):
    rng = np.random.default_rng(0)
    shapes = [(LANES, *s) if axis == 0 else s for s, axis in zip(convolution[:2], axes, strict=True)]
    with jax.enable_x64(True):
        arrays = [jnp.asarray(rng.normal(size=s)) for s in shapes]
        with using(name):
            ours = results(conv_general_dilated, convolution, axes, arrays)
        for mine, lax_s in zip(ours, results(lax.conv_general_dilated, convolution, axes, arrays), strict=True):
            np.testing.assert_allclose(mine, lax_s, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("convolution", "dtype", "tolerance"),
    [
        (((3, 5, 7, 3), (3, 2, 3, 18), (1, 1), "SAME", 1), jnp.float32, 1e-5),
        (((2, 6, 5, 2), (5, 3, 2, 4), (2, 3), ((3, 0), (0, 1)), 1), jnp.bfloat16, 3e-2),
    ],
)
def test_the_fused_kernels_equal_lax_in_the_precisions_of_training(monkeypatch, convolution, dtype, tolerance):
    fused = pytest.importorskip("fednas_jax.nets.fused")
    monkeypatch.setattr(fused, "ROWS", 32)  # so that tiles are several, and their last ones not full
    monkeypatch.setattr(fused, "COLUMNS", 16)
    monkeypatch.setattr(fused, "SUMMED", 48)
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(LANES, *shape)), dtype) for shape in convolution[:2]]
    with using("fused"), jax.default_matmul_precision("highest"):
        ours = results(conv_general_dilated, convolution, (0, 0), arrays)
    exact = [a.astype(jnp.float32) for a in arrays]
    for mine, lax_s in zip(ours, results(lax.conv_general_dilated, convolution, (0, 0), exact), strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine.astype(jnp.float32), lax_s, rtol=tolerance, atol=tolerance * abs(lax_s).max())


def test_a_device_is_asked_whether_it_computes_what_others_compute(monkeypatch):
    (device,) = jax.devices()[:1]
    wrong = LOWERINGS["patches"]._replace(to_kernel=lambda *args: LOWERINGS["patches"].to_kernel(*args) * 1.1)
    monkeypatch.setitem(LOWERINGS, "wrong", wrong)
    assert agrees("fused", device, jnp.bfloat16)
    assert not agrees("wrong", device)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
def test_the_fused_kernels_lower_for_cuda_where_there_is_none(dtype):
    triton = "__gpu$xla.gpu.triton"
    h100 = jax.sharding.AbstractMesh((), (), abstract_device=jax.sharding.AbstractDevice("NVIDIA H100", None, "gpu"))
    shapes = [jax.ShapeDtypeStruct((LANES, *shape), dtype) for shape in ((20, 14, 14, 32), (5, 5, 32, 64))]

    def loss(image, kernel):
        return jnp.sum(conv_general_dilated(image, kernel, (1, 1), "SAME") ** 2)

    lanes = jax.jit(jax.vmap(jax.value_and_grad(loss, (0, 1))))
    unchecked = [export.DisabledSafetyCheck.custom_call(triton)]  # its format may change with jax's version
    with using("fused"), jax.sharding.use_abstract_mesh(h100):
        text = export.export(lanes, platforms=("cuda",), disabled_checks=unchecked)(*shapes).mlir_module()
    assert text.count(f"@{triton}(") == 3  # the convolution and its two gradients
    assert "stablehlo.convolution" not in text
    assert "stablehlo.dot_general" not in text


@pytest.mark.parametrize("name", PRODUCTS)
def test_each_lowering_is_made_of_the_products_that_its_name_says(name):
    image, kernel = jnp.zeros((LANES, 2, 6, 6, 8)), jnp.zeros((LANES, 3, 3, 8, 4))
    with using(name):
        text = str(jax.make_jaxpr(jax.vmap(lambda x, k: conv_general_dilated(x, k, (1, 1), "SAME")))(image, kernel))
    assert text.count("dot_general[") == PRODUCTS[name]
    assert text.count("conv_general_dilated[") == (name == "grouped")


def test_a_function_that_jax_has_traced_is_traced_again_for_another_lowering():
    image, kernel = jnp.ones((LANES, 2, 6, 6, 8)), jnp.ones((LANES, 3, 3, 8, 4))
    seen = []

    @jax.jit
    def inner(x, k):
        seen.append(1)
        return conv_general_dilated(x, k, (1, 1), "SAME")

    def outer(x, k):
        return jax.vmap(inner)(x, k)

    with using("rows"):
        rows = jax.jit(outer).lower(image, kernel).as_text()
    with using("shifts"):
        shifts = jax.jit(outer).lower(image, kernel).as_text()
    assert len(seen) == 2
    assert (rows.count("dot_general"), shifts.count("dot_general")) == (1, 9)


def test_a_lowering_is_used_only_inside_its_context():
    dense = Geometry((2, 6, 6, 8), (3, 3, 8, 4), (1, 1), ((1, 1), (1, 1)), 1, None)
    with using("patches"):
        with using("shifts"):
            assert lowering_of(dense) == "shifts"
        assert lowering_of(dense) == "patches"
    assert lowering_of(dense) == DEFAULT


def test_what_is_made_for_one_platform_is_offered_there_alone():
    everywhere = ("rows", "patches", "shifts", "grouped")
    assert offered("cpu") == offered("tpu") == everywhere
    assert offered("gpu") == (*everywhere, "fused")


def test_what_a_lowering_does_not_claim_is_left_to_one_that_does():
    depthwise = Geometry((2, 6, 6, 8), (3, 3, 1, 8), (1, 1), ((1, 1), (1, 1)), 8, None)
    neither = depthwise._replace(kernel=(3, 3, 4, 8), groups=2)
    pointwise = Geometry((2, 6, 6, 8), (1, 1, 8, 8), (1, 1), ((0, 0), (0, 0)), 1, None)
    left = {"rows": "shifts", "patches": "shifts", "shifts": "shifts", "grouped": "grouped", "fused": "shifts"}
    for name, wanted in left.items():
        with using(name):
            assert lowering_of(depthwise) == wanted
            assert lowering_of(neither) == "grouped"
            assert lowering_of(pointwise) == ("rows" if name == "fused" else name)


def test_a_name_that_is_no_lowering_is_refused():
    with pytest.raises(KeyError, match="winograd"):
        using("winograd")


def test_the_config_offers_exactly_the_lowerings_that_there_are():
    assert typing.get_args(typing.get_type_hints(EngineConfig)["lowering"]) == ("auto", *LOWERINGS)
