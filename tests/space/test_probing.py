"""Width groups are found unannotated and priced exactly; a masked candidate trains as the sliced one does."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError, NetworkError
from fednas_jax.nets import build, from_linen, from_nnx
from fednas_jax.space.jaxprs import count_macs
from fednas_jax.space.network import Dim, Variables
from fednas_jax.space.probing import check_masking, probe


@functools.cache
def cnn(widths=(), shape=(28, 28, 1), classes=10):
    return build(NetConfig("cnn", widths=widths), shape, classes)


@functools.cache
def mobilenet(widths=(), size=224, classes=1000):
    return build(NetConfig("mobilenet_v1", widths=widths), (size, size, 3), classes)


@functools.cache
def space_of(name):
    """Small probed spaces by name."""
    small_cnn = cnn((4, 4, 8), (8, 8, 1), networks.CLASSES)
    return {
        "cnn": lambda: probe(small_cnn, (2,), check=False),
        "norm": lambda: probe(networks.norm(), (2,), check=False),
        "residual": lambda: probe(networks.residual(), (2,), check=False),
        "mobilenet_v1": lambda: probe(mobilenet((8,) * 14, 32, 5), (4,), check=False),
    }[name]()


def keeps(space):
    """Keep sets, for each group [width] bool, empty only where that removes a block."""

    def kept(width, least):
        masks = st.lists(st.booleans(), min_size=width, max_size=width)
        return (masks.filter(any) if least else masks).map(np.array)

    return st.tuples(*map(kept, space.widths, space.smallest))


def widths_of(space):
    """Widths from 1 to the parent's, or from 0 where that removes a block."""
    return st.tuples(*(st.integers(min(least, 1), w) for least, w in zip(space.smallest, space.widths, strict=True)))


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# Labels


def test_labels_of_the_cnn_are_those_written_by_hand():
    conv1, conv2, dense = Dim(0, 1), Dim(1, 1), Dim(2, 1)
    assert probe(cnn(), check=False).labels == {
        "conv1/kernel": (None, None, None, conv1),
        "conv1/bias": (conv1,),
        "conv2/kernel": (None, None, conv1, conv2),
        "conv2/bias": (conv2,),
        "dense/kernel": (Dim(1, 49), dense),  # 28x28, pooled twice: a flatten of 7x7
        "dense/bias": (dense,),
        "classifier/kernel": (dense, None),
        "classifier/bias": (None,),
    }


def test_labels_of_mobilenet_are_those_written_by_hand():
    want = {}

    def layer(path, kernel):
        out = kernel[-1]
        want[f"{path}/conv/kernel"] = kernel
        want.update({f"{path}/norm/{part}": (out,) for part in ("scale", "bias", "mean", "var")})

    group = [Dim(g, 1) for g in range(14)]  # the stem and 13 blocks
    layer("stem", (None, None, None, group[0]))
    for n in range(13):
        layer(f"depthwise/{n}", (None, None, None, group[n]))
        layer(f"pointwise/{n}", (None, None, group[n], group[n + 1]))
    want |= {"classifier/kernel": (group[13], None), "classifier/bias": (None,)}
    assert space_of("mobilenet_v1").labels == want


def test_labels_do_not_depend_on_widths_that_are_equal_to_each_other_or_to_fixed_dimensions():
    equal = probe(cnn((10, 10, 10), (40, 40, 10)), (1,), check=False).labels  # ten pixels a side, channels and classes
    assert equal["conv2/kernel"] == (None, None, Dim(0, 1), Dim(1, 1))
    assert equal["dense/kernel"] == (Dim(1, 100), Dim(2, 1))
    assert equal["classifier/kernel"] == (Dim(2, 1), None)


def test_stages_tied_by_an_addition_share_their_group():
    stage, inner = Dim(0, 1), Dim(1, 1)
    labels = probe(networks.residual(), (2,)).labels
    assert labels["stem/kernel"] == (None, None, None, stage)
    assert labels["first/kernel"] == (None, None, stage, inner)
    assert labels["second/kernel"] == (None, None, inner, stage)
    assert labels["norm/var"] == (stage,)
    assert labels["classifier/kernel"] == (stage, None)


# Costs


def test_the_cnn_has_the_published_parameters_and_the_macs_of_hand_arithmetic():
    space = probe(cnn(), check=False)
    params = [5 * 5 * 1 * 32 + 32, 5 * 5 * 32 * 64 + 64, 7 * 7 * 64 * 512 + 512, 512 * 10 + 10]
    assert space.params(space.widths) == sum(params) == 1_663_370  # FedAvg, section 3
    macs = [28 * 28 * 32 * 5 * 5 * 1, 14 * 14 * 64 * 5 * 5 * 32, 7 * 7 * 64 * 512, 512 * 10]
    assert macs == [627_200, 10_035_200, 1_605_632, 5_120]
    assert space.macs(space.widths) == sum(macs) == 12_273_152
    assert space.size(space.widths) == 4 * 1_663_370


# Table 1 of the MobileNet paper: channels in, channels out and output size of each depthwise separable block.
MOBILENET = [
    (32, 64, 112),
    (64, 128, 56),
    (128, 128, 56),
    (128, 256, 28),
    (256, 256, 28),
    (256, 512, 14),
    *[(512, 512, 14)] * 5,
    (512, 1024, 7),
    (1024, 1024, 7),
]


def test_mobilenet_has_the_published_macs_and_parameters():
    macs = 112 * 112 * 32 * 3 * 3 * 3  # the stem, stride 2
    params = 3 * 3 * 3 * 32 + 2 * 32  # and its BatchNorm's scale and bias
    for before, after, size in MOBILENET:
        macs += size * size * before * 3 * 3 + size * size * before * after
        params += 3 * 3 * before + 2 * before + before * after + 2 * after
    macs, params = macs + 1024 * 1000, params + 1024 * 1000 + 1000
    statistics = sum(2 * (before + after) for before, after, _ in MOBILENET) + 2 * 32
    assert (macs, params) == (568_740_352, 4_231_976)
    space = probe(mobilenet(), check=False)
    assert space.macs(space.widths) == macs
    assert space.params(space.widths) == params
    assert space.size(space.widths) == 4 * (params + statistics)


def test_probing_allocates_nothing_however_large_the_network():
    def make(w, rngs):
        return nnx.Sequential(nnx.Linear(4, w["a"], rngs=rngs), nnx.Linear(w["a"], w["b"], rngs=rngs))

    wide = 2**20  # four terabytes of weights
    space = probe(from_nnx("wide", make, {"a": wide, "b": wide}, (4,)), check=False)
    assert space.labels["layers/1/kernel"] == (Dim(0, 1), Dim(1, 1))
    assert space.macs(space.widths) == 4 * wide + wide * wide


def direct(network, widths):
    """MACs, parameters and bytes counted from the network at these very widths."""
    shapes = network.abstract(widths)
    params = sum(math.prod(leaf.shape) for leaf in shapes.params.values())
    return count_macs(network, widths), params, 4 * (params + sum(s.size for s in shapes.stats.values()))


@given(st.sampled_from(["cnn", "norm", "residual"]), st.data())
def test_costs_at_any_widths_are_those_of_the_network_built_there(name, data):
    space = space_of(name)
    widths = data.draw(widths_of(space))
    assert (space.macs(widths), space.params(widths), space.size(widths)) == direct(space.network, widths)


@given(st.tuples(*[st.integers(1, 8)] * 14))
@settings(max_examples=2)
def test_costs_of_mobilenet_at_any_widths_are_those_of_the_network_built_there(widths):
    space = space_of("mobilenet_v1")
    assert (space.macs(widths), space.params(widths), space.size(widths)) == direct(space.network, widths)


@pytest.mark.parametrize("make", [networks.norm, networks.linen_norm])
def test_macs_of_strided_and_depthwise_convolutions_by_hand(make):
    strided, depthwise, dense = 3 * 3 * 4 * 3 * 3 * 2, 3 * 3 * 4 * 3 * 3, 9 * 4 * 5
    assert count_macs(make(), (4, 5)) == strided + depthwise + dense + 5 * 3


def test_macs_of_a_transposed_convolution_leave_out_the_zeros_between_its_inputs():
    def make(w, rngs):
        return nnx.Sequential(
            nnx.ConvTranspose(2, w["a"], (3, 2), strides=(2, 3), rngs=rngs),
            nnx.ConvTranspose(w["a"], 5, (4, 4), strides=2, padding="VALID", rngs=rngs),
            lambda x: x.mean((1, 2)),
        )

    # Each of 6x6 inputs, and then of the 12x18 made of them, meets each place of the kernel once.
    assert count_macs(from_nnx("up", make, {"a": 4}, (6, 6, 2)), (4,)) == 36 * 6 * 2 * 4 + 12 * 18 * 16 * 4 * 5


def test_costs_are_the_same_under_jit_and_vmap():
    space = probe(mobilenet(), check=False)
    rng = np.random.default_rng(0)
    many = np.stack([rng.integers(1, w + 1, 50) for w in space.widths], axis=-1)
    many[0] = space.widths
    for table in (space.macs, space.params):
        want = [table(tuple(int(w) for w in widths)) for widths in many]
        np.testing.assert_array_equal(table(many), want)
        for got in (jax.jit(table)(jnp.asarray(many)), jax.vmap(table)(jnp.asarray(many))):
            assert got.dtype == jnp.uint32
            np.testing.assert_array_equal(got, want)


def test_costs_beyond_32_bits_are_exact_with_x64_and_close_without():
    network = from_nnx("wide", lambda w, rngs: nnx.Linear(2**20, w["a"], rngs=rngs), {"a": 2**20}, (2**20,))
    space = probe(network, check=False)
    widths = np.array([[2**20], [2**20 - 1], [12_345]])
    want = [2**40, 2**40 - 2**20, 12_345 * 2**20]
    np.testing.assert_array_equal(space.macs(widths), want)
    rounded = space.macs(jnp.asarray(widths))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(rounded, np.float64), want, rtol=1e-6)
    with jax.enable_x64(True):
        exact = jax.jit(space.macs)(jnp.asarray(widths))
    assert exact.dtype == jnp.int64
    np.testing.assert_array_equal(exact, want)


def test_the_smallest_widths_are_the_multiples():
    assert space_of("cnn").smallest == (2, 2, 2)


# Masks and slices


def test_mask_and_slice_of_a_flatten_by_hand():
    space = probe(networks.norm(), (2,), check=False)
    keep = (np.arange(8) % 2 == 1, np.arange(8) < 3)
    kernel = np.arange(1, 72 * 8 + 1, dtype=np.float32).reshape(72, 8)  # nine pixels of eight channels, eight units
    rows = [pixel * 8 + channel for pixel in range(9) for channel in (1, 3, 5, 7)]
    sliced = space.slice({"dense/kernel": kernel}, keep)["dense/kernel"]
    np.testing.assert_array_equal(sliced, kernel[rows][:, :3])
    masked = space.mask({"dense/kernel": kernel}, keep)["dense/kernel"]
    assert {(int(i), int(j)) for i, j in zip(*np.nonzero(masked), strict=True)} == set(
        itertools.product(rows, range(3))
    )
    np.testing.assert_array_equal(masked[rows][:, :3], sliced)


@given(st.data())
@settings(max_examples=10)
def test_slicing_a_masked_tree_is_slicing_the_tree(data):
    space = space_of(data.draw(st.sampled_from(["cnn", "norm", "residual"])))
    keep = data.draw(keeps(space))
    variables = networks.start(space.network, space.widths)
    sliced = space.slice(variables, keep)
    assert_equal(space.slice(space.mask(variables, keep), keep), sliced)
    assert_equal(space.slice(variables, tuple(np.flatnonzero(k) for k in keep)), sliced)
    kept = tuple(int(k.sum()) for k in keep)
    shapes = space.network.abstract(kept)
    assert jax.tree.map(jnp.shape, sliced) == jax.tree.map(jnp.shape, shapes)
    masked = space.mask(variables, keep)
    assert sum(np.count_nonzero(v) for v in masked.params.values()) == space.params(kept)


def test_jax_arrays_are_masked_and_sliced_as_numpy_arrays_are_also_under_jit():
    space = space_of("norm")
    keep = (np.arange(8) % 3 == 0, np.arange(8) > 4)
    variables = networks.start(space.network, space.widths)
    on_device = jax.tree.map(jnp.asarray, variables)
    assert_equal(jax.jit(space.mask)(on_device, keep), space.mask(variables, keep))
    assert_equal(jax.jit(lambda v: space.slice(v, keep))(on_device), space.slice(variables, keep))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)], ids=["momentum", "adam"])
def test_optimiser_state_is_masked_and_sliced_as_its_parameters_are(optimizer):
    space = space_of("norm")
    keep = (np.arange(8) % 2 == 0, np.arange(8) < 5)
    params = networks.start(space.network, space.widths).params
    _, state = optimizer.update(params, optimizer.init(params))
    _, masked = optimizer.update(space.mask(params, keep), optimizer.init(space.mask(params, keep)))
    _, sliced = optimizer.update(space.slice(params, keep), optimizer.init(space.slice(params, keep)))
    assert len(jax.tree.leaves(state)) >= len(params)
    assert_equal(space.mask(state, keep), masked)
    assert_equal(space.slice(state, keep), sliced)


@given(st.data())
@settings(max_examples=10)
def test_embedding_and_slicing_the_first_channels_is_the_identity(data):
    space = space_of(data.draw(st.sampled_from(["cnn", "norm", "residual"])))
    small = data.draw(widths_of(space))
    variables = jax.tree.map(lambda s: np.random.default_rng(0).normal(size=s.shape), space.network.abstract(small))
    embedded = space.embed(variables, space.widths)
    keep = tuple(np.arange(w) < s for w, s in zip(space.widths, small, strict=True))
    assert_equal(space.slice(embedded, keep), variables)
    assert_equal(space.mask(embedded, keep), embedded)
    shapes = space.network.abstract(space.widths)
    assert jax.tree.map(jnp.shape, embedded) == jax.tree.map(jnp.shape, shapes)


def test_an_embedded_network_computes_what_the_small_one_does():
    space = space_of("norm")
    small = networks.start(space.network, (4, 2))
    images, _ = networks.batch(space.network)
    want, _ = space.network.apply((4, 2), small, images, train=False)
    got, _ = space.network.apply(space.widths, space.embed(small, space.widths), images, train=False)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_norms_are_those_of_all_layers_that_produce_the_group():
    space = space_of("residual")
    shapes = space.network.abstract(space.widths).params
    params = {path: np.zeros(s.shape, np.float32) for path, s in shapes.items()}
    params["stem/kernel"][0, 0, 1, 2] = 3.0
    params["second/kernel"][0, 0, 3, 2] = 4.0  # the same channel of the same stage: 3, 4, 5
    params["second/kernel"][0, 0, :, 0] = [1.0, 1.0, 1.0, 1.0]
    params["first/kernel"][2, 1, 2, 3] = -7.0
    params["stem/bias"][5] = params["norm/scale"][5] = 9.0  # no filter
    params["classifier/kernel"][4, :] = 9.0  # reads the group, does not produce it
    stage, inner = space.norms(params)
    np.testing.assert_allclose(stage, [2, 0, 5, 0, 0, 0])
    np.testing.assert_allclose(inner, [0, 0, 0, 7])
    stage, inner = space.norms(space.slice(params, (np.arange(6), np.arange(0))))
    np.testing.assert_allclose(stage, [0, 0, 3, 0, 0, 0])
    assert inner == 0  # no block, no filters


# Masked is sliced


@given(st.data())
@settings(max_examples=12)
def test_masked_training_is_sliced_training_and_nothing_leaks(data):
    """Keep sets of a few sizes, for each of which the sliced network is compiled once."""
    name, sizes = data.draw(
        st.sampled_from([("cnn", (2, 3, 5)), ("cnn", (4, 1, 8)), ("norm", (3, 6)), ("norm", (8, 1))])
    )
    space = space_of(name)
    orders = (data.draw(st.permutations(range(w))) for w in space.widths)
    keep = tuple(np.isin(np.arange(len(o)), o[:size]) for o, size in zip(orders, sizes, strict=True))
    networks.assert_masked_equals_sliced(space, keep)


def test_masked_training_is_sliced_training_of_tied_stages():
    space = space_of("residual")
    networks.assert_masked_equals_sliced(space, (np.arange(6) % 2 == 1, np.arange(4) != 1))


# Blocks


@given(st.permutations(range(3)), st.integers(1, 2), st.permutations(range(4)))
@settings(max_examples=8)
def test_whole_groups_of_groupnorm_removed_masked_training_is_sliced_training(order, blocks, dense):
    space = probe(networks.grouped(), (4, 2), check=False)
    keep = (np.repeat(np.isin(np.arange(3), order[:blocks]), 4), np.isin(np.arange(4), dense[:2]))
    networks.assert_masked_equals_sliced(space, keep)


def test_a_network_that_names_its_blocks_is_accepted_and_the_space_knows_them():
    space = probe(networks.grouped(), (4, 2))
    assert space.blocks == (4, 1)
    assert probe(networks.norm(), (2,), check=False).blocks == (1, 1)


def test_linen_networks_name_blocks_too():
    def make(widths):
        norm = linen.GroupNorm(num_groups=None, group_size=2)
        return Called(linen.Sequential([linen.Conv(widths["a"], (3, 3)), norm, linen.relu]))

    class Called(linen.Module):
        features: linen.Module

        @linen.compact
        def __call__(self, x, train):
            return linen.Dense(3)(self.features(x).mean((1, 2)))

    assert probe(from_linen("grouped", make, {"a": 8}, (4, 4, 2), {"a": 2}), (2,)).blocks == (2,)
    assert "leaks out of the mask" in probe(from_linen("grouped", make, {"a": 8}, (4, 4, 2)), (2,)).inexact


@pytest.mark.parametrize(
    ("size", "multiple", "what"),
    [
        (4, 4, r"channels are normalised or mixed in groups that masks would cut \(masked .* `blocks` names$"),
        (2, 4, r"channels are normalised or mixed in groups that masks would cut \(masked .* `blocks` names$"),
    ],
)
def test_groupnorm_without_blocks_cannot_be_masked(size, multiple, what):
    make = functools.partial(networks.Grouped, group_size=size)
    inexact = probe(from_nnx("bad", make, {"conv": 12, "dense": 4}, networks.SHAPE), (multiple, 2)).inexact
    assert re.search(rf"^bad: {what}", inexact)
    assert "\n" not in inexact


def test_groupnorm_whose_groups_a_width_would_cut_is_refused():
    make = functools.partial(networks.Grouped, group_size=4)
    what = r"cannot be built at widths \(2, 2\): .*\(4\).*; want .* or `blocks`, if channels can only leave"
    with pytest.raises(NetworkError, match=rf"^bad: {what}") as caught:
        probe(from_nnx("bad", make, {"conv": 12, "dense": 4}, networks.SHAPE), (2, 2))
    assert "\n" not in str(caught.value)


def test_blocks_that_are_not_the_groups_of_groupnorm_cannot_be_masked():
    network = from_nnx("bad", networks.Grouped, {"conv": 16, "dense": 4}, networks.SHAPE, {"conv": 2})
    assert "masked training of" in probe(network, (4, 2)).inexact


@pytest.mark.parametrize(("width", "multiple", "field", "got"), [(12, 6, "net.multiple", 6), (10, 4, "net.widths", 10)])
def test_widths_and_multiples_that_cut_a_block_are_refused(width, multiple, field, got):
    network = from_nnx("bad", networks.Grouped, {"conv": width, "dense": 4}, networks.SHAPE, {"conv": 4})
    want = rf"^{field}: conv got {got}, want a multiple of 4: .* groups of 4 \(net.group_size\)$"
    with pytest.raises(ConfigError, match=want):
        probe(network, (multiple, 2), check=False)


@pytest.mark.parametrize(
    ("blocks", "what"),
    [({"cnv": 4}, "blocks name 'cnv', want one of conv, dense"), ({"conv": 0}, "blocks of conv got 0 channels, want")],
)
def test_blocks_of_no_group_or_no_channels_are_refused(blocks, what):
    network = from_nnx("bad", networks.Grouped, networks.WIDTHS, networks.SHAPE, blocks)
    with pytest.raises(NetworkError, match=f"^bad: {what}"):
        probe(network, (4,), check=False)


# Removed blocks

BLOCK = {f"{layer}/{part}" for layer in ("first", "second") for part in ("kernel", "bias")}
BLOCK |= {f"norm/{part}" for part in ("scale", "bias", "mean", "var")}
WITHOUT = (np.ones(6, bool), np.zeros(4, bool))  # keeps every channel of the stage, none of the block


@pytest.mark.parametrize("make", [networks.residual, networks.linen_residual])
def test_a_removed_block_takes_all_its_variables_along(make):
    space = probe(make(), (2,))
    assert space.smallest == (2, 0)
    assert set(space.gone) == BLOCK
    assert set(space.gone.values()) == {1}
    variables = networks.start(make(), space.widths)
    masked, sliced = space.mask(variables, WITHOUT), space.slice(variables, WITHOUT)
    for part, whole, fewer in zip(masked, variables, sliced, strict=True):
        for path, value in part.items():
            np.testing.assert_array_equal(value, np.zeros_like(value) if path in BLOCK else whole[path])
        assert set(fewer) == set(whole) - BLOCK
    assert_equal(space.embed(sliced, space.widths), masked)


def test_costs_of_a_removed_block_are_gone_by_hand():
    space = probe(networks.residual(), (2,), check=False)
    stem, classifier = 3 * 3 * 2 * 5 + 5, 5 * 3 + 3
    first, second, norm = 3 * 3 * 5 * 4 + 4, 4 * 5 + 5, 2 * 5
    for inner, block in ((4, first + second + norm), (0, 0)):
        assert space.params((5, inner)) == stem + classifier + block
        assert space.size((5, inner)) == 4 * (stem + classifier + block + (10 if inner else 0))
    assert space.macs((5, 0)) == 3 * 3 * (3 * 3 * 2 * 5) + 5 * 3


def test_costs_of_removed_blocks_are_the_same_under_jit_and_vmap():
    space = probe(networks.residual(), (2,), check=False)
    many = np.array([(a, b) for a in range(1, 7) for b in range(5)])
    for table in (space.macs, space.params, space.size):
        want = [table(tuple(int(w) for w in widths)) for widths in many]
        np.testing.assert_array_equal(table(many), want)
        np.testing.assert_array_equal(jax.jit(jax.vmap(table))(jnp.asarray(many)), want)


def test_a_removed_block_masked_trains_as_the_network_without_it():
    space = space_of("residual")
    masked = networks.assert_masked_equals_sliced(space, WITHOUT)
    assert all(not np.any(masked.variables.params[path]) for path in BLOCK & set(masked.variables.params))
    assert all(not np.any(masked.variables.stats[path]) for path in BLOCK & set(masked.variables.stats))


def test_optimiser_state_of_a_removed_block_is_sliced_away_and_masked_under_jit():
    space, optimizer = space_of("residual"), optax.sgd(0.1, momentum=0.9)
    params = networks.start(space.network, space.widths).params
    _, state = optimizer.update(params, optimizer.init(params))
    fewer = space.slice(params, WITHOUT)
    _, sliced = optimizer.update(fewer, optimizer.init(fewer))
    assert_equal(space.slice(state, WITHOUT), sliced)
    assert_equal(jax.jit(space.mask)(params, WITHOUT), space.mask(params, WITHOUT))


def test_without_depth_no_block_is_removed():
    space = probe(networks.residual(), (2,), check=False, depth=False)
    assert space.gone == {}
    assert space.smallest == (2, 2)


# Refusals


class Plain(nnx.Module):
    """Two convolutions and a classifier; the refused networks change what lies between the convolutions."""

    def __init__(self, widths, rngs, second=None, between=nnx.relu):
        self.first = nnx.Conv(2, widths["a"], (3, 3), rngs=rngs)
        self.second = nnx.Conv(second or widths["a"], widths["b"], (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(widths["b"], 3, rngs=rngs)
        self.between = between

    def __call__(self, x):
        x = self.second(self.between(self.first(x)))
        return self.classifier(jnp.mean(nnx.relu(x), axis=(1, 2)))


class Summed(nnx.Module):
    """A layer as wide as two groups together."""

    def __init__(self, widths, rngs):
        self.first = nnx.Conv(2, widths["a"] + widths["b"], (3, 3), rngs=rngs)
        self.second = nnx.Conv(widths["a"] + widths["b"], widths["a"], (3, 3), rngs=rngs)
        self.third = nnx.Conv(widths["a"], widths["b"], (3, 3), rngs=rngs)

    def __call__(self, x):
        return jnp.mean(self.third(self.second(self.first(x))), axis=(1, 2))


class InParts(Plain):
    """A grouped convolution of which every part has half the width."""

    def __init__(self, widths, rngs):
        super().__init__(widths, rngs)
        self.second = nnx.Conv(widths["a"], widths["b"], (3, 3), feature_group_count=2, rngs=rngs)


class LayerNormed(Plain):
    """Normalisation over the channels."""

    def __init__(self, widths, rngs, norm=nnx.LayerNorm):
        super().__init__(widths, rngs)
        self.normalise = norm(widths["a"], rngs=rngs)

    def __call__(self, x):
        x = self.second(nnx.relu(self.normalise(self.first(x))))
        return self.classifier(jnp.mean(nnx.relu(x), axis=(1, 2)))


class Growing(nnx.Module):
    """As many layers as channels."""

    def __init__(self, widths, rngs):
        self.first = nnx.Linear(2, widths["a"], rngs=rngs)
        self.rest = nnx.List(nnx.Linear(4, 4, rngs=rngs) for _ in range(widths["a"]))

    def __call__(self, x):
        return self.first(x)


def sigmoid(widths, rngs):
    """sigmoid(0) = 0.5: removed channels speak."""
    return Plain(widths, rngs, between=nnx.sigmoid)


def rms_normed(widths, rngs):
    """Normalisation by the channels' mean square."""
    return LayerNormed(widths, rngs, nnx.RMSNorm)


def cosine(widths, rngs):
    """cos(0) = 1."""
    return Plain(widths, rngs, between=jnp.cos)


def scaled(widths, rngs):
    """A scale that depends on the width."""
    return Plain(widths, rngs, between=lambda x: nnx.relu(x) / widths["a"] ** 0.5)


def mixture(widths, rngs):
    """Channels compete."""
    return Plain(widths, rngs, between=nnx.softmax)


class Inner(Plain):
    """A layer whose size is the larger of two, between the convolutions."""

    def __init__(self, widths, rngs, size):
        super().__init__(widths, rngs)
        self.inner = nnx.Conv(widths["a"], size, (1, 1), rngs=rngs)
        self.back = nnx.Conv(size, widths["a"], (1, 1), rngs=rngs)
        self.between = lambda x: nnx.relu(self.back(nnx.relu(self.inner(x))))


def at_least_16(widths, rngs):
    """Wider than 16 as parent and beyond, not below."""
    return Inner(widths, rngs, max(2 * widths["a"], 16))


def the_wider(widths, rngs):
    """Where both are narrow it follows a, beside a wide b it doesn't."""
    return Inner(widths, rngs, max(2 * widths["a"], widths["b"] + 4))


def ignores_b(widths, rngs):
    """Never reads the width b."""
    return Plain({"a": widths["a"], "b": 8}, rngs)


REFUSED = {
    Summed: r"bad: dimension 0 of 'first/bias', of size 16, mixes the width groups a and b; want a layer's width to be",
    InParts: r"bad: dimension 2 of 'second/kernel', of size 4, is the width of a in 2 parts; want the width of one",
    Growing: r"bad: 'rest/\d+/(kernel|bias)' comes or goes with the widths",
    at_least_16: r"bad: 'back/kernel' is \[1, 1, 16, 4\] at a=4, b=4, not \[1, 1, 8, 4\] as larger widths tell; want",
    the_wider: r"bad: 'back/kernel' is \[1, 1, 12, 4\] at a=4, b=8, not \[1, 1, 8, 4\] as larger widths tell; want",
    ignores_b: r"bad: no variable's shape depends on the width of b",
}

MEAN = r"a mean over the channels of a counts those that are removed, as in LayerNorm .* want normalisation by channel"
INEXACT = {
    LayerNormed: MEAN,
    rms_normed: MEAN,
    scaled: r"a scale depends on the width of a: 2.828 where 2 is at the smaller widths .* want a scale that does not$",
    mixture: r"a softmax over the channels of a counts those that are removed .* want softmax over a fixed size$",
    sigmoid: r"'logistic' makes removed channels of a something else than 0 \(masked .* activations that map 0 to 0$",
    cosine: r"'cos' makes removed channels of a something else than 0 \(masked .* activations that map 0 to 0$",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_network_that_cannot_be_sliced_is_refused_with_the_path_and_the_reason(make):
    with pytest.raises(NetworkError, match=REFUSED[make]) as caught:
        probe(from_nnx("bad", make, {"a": 8, "b": 8}, (4, 4, 2)), (4,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", INEXACT, ids=lambda make: make.__name__)
def test_a_network_that_cannot_be_masked_exactly_says_why(make):
    inexact = probe(from_nnx("bad", make, {"a": 8, "b": 8}, (4, 4, 2)), (4,)).inexact
    assert re.search(f"^bad: {INEXACT[make]}", inexact), inexact
    assert "\n" not in inexact


def test_the_plain_network_that_the_refused_ones_change_is_accepted():
    space = probe(from_nnx("good", Plain, {"a": 8, "b": 8}, (4, 4, 2)), (4,))
    assert (space.groups, space.inexact) == (("a", "b"), "")


class Ungated(networks.Residual):
    """The bias behind the block speaks when the block is removed."""

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        if self.there:
            x = nnx.relu(x + self.norm(self.second(nnx.relu(self.first(x)))))
        return self.classifier(jnp.mean(x, axis=(1, 2)))


class Listed(nnx.Module):
    """Two layers in a list, where the second moves up when the first goes."""

    def __init__(self, widths, rngs):
        self.blocks = nnx.List(nnx.Linear(w, w, rngs=rngs) for w in widths.values() if w)

    def __call__(self, x):
        return x


class Staying(nnx.Module):
    """A layer beside the block stays and has no inputs."""

    def __init__(self, widths, rngs):
        self.first = nnx.Param(jnp.zeros((2, widths["stage"], widths["inner"])))

    def __call__(self, x):
        return x


class Bottleneck(nnx.Module):
    """Two inner widths, each of which removes the block."""

    def __init__(self, widths, rngs):
        self.there = all(widths.values())
        if self.there:
            self.middle = nnx.Linear(widths["stage"], widths["inner"], rngs=rngs)

    def __call__(self, x):
        return x


UNREMOVABLE = {
    Listed: r"bad: got 'blocks/0/.*' of shape .* without any of its removable groups but inner, want .* as with them",
    Staying: r"bad: got 'first' of shape \[2, \d+, 0\] without its removable groups, want .* or no such variable",
    Bottleneck: r"bad: 'middle/bias' goes with several removable groups, want one a block",
}


@pytest.mark.parametrize("make", UNREMOVABLE, ids=lambda make: make.__name__)
def test_a_network_whose_block_cannot_be_removed_is_refused_with_the_path_and_the_reason(make):
    removable = ["inner"] if make is Staying else ["stage", "inner"]
    network = from_nnx("bad", make, {"stage": 4, "inner": 4}, networks.SHAPE, removable=removable)
    with pytest.raises(NetworkError, match=UNREMOVABLE[make]) as caught:
        probe(network, (2,))
    assert "\n" not in str(caught.value)


def test_a_block_without_a_gate_cannot_be_masked():
    network = from_nnx("bad", Ungated, {"stage": 4, "inner": 4}, networks.SHAPE, removable=["inner"])
    what = r"bad: masked training of 'norm/bias' leaks out of the mask by .* want x \+ nets.unless_removed\(branch"
    assert re.search(what, probe(network, (2,)).inexact)


def test_an_unknown_removable_group_is_refused_with_the_known_ones():
    network = from_nnx("bad", networks.Residual, {"stage": 4, "inner": 4}, networks.SHAPE, removable=["block"])
    with pytest.raises(NetworkError, match=r"^bad: got 'block' as removable, want some of stage, inner$"):
        probe(network, (2,))


def test_a_network_without_width_groups_is_refused():
    network = from_nnx("bad", lambda w, rngs: nnx.Linear(4, 4, rngs=rngs), {}, (4,))
    with pytest.raises(NetworkError, match=r"^bad: has no width groups, want at least one width to search$"):
        probe(network)


def test_widths_below_their_multiple_are_refused():
    with pytest.raises(ConfigError, match=r"^net.widths: dense got 8, want at least its multiple, which is 16$"):
        probe(cnn((4, 4, 8), (8, 8, 1), 3), (2, 2, 16), check=False)


@pytest.mark.parametrize("multiple", [(2, 2), (2, 2, 2, 2), ()])
def test_a_wrong_number_of_multiples_is_refused(multiple):
    got = f"^net.multiple: got {len(multiple)} numbers, "
    with pytest.raises(ConfigError, match=f"{got}want one number or 3, one for each of conv1, conv2, dense$"):
        probe(cnn((4, 4, 8), (8, 8, 1), 3), multiple, check=False)


def test_one_multiple_stands_for_all_groups_and_several_for_each_its_own():
    network = cnn((4, 4, 8), (8, 8, 1), 3)
    assert probe(network, (4,), check=False).multiple == (4, 4, 4)
    assert probe(network, (1, 2, 8), check=False).smallest == (1, 2, 8)


def test_a_variable_that_becomes_nan_is_refused_not_accepted():
    class Infinite(Plain):
        def __call__(self, x):
            return super().__call__(x) / 0.0

    space = probe(from_nnx("bad", Infinite, {"a": 8, "b": 8}, (4, 4, 2)), (4,), check=False)
    with pytest.raises(NetworkError, match=r"bad: training makes '.*' nan after one step"):
        check_masking(space)


def test_a_group_that_is_at_its_multiple_already_need_not_be_built_narrower():
    class Eighths(Plain):
        def __init__(self, widths, rngs):
            super().__init__(widths, rngs)
            self.norm = nnx.GroupNorm(widths["a"], num_groups=8, rngs=rngs)

        def __call__(self, x):
            return self.classifier(nnx.relu(self.second(nnx.relu(self.norm(self.first(x))))).mean((1, 2)))

    assert probe(from_nnx("eighths", Eighths, {"a": 8, "b": 24}, (4, 4, 2)), (8,)).inexact == ""


def test_variables_outside_the_labels_stay_as_they_are():
    space = space_of("cnn")
    tree = {"other": np.ones(3), "conv1/bias": np.ones(4)}
    keep = (np.array([True, False, False, True]), np.ones(4, bool), np.ones(8, bool))
    masked = space.mask(Variables(tree, {}), keep)
    np.testing.assert_array_equal(masked.params["other"], [1, 1, 1])
    np.testing.assert_array_equal(masked.params["conv1/bias"], [1, 0, 0, 1])
