"""Every registered network can be searched: nobody has to remember to test a new one."""

import functools
import math

import jax
import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax import nets
from fednas_jax.config import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets import NETWORKS, build
from fednas_jax.space import count_macs, probe

SHAPE = (16, 16, 3)


@functools.cache
def small(name):
    """The network with eight channels everywhere, as shallow as it can be made."""
    entry = NETWORKS[name]
    return entry.build(dict.fromkeys(entry.shallow, 8), SHAPE, networks.CLASSES, NetConfig(name, stem_stride=1))


@functools.cache
def space_of(name):
    return probe(small(name), (4,), check=False)


# Names with one builder are one network at different depths, of which the shallowest is tested.
every_network = pytest.mark.parametrize("name", {e.build: n for n, e in reversed(NETWORKS.items())}.values())


@every_network
def test_masked_training_is_sliced_training_and_the_loss_falls(name):
    space = space_of(name)
    keep = tuple(np.arange(w) % 2 == g % 2 for g, w in enumerate(space.widths))
    # In float64, since many BatchNorms in a row amplify rounding until any two float32 runs differ.
    with jax.enable_x64(True):
        losses = networks.assert_masked_equals_sliced(space, keep, rate=0.005, dtype=np.float64).losses
    assert losses.dtype == np.float64
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@every_network
@given(data=st.data())
@settings(max_examples=6)
def test_whatever_widths_and_channels_are_kept_masked_training_is_sliced_training(name, data):
    space = space_of(name)
    # Few widths, since each compiles the sliced network anew; which channels are kept is free.
    few_and_many = [(2, 6)[g % 2] for g in range(len(space.widths))]
    # A block is removed, the last that can be.
    few_and_many[max((g for g, least in enumerate(space.smallest) if not least), default=0)] *= min(space.smallest) > 0
    widths = data.draw(st.sampled_from([(4,) * len(space.widths), tuple(few_and_many)]))
    keep = []
    for whole, kept in zip(space.widths, widths, strict=True):
        chosen = data.draw(st.permutations(range(whole)))[:kept]
        keep.append(np.isin(np.arange(whole), chosen))
    with jax.enable_x64(True):
        networks.assert_masked_equals_sliced(space, tuple(keep), rate=0.005, dtype=np.float64)


@every_network
def test_costs_are_those_of_the_network_built_at_the_widths(name):
    space = space_of(name)
    rng = np.random.default_rng(1)
    for _ in range(2):
        widths = tuple(int(w) for w in rng.integers([least > 0 for least in space.smallest], 9))
        shapes = space.network.abstract(widths)
        params, stats = (sum(math.prod(s.shape) for s in part.values()) for part in shapes)
        assert space.macs(widths) == count_macs(space.network, widths)
        assert space.params(widths) == params
        assert space.size(widths) == 4 * (params + stats)


@every_network
def test_the_probe_accepts_it(name):
    entry = NETWORKS[name]
    assert probe(small(name), (4,)).groups == tuple(entry.shallow)


@every_network
def test_logits_have_one_column_for_each_class(name):
    network = small(name)
    widths = tuple(network.widths.values())
    images = jax.ShapeDtypeStruct((2, *SHAPE), np.float32)
    logits, stats = jax.eval_shape(
        lambda v, x: network.apply(widths, v, x, train=True), network.abstract(widths), images
    )
    assert logits.shape == (2, networks.CLASSES)
    assert jax.tree.map(np.shape, stats) == jax.tree.map(np.shape, network.abstract(widths).stats)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"^net.name: got 'vgg', want one of cnn, mobilenet_v1, .*resnet18, resnet34$"
    ):
        build(NetConfig("vgg"), SHAPE, 10)


@pytest.mark.parametrize("widths", [(8,), (8, 8, 8, 8)])
def test_a_wrong_number_of_widths_is_refused_with_the_groups(widths):
    want = rf"^net.widths: got {len(widths)} widths, want 3: conv1, conv2, dense$"
    with pytest.raises(ConfigError, match=want):
        build(NetConfig("cnn", widths=widths), SHAPE, 10)


@pytest.mark.parametrize("shape", [(3, 8, 1), (8, 3, 1), (1, 1, 1)])
def test_the_cnn_on_images_too_small_to_pool_twice_is_refused(shape):
    with pytest.raises(ConfigError, match=rf"^net.name: cnn got images of {shape[0]}x{shape[1]}, want at least 4x4"):
        build(NetConfig("cnn"), shape, 10)


def test_the_smallest_images_that_pool_twice_are_accepted():
    network = build(NetConfig("cnn", widths=(1, 1, 1)), (4, 7, 1), 2)
    assert network.abstract((1, 1, 1)).params["dense/kernel"].shape == (1, 1)


def test_own_widths_are_scaled_and_given_widths_are_not():
    assert build(NetConfig("cnn", width_multiplier=0.5), SHAPE, 10).widths == {
        "conv1": 16,
        "conv2": 32,
        "dense": 256,
    }
    assert build(NetConfig("cnn", width_multiplier=0.01), SHAPE, 10).widths == {
        "conv1": 1,
        "conv2": 1,
        "dense": 5,
    }
    given = NetConfig("cnn", widths=(7, 5, 3), width_multiplier=0.5)
    assert build(given, SHAPE, 10).widths == {"conv1": 7, "conv2": 5, "dense": 3}


def test_the_stem_stride_halves_the_images_or_leaves_them():
    def macs(stride):
        widths = (8,) * 14
        return count_macs(build(NetConfig("mobilenet_v1", widths=widths, stem_stride=stride), (64, 64, 3), 5), widths)

    classifier = 8 * 5
    assert macs(1) - classifier == 4 * (macs(2) - classifier)


def test_a_registered_network_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr(nets, "NETWORKS", dict(NETWORKS))
    nets.register("mine", networks.WIDTHS, lambda widths, shape, classes, config: networks.norm())
    assert build(NetConfig("mine"), networks.SHAPE, networks.CLASSES) is networks.norm()
    assert "mine" not in NETWORKS
