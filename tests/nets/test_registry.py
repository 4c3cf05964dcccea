"""Every registered network can be searched: nobody has to remember to test a new one."""

import functools
import itertools
import math
import re

import jax
import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine import local
from fednas_jax.errors import ConfigError
from fednas_jax.nets import NETWORKS, build
from fednas_jax.space.jaxprs import count_macs
from fednas_jax.space.network import inputs_of
from fednas_jax.space.probing import probe

SHAPE = (16, 16, 3)
TEXT = ((6,), networks.CLASSES, 11)  # tokens


def made(name, width, **config):
    """The network with one width everywhere, as shallow as it can be made, for images or else for texts."""
    entry = NETWORKS[name]
    task = (SHAPE, networks.CLASSES) if "images" in entry.takes else TEXT
    return build(NetConfig(name, widths=(width,) * len(entry.shallow), shallow=True, **config), *task)


@functools.cache
def small(name):
    return made(name, 8, stem_stride=1)


WIRED = ("shufflenet_v2",)  # those whose channels' order depends on the widths


@functools.cache
def space_of(name):
    return probe(small(name), (4,))  # checked, which also finds out in which order channels are


CONCATENATING = ("densenet100", "densenet121")  # their norms are of several groups at once, and so BatchNorm
SLICED = ("vit",)  # those that masks would change
# Those that take longest to probe, and whose kinds of layers others have: the default form leaves them out.
DEEP = ("densenet100", "densenet121", "googlenet", "resnet18", "shufflenet_v2")
# Names with one builder are one network at different depths, of which the shallowest is tested.
EVERY = tuple({e.build: n for n, e in reversed(NETWORKS.items())}.values())
every_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if name in DEEP else ()) for name in EVERY]
)
# The default form trains two; at random widths, below, one with BatchNorm, depthwise layers and blocks that may go too.
QUICK = ("cnn", "lstm")
UNNORMALISED = ("lstm", "mlp")  # which have no layer for it
every_network_trained = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.exhaustive) for name in EVERY if name not in SLICED],
)


@every_network_trained
def test_masked_training_is_sliced_training_and_the_loss_falls(name):
    space = space_of(name)
    keep = tuple(np.arange(w) % 2 == g % 2 for g, w in enumerate(space.widths))
    # In float64, since many BatchNorms in a row amplify rounding until any two float32 runs differ.
    with jax.enable_x64(True):
        losses = networks.assert_masked_equals_sliced(space, keep, rate=0.005, dtype=np.float64).losses
    assert losses.dtype == np.float64
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]


@every_network_trained
@given(data=st.data())
@settings(max_examples=2)
def test_whatever_widths_and_channels_are_kept_masked_training_is_sliced_training(name, data):
    space = space_of(name)
    # Few widths, of deep networks one, since each compiles the sliced network anew; which channels are kept is free.
    few_and_many = [(2, 6)[g % 2] for g in range(len(space.widths))]
    # A block is removed, the last that can be.
    few_and_many[max((g for g, least in enumerate(space.smallest) if not least), default=0)] *= min(space.smallest) > 0
    shallow = len(space.widths) < 5 or not min(space.smallest)
    widths = data.draw(st.sampled_from([(4,) * len(space.widths), *[tuple(few_and_many)] * shallow]))
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
    widths = tuple(int(w) for w in rng.integers([least > 0 for least in space.smallest], 9))
    shapes = space.network.abstract(widths)
    params, stats = (sum(math.prod(s.shape) for s in part.values()) for part in shapes)
    assert space.macs(widths) == count_macs(space.network, widths)
    assert space.params(widths) == params
    assert space.size(widths) == 4 * (params + stats)


@every_network
def test_the_probe_accepts_it(name):
    space = space_of(name)
    assert space.groups == tuple(NETWORKS[name].shallow)
    assert bool(space.inexact) == (name in (*SLICED, *WIRED))


@every_network
def test_logits_have_one_column_for_each_class(name):
    network = small(name)
    widths = tuple(network.widths.values())
    logits, stats = jax.eval_shape(
        lambda v, x: network.apply(widths, v, x, train=True), network.abstract(widths), inputs_of(network, 2)
    )
    assert logits.shape == (2, networks.CLASSES)
    assert jax.tree.map(np.shape, stats) == jax.tree.map(np.shape, network.abstract(widths).stats)


# Parameters and multiply-accumulates; where they come from stands in the networks' files.
IMAGENET = ((224, 224, 3), 1000)
PUBLISHED = [
    ("lenet5", {}, ((28, 28, 1), 10), 61_706, 416_520),
    ("lenet5", {}, ((32, 32, 1), 10), 61_706, 416_520),
    ("lenet5", {}, ((32, 32, 3), 10), 62_006, 651_720),
    ("alexnet", {}, IMAGENET, 61_100_840, 714_188_480),
    ("vgg11", {"norm": "none"}, IMAGENET, 132_863_336, 7_609_090_048),
    ("vgg11", {}, IMAGENET, 132_868_840 - 2_752, 7_609_090_048),  # without the biases that BatchNorm subtracts
    ("vgg16", {"norm": "none"}, IMAGENET, 138_357_544, 15_470_264_320),
    ("vgg16", {}, IMAGENET, 138_365_992 - 4_224, 15_470_264_320),
    # As torchvision's; the paper names 146 M with what is no convolution or product.
    ("shufflenet_v2", {}, IMAGENET, 2_278_604, 144_907_992),
    # Of texts of 80 and 20 tokens; MACs by hand, of steps: two products for each LSTM, and the layers behind them.
    ("lstm_shakespeare", {}, ((80,), 90, 90), 820_522, 80 * (8 + 256 + 2 * 256) * 4 * 256 + 256 * 90),
    (
        "lstm_stackoverflow",
        {},
        ((20,), 10_004, 10_004, True),
        4_050_748,
        20 * ((96 + 670) * 4 * 670 + 670 * 96 + 96 * 10_004),
    ),
    ("mlp", {}, ((28, 28, 1), 10), 199_210, 784 * 200 + 200 * 200 + 200 * 10),
    pytest.param("densenet100", {}, ((32, 32, 3), 10), 769_162, 287_929_692, marks=pytest.mark.exhaustive),
    # As torchvision's, whose tables name 2.83 and 1.50 G.
    pytest.param("densenet121", {}, IMAGENET, 7_978_856, 2_834_161_664, marks=pytest.mark.exhaustive),
    pytest.param("googlenet", {}, IMAGENET, 6_624_904, 1_498_376_192, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("name", "settings", "task", "params", "macs"), PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name, settings, task, params, macs):
    network = build(NetConfig(name, **settings), *task)
    widths = tuple(network.widths.values())
    assert sum(math.prod(s.shape) for s in network.abstract(widths).params.values()) == params
    assert count_macs(network, widths) == macs


def test_the_celeba_network_has_the_counts_of_hand_arithmetic():
    network = build(NetConfig("celeba_cnn"), (128, 128, 3), 2)
    widths = [3, 32, 64, 128, 256, 256]
    pairs = list(itertools.pairwise(widths))
    params = sum(9 * a * b + b for a, b in pairs) + 4 * 4 * 256 * 512 + 512 + 512 * 2 + 2
    macs = sum((128 >> n) ** 2 * 9 * a * b for n, (a, b) in enumerate(pairs)) + 4 * 4 * 256 * 512 + 512 * 2
    assert sum(math.prod(s.shape) for s in network.abstract((*widths[1:], 512)).params.values()) == params == 3_077_186
    assert count_macs(network, (*widths[1:], 512)) == macs == 280_495_104


def test_the_vision_transformer_has_the_published_parameters_and_the_macs_of_hand_arithmetic():
    network = build(NetConfig("deit_tiny"), *IMAGENET)
    widths = tuple(network.widths.values())
    # timm's deit_tiny_patch16_224, whose table names 1.26 G multiply-accumulates.
    assert sum(math.prod(s.shape) for s in network.abstract(widths).params.values()) == 5_717_416
    assert count_macs(network, widths) == attention_macs(14 * 14, 3 * 16**2, 192, 64, [3] * 12, [768] * 12, 1000)
    assert count_macs(network, widths) == pytest.approx(1.26e9, rel=0.006)


def attention_macs(patches, pixels, embedding, head_width, heads, inner, classes):
    """Of a vision transformer, by hand: each block's four projections, two products of all tokens, two dense layers."""
    tokens = patches + 1
    blocks = sum(4 * tokens * embedding * h * head_width + 2 * tokens**2 * h * head_width for h in heads)
    return patches * pixels * embedding + blocks + sum(2 * tokens * embedding * m for m in inner) + embedding * classes


def test_attention_is_priced_as_counted_by_hand_at_any_widths_and_without_blocks():
    space = probe(build(NetConfig("vit"), (28, 28, 1), 10), check=False)
    assert (space.multiple[:4], space.smallest[:4]) == ((8, 8, 1, 8), (8, 8, 0, 0))
    for widths in ((64, 16, *(4, 128) * 4), (40, 8, 3, 64, 1, 0, 0, 24, 0, 0), (8, 8, *(0,) * 8)):
        assert space.macs(widths) == attention_macs(49, 16, *widths[:2], widths[2::2], widths[3::2], 10)
        assert space.macs(widths) == count_macs(space.network, widths)


def test_heads_are_kept_by_all_kernels_that_carry_them():
    space = probe(build(NetConfig("vit", shallow=True), (8, 8, 1), 10), check=False)
    params = {path: np.ones(leaf.shape) for path, leaf in space.network.abstract(space.widths).params.items()}
    params["parts/heads1/out/kernel"][2] = 3
    heads = np.asarray(space.norms(params)[2])
    assert heads.shape == (4,)
    assert np.argmax(heads) == 2
    others = np.delete(heads, 2)
    np.testing.assert_allclose(others, np.sqrt(3 * (64 * 16 + 16) + 16 * 64))


@pytest.mark.parametrize(
    ("name", "size", "first_dense"),
    [
        ("lenet5", (12, 20), 16 * 1 * 3),
        ("celeba_cnn", (20, 12), 256 * 2 * 1),  # pooling stops at one pixel
        ("celeba_cnn", (300, 128), 256 * 4 * 4),
        ("alexnet", (15, 40), 256 * 1 * 2),
        ("alexnet", (32, 32), 256 * 2 * 2),
        ("alexnet", (63, 63), 256 * 1 * 1),
        ("alexnet", (300, 224), 256 * 6 * 6),
        ("vgg11", (1, 28), 512 * 1 * 7),
        ("vgg11", (32, 64), 512 * 1 * 2),
        ("vgg11", (300, 224), 512 * 7 * 7),
    ],
)
def test_images_of_other_sizes_reach_the_dense_layers_in_fewer_pixels_never_in_more(name, size, first_dense):
    network = build(NetConfig(name), (*size, 1), 10)
    widths = tuple(network.widths.values())
    params = network.abstract(widths).params
    dense = next(params[p] for p in ("dense1/kernel", "dense/0/kernel") if p in params)
    assert dense.shape[0] == first_dense
    assert count_macs(network, widths) > 0  # the pass fits what was built


@pytest.mark.parametrize(("name", "size", "least"), [("lenet5", (11, 32), "12x12"), ("alexnet", (32, 14), "15x15")])
def test_images_that_a_network_would_leave_nothing_of_are_refused(name, size, least):
    want = rf"^net.name: {name} got images of {size[0]}x{size[1]}, want at least {least}: "
    with pytest.raises(ConfigError, match=want):
        build(NetConfig(name), (*size, 1), 10)


def in_lanes(network):
    """The program of a training step in two lanes, in bfloat16, and its new variables, nothing computed."""
    widths = tuple(network.widths.values())
    client = local.make_local(network, widths, TrainConfig(precision="bfloat16", weight_decay=0.0, momentum=0.0))

    def steps(variables, images, labels, keys):
        return jax.vmap(lambda v, *rest: client.step(client.init(v), *rest[:2], 0.1, rest[2]).variables)(
            variables, images, labels, keys
        )

    lanes = functools.partial(jax.tree.map, lambda s: jax.ShapeDtypeStruct((2, *s.shape), s.dtype))
    batch = inputs_of(network, 4), jax.ShapeDtypeStruct((4,), np.int32)
    arguments = (*lanes((network.abstract(widths), *batch)), jax.random.split(jax.random.key(0), 2))
    program, new = jax.make_jaxpr(jax.jit(steps), return_shape=True)(*arguments)
    return str(program), new, lanes(network.abstract(widths))


@every_network
def test_its_lanes_train_in_bfloat16_without_a_slow_convolution_or_pooling(name):
    program, new, old = in_lanes(small(name))
    assert jax.tree.map(lambda s: (s.shape, s.dtype), new) == jax.tree.map(lambda s: (s.shape, s.dtype), old)
    if name in UNNORMALISED:  # nothing but dense products
        assert set(re.findall(r":(\w+)\[[\d,]*\] = dot_general", program)) == {"bf16"}
        return
    assert "preferred_element_type=bfloat16" in program
    if name not in SLICED:  # attention's products are of bfloat16, and summed up in float32
        assert "preferred_element_type=float32" not in program  # normalisation, which is float32, hands on bfloat16
    for slow in ("conv_general_dilated[", "reduce_window", "select_and_scatter"):
        assert slow not in program


@pytest.mark.parametrize("rate", [None, 0.0, 0.2])
@every_network
def test_dropout_is_there_as_published_or_as_wanted(name, rate):
    network = made(name, 2, dropout=rate)
    widths = tuple(network.widths.values())

    def draws(train):
        drawn = jax.make_jaxpr(lambda v, x, k: network.apply(widths, v, x, train=train, key=k)[0])
        return "random_bits" in str(drawn(network.abstract(widths), inputs_of(network, 2), jax.random.key(0)))

    published = name in ("alexnet", "vgg11", "googlenet")
    assert draws(train=True) == (published if rate is None else rate > 0)
    if rate:  # where it is, in training, whatever the rate
        assert not draws(train=False)


NORMALISED = set(EVERY) - {*SLICED, *CONCATENATING, *UNNORMALISED}


@pytest.mark.parametrize("name", sorted(NORMALISED))
def test_groupnorm_makes_blocks_of_what_it_normalises(name):
    space = probe(made(name, 8, norm="group", group_size=4), (4,), check=False)
    dense = [group.startswith("dense") for group in space.groups]
    assert space.blocks == tuple(1 if d else 4 for d in dense)
    # Scales and biases, of a size with their group's, are all that normalisation has.
    scales = {dim.group for path in space.labels for dim in space.labels[path] if path.endswith("/scale") and dim}
    assert scales == {g for g, d in enumerate(dense) if not d}
    # Without BatchNorm, the numbers of ResNet's shortcuts are the only statistics there may be.
    assert all("/shortcut/" in path for path in space.network.abstract(space.widths).stats)


@pytest.mark.parametrize("name", UNNORMALISED)
def test_a_network_without_normalisation_takes_none(name):
    with pytest.raises(ConfigError, match=rf"^net.norm: got batch, want none: {name} has no normalisation$"):
        made(name, 8, norm="batch")


@pytest.mark.parametrize(
    ("name", "task", "takes", "got"),
    [
        ("cnn", TEXT, "images", "texts of 6"),
        ("cnn", ((7,), 3), "images", "rows of 7"),
        ("lstm", ((7,), 3), "texts and series", "rows of 7"),
        ("lstm_sent140", ((5, 7), 3), "texts", "series of 5x7"),
        ("mlp", TEXT, "images and rows and series", "texts of 6"),
    ],
)
def test_inputs_that_a_network_does_not_take_are_refused_with_those_that_do(name, task, takes, got):
    with pytest.raises(ConfigError, match=rf"^net.name: {name} takes {takes}, got {got}, want one of .*, or your own$"):
        build(NetConfig(name), *task)


def test_a_network_of_layernorm_takes_no_other_norm():
    with pytest.raises(ConfigError, match=r"^net.norm: got group, want none given: vit normalises by LayerNorm$"):
        build(NetConfig("vit", norm="group"), SHAPE, 10)


def test_a_network_with_groupnorm_trains_masked_as_sliced():
    config = NetConfig("lenet5", widths=(8, 12, 4, 4), norm="group", group_size=4)
    space = probe(build(config, (12, 12, 1), networks.CLASSES), (4, 4, 2, 2))
    keep = (np.arange(8) >= 4, np.arange(12) // 4 != 1, np.arange(4) > 1, np.arange(4) < 2)
    with jax.enable_x64(True):
        networks.assert_masked_equals_sliced(space, keep, dtype=np.float64)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"^net.name: got 'vgg', want one of cnn, .*vgg11, .*mobilenet_v1.*, resnet34"
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


def test_the_code_of_a_network_that_a_user_registered_is_remembered_and_the_projects_is_not(monkeypatch):
    """So that a run does not go on with a network whose layers are others by now, though of the same shapes."""
    monkeypatch.setattr(nets, "NETWORKS", dict(NETWORKS))
    assert all(nets.checksum(name) is None for name in (*NETWORKS, "unknown"))
    builders = [eval(compile(f"lambda *args: {n}", "<cell>", "eval")) for n in (1, 2)]
    found = []
    for name in ("mine", "cnn"):
        for builder in builders:
            nets.register(name, {"conv": 4}, builder)
            found.append(nets.checksum(name))
    assert found[0] == found[2] != found[1] == found[3]


@pytest.mark.parametrize(("name", "form"), [("resnet20", (SHAPE, 10)), ("vit", (SHAPE, 10)), ("lstm", ((5,), 10, 20))])
def test_variables_are_float32_where_jax_counts_in_64_bits_too(name, form):
    with jax.enable_x64(True):
        network = build(NetConfig(name, shallow=True), *form)
        variables = network.abstract(tuple(network.widths.values()))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
