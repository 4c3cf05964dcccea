"""MobileNetV2 and the ResNets are the published ones; a removed block's branch is silent and learns nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.nets import NETWORKS, build, mobilenet_v2, resnet, unless_removed
from fednas_jax.nets.residual import groups_of, stages_of
from fednas_jax.space.jaxprs import count_macs


def counts(name, size, classes, **options):
    """MACs and parameters of the network as built; nothing is allocated."""
    network = build(NetConfig(name, **options), (size, size, 3), classes)
    widths = tuple(network.widths.values())
    return count_macs(network, widths), sum(leaf.size for leaf in network.abstract(widths).params.values())


def layer(size, channels, kernel, features):
    """MACs and parameters of a convolution to size x size pixels and of the BatchNorm behind it."""
    weights = kernel * kernel * channels * features
    return np.array([size * size * weights, weights + 2 * features])


def basic_blocks(size, widths, blocks, projects):
    """MACs and parameters of a ResNet's stages; every stage but the first halves the image."""
    total, before = np.zeros(2, np.int64), widths[0]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            if stage and not block:
                size //= 2
                total += layer(size, before, 1, width) if projects else 0
            total += layer(size, before, 3, width) + layer(size, width, 3, width)
            before = width
    return total


# Parameters and MACs of He et al., table 6 and section 4.2.
@pytest.mark.parametrize(
    ("name", "n", "params", "macs"),
    [("resnet20", 3, 0.27e6, 41e6), ("resnet32", 5, 0.46e6, 69e6), ("resnet56", 9, 0.85e6, 125e6)],
)
def test_resnets_for_small_images_have_the_published_macs_and_parameters(name, n, params, macs):
    want = layer(32, 3, 3, 16) + basic_blocks(32, (16, 32, 64), (n, n, n), projects=False) + [640, 650]
    assert counts(name, 32, 10) == tuple(want)
    assert abs(want[1] - params) < 0.005e6
    assert abs(want[0] - macs) < 1e6


# torchvision's parameters; its MACs without those of normalisation.
@pytest.mark.parametrize(
    ("name", "blocks", "params", "macs"),
    [("resnet18", (2, 2, 2, 2), 11_689_512, 1.81e9), ("resnet34", (3, 4, 6, 3), 21_797_672, 3.66e9)],
)
def test_resnets_for_imagenet_have_the_published_macs_and_parameters(name, blocks, params, macs):
    want = layer(112, 3, 7, 64) + basic_blocks(56, (64, 128, 256, 512), blocks, projects=True) + [512_000, 513_000]
    assert counts(name, 224, 1000) == tuple(want)
    assert want[1] == params
    assert abs(want[0] - macs) < 0.005e9


def test_mobilenet_v2_has_the_published_macs_and_parameters():
    want, size, before = layer(112, 3, 3, 32), 112, 32
    for stage, (width, count, stride) in enumerate(mobilenet_v2.STAGES):  # table 2
        for block in range(count):
            inner = 6 * before if stage else before
            want = want + (layer(size, before, 1, inner) if stage else 0)
            size //= 1 if block else stride
            want = want + layer(size, 1, 3, inner) + layer(size, inner, 1, width)
            before = width
    want = want + layer(7, 320, 1, 1280) + [1_280_000, 1_281_000]
    assert counts("mobilenet_v2", 224, 1000) == tuple(want)
    assert want[1] == 3_504_872  # torchvision's
    assert abs(want[0] - 300e6) < 1e6  # table 4


def test_with_stem_stride_1_resnet18_has_the_stem_that_is_usual_for_32x32_images():
    _, params = counts("resnet18", 32, 10, stem_stride=1)
    want = layer(32, 3, 3, 64) + basic_blocks(32, (64, 128, 256, 512), (2, 2, 2, 2), projects=True) + [5120, 5130]
    assert params == want[1] == 11_173_962


def test_width_groups_are_one_a_stage_and_one_a_block():
    names = ["stage1", "block1", "block2", "block3", "stage2", "block4", "block5", "block6", "stage3"]
    assert list(resnet.RESNET20) == [*names, "block7", "block8", "block9"]
    stages = stages_of(resnet.RESNET34)
    assert [(width, len(blocks)) for width, blocks in stages] == [(64, 3), (128, 4), (256, 6), (512, 3)]
    assert groups_of((width, blocks.values()) for width, blocks in stages) == resnet.RESNET34
    assert list(mobilenet_v2.WIDTHS)[:6] == ["stem", "stage1", "stage2", "block2", "block3", "stage3"]
    assert len(mobilenet_v2.WIDTHS) == 1 + 7 + 16 + 1


def test_blocks_that_keep_a_skip_can_be_removed():
    for name, blocks in (("resnet18", range(1, 9)), ("mobilenet_v2", (3, 5, 6, 8, 9, 10, 12, 13, 15, 16))):
        network = build(NetConfig(name), (32, 32, 3), 10)
        assert network.removable == {f"block{n}" for n in blocks}


def test_a_network_of_removed_blocks_alone_still_computes():
    for name in ("mobilenet_v2", "resnet20", "resnet18"):
        entry = NETWORKS[name]
        network = entry.build(dict.fromkeys(entry.shallow, 4), (8, 8, 3), 5, NetConfig(name, stem_stride=1))
        bare = tuple(0 if group in network.removable else 4 for group in network.widths)
        images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
        shapes = network.abstract(bare)
        logits, _ = jax.eval_shape(lambda v, x, n=network, w=bare: n.apply(w, v, x, train=True), shapes, images)
        assert logits.shape == (2, 5)
        assert len(shapes.params) < len(network.abstract(tuple(network.widths.values())).params)


# The shortcut without parameters


def numbered(width_in, width):
    return resnet.Numbered(width_in, width, 2)


@pytest.mark.parametrize(("width_in", "width"), [(2, 5), (3, 3), (4, 2)])
def test_the_shortcut_without_parameters_subsamples_and_pads_with_zeros(width_in, width):
    x = np.random.default_rng(0).normal(size=(2, 4, 6, width_in)).astype(np.float32)
    want = np.zeros((2, 2, 3, width), np.float32)
    both = min(width_in, width)
    want[..., :both] = x[:, ::2, ::2, :both]
    np.testing.assert_array_equal(numbered(width_in, width)(x), want)
    assert not nnx.to_flat_state(nnx.state(numbered(width_in, width), nnx.Param))


def test_channels_that_stay_find_their_old_partners_through_the_shortcut():
    shortcut = numbered(4, 4)
    shortcut.before[...], shortcut.after[...] = jnp.array([1.0, 0, 3, 4]), jnp.array([4.0, 0, 2, 3])  # 0: masked
    x = np.broadcast_to([10.0, 20.0, 30.0, 40.0], (1, 2, 2, 4))
    np.testing.assert_array_equal(shortcut(x)[0, 0, 0], [40, 0, 0, 30])


# The gate


def test_the_branch_passes_unless_the_kernel_is_all_zero():
    branch = np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(unless_removed(branch, np.array([0.0, 1e-30])), branch)
    np.testing.assert_array_equal(unless_removed(branch, np.zeros(3)), [0, 0])


@pytest.mark.parametrize(("scale", "want"), [(1.0, 1.0), (0.0, 0.0)])
def test_gradients_pass_unless_the_kernel_is_all_zero_and_none_goes_through_the_gate(scale, want):
    def loss(branch, kernel):
        return unless_removed(branch, kernel).sum()

    branch, kernel = np.ones(2, np.float32), scale * np.ones(3, np.float32)
    to_branch, to_kernel = jax.grad(loss, argnums=(0, 1))(branch, kernel)
    np.testing.assert_array_equal(to_branch, [want, want])
    np.testing.assert_array_equal(to_kernel, np.zeros(3))


def test_each_lane_has_its_own_gate_and_what_is_removed_may_be_nan():
    branch = np.array([[1.0], [np.nan]], np.float32)
    np.testing.assert_array_equal(jax.vmap(unless_removed)(branch, np.array([[2.0], [0.0]])), [[1], [0]])
