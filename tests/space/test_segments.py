"""Dimensions that are rows of segments are found, priced, masked and sliced as those of one group are."""

import dataclasses
import functools
import math

import networks
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax.errors import ConfigError
from fednas_jax.nets import from_nnx
from fednas_jax.space import segments, wiring
from fednas_jax.space.jaxprs import count_macs
from fednas_jax.space.network import Dim, Row, Segment
from fednas_jax.space.probing import probe
from fednas_jax.space.training_macs import training_layer_macs, training_table

QUICK = ("concatenated", "shuffled", "multiplied", "halves")  # the others are made of these
every_network = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.exhaustive) for n in networks.SEGMENTED]
)

LABELS = {  # the dimensions that are more than one group, by hand
    "concatenated": {
        ("layers/1/kernel", 2): Row((Segment(0, 1), Segment(1, 1)), 1),
        ("norms/1/mean", 0): Row((Segment(0, 1), Segment(1, 1)), 1),
        ("dense/kernel", 0): Row((Segment(None, 2), Segment(0, 1), Segment(1, 1), Segment(1, 1)), 9),
    },
    "unet": {("out/kernel", 2): Row((Segment(0, 1), Segment(1, 1)), 1)},
    "shuffled": {("second/kernel", 2): Row((Segment(0, 1, 2),), 1)},
    "maxout": {("first/kernel", 3): Row((Segment(0, 3),), 1)},
    "multiplied": {("layer/kernel", 3): Row((Segment(0, 2),), 1), ("second/kernel", 2): Row((Segment(0, 2),), 1)},
    "in parts": {("first/kernel", 3): Dim(0, 2), ("layer/kernel", 2): Dim(0, 1), ("second/kernel", 2): Dim(0, 2)},
    "parts": {("first/kernel", 3): Row((Segment(0, 2),), 1), ("second/kernel", 2): Row((Segment(0, 2),), 1)},
    "channel major": {("dense/kernel", 0): Row((Segment(0, 9),), 1)},
    "halves": {
        ("stem/kernel", 3): Dim(0, 2),
        ("first/0/kernel", 2): Dim(0, 1),
        ("first/1/kernel", 2): Row((Segment(0, 1, 0),), 1),
        ("last/1/kernel", 3): Dim(0, 1),
        ("classifier/kernel", 0): Row((Segment(0, 2, 0),), 1),
    },
    "shuffled parts": {("first/kernel", 3): Row((Segment(0, 2, 0),), 1), ("second/kernel", 3): Dim(1, 2)},
    "pixel shuffled": {("first/kernel", 3): Row((Segment(0, 4),), 1), ("second/kernel", 2): Dim(0, 1)},
    "merged heads": {
        key: Row((Segment(0, 8),), 1)
        for key in (("query/kernel", 1), ("key/kernel", 1), ("value/kernel", 1), ("out/kernel", 0))
    },
    "two ways": {
        ("down/kernel", 0): Row((Segment(None, 12), Segment(0, 1)), 1),
        ("classifier/kernel", 0): Row((Segment(0, 1), Segment(1, 1)), 1),
    },
    "swapped": {("first/kernel", 3): Dim(0, 1), ("second/kernel", 2): Row((Segment(0, 1, 0),), 1)},
    "coupled": {key: Row((Segment(0, 1, 0),), 1) for key in (("first/kernel", 3), ("second/kernel", 2))},
}


@functools.cache
def space_of(name):
    """The probed network, whose masked step was compared with the sliced one."""
    return probe(networks.segmented(name), (4,))


@every_network
def test_segments_are_those_written_by_hand_and_masking_is_exact(name):
    space = space_of(name)
    assert {key: space.labels[key[0]][key[1]] for key in LABELS[name]} == LABELS[name]
    wired = {"halves": "half", "shuffled parts": "a", "swapped": "a", "coupled": "a"}
    want = f"{name}: which layers read a channel of {wired.get(name)} depends on the width, "
    assert space.inexact.startswith(want) if name in wired else space.inexact == ""


@every_network
@given(data=st.data())
@settings(max_examples=5)
def test_costs_at_any_widths_are_those_of_the_network_built_there(name, data):
    space = space_of(name)
    widths = tuple(2 * data.draw(st.integers(1, 6)) for _ in space.groups)  # a shuffle of two parts wants even ones
    shapes = space.network.abstract(widths)
    params, stats = (sum(math.prod(leaf.shape) for leaf in part.values()) for part in shapes)
    assert space.macs(widths) == count_macs(space.network, widths)
    assert (space.params(widths), space.size(widths)) == (params, 4 * (params + stats))


@pytest.mark.parametrize("name", ["concatenated", "two ways"])
def test_training_costs_are_those_of_the_network_built_there(name):
    table = training_table(space_of(name))
    widths = (2, 6, 4)[: len(space_of(name).groups)]
    assert table(widths) == sum(training_layer_macs(networks.segmented(name), widths))


@every_network
def test_masked_training_is_sliced_training_and_nothing_leaks(name):
    space = space_of(name)
    rng = np.random.default_rng(2)
    keep = tuple(np.isin(np.arange(8), rng.permutation(8)[: (4, 6, 2)[g]]) for g in range(len(space.groups)))
    networks.assert_masked_equals_sliced(space, keep)


@every_network
def test_embedding_and_slicing_the_first_channels_is_the_identity(name):
    space = space_of(name)
    small = (4, 6, 2)[: len(space.groups)]
    shapes = space.network.abstract(small)
    rng = np.random.default_rng(0)
    variables = type(shapes)(*({p: rng.normal(size=s.shape) for p, s in part.items()} for part in shapes))
    embedded = space.embed(variables, space.widths)
    keep = tuple(np.arange(w) < s for w, s in zip(space.widths, small, strict=True))
    for got, want in ((space.slice(embedded, keep), variables), (space.mask(embedded, keep), embedded)):
        for part, other in zip(got, want, strict=True):
            assert part.keys() == other.keys()
            for path in part:
                np.testing.assert_array_equal(part[path], other[path])


def test_norms_of_channels_that_a_layer_repeats_are_those_of_all_their_filters():
    space = space_of("multiplied")
    params = {path: np.zeros(s.shape, np.float32) for path, s in space.network.abstract(space.widths).params.items()}
    params["first/kernel"][0, 0, 1, 3] = 3.0
    params["layer/kernel"][1, 1, 0, 6] = params["layer/kernel"][1, 1, 0, 7] = 8**0.5  # both of channel 3
    np.testing.assert_allclose(space.norms(params)[0], [0, 0, 0, 5, 0, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("norm", [None, nnx.LayerNorm])
def test_coupled_halves_beside_another_group_are_sliced(norm):
    make = functools.partial(networks.CoupledBeside, norm=norm)
    space = probe(from_nnx("beside", make, {"a": 8, "b": 8}, networks.SHAPE), (4,))
    assert space.inexact.startswith("beside: which layers read a channel of a and b depends on the width")
    if norm is None:
        rng = np.random.default_rng(2)
        networks.assert_masked_equals_sliced(space, tuple(np.isin(np.arange(8), rng.permutation(8)[:4]) for _ in "ab"))


def test_norms_of_halves_that_scale_each_other_are_those_of_both():
    space = space_of("coupled")
    params = {path: np.zeros(s.shape, np.float32) for path, s in space.network.abstract(space.widths).params.items()}
    params["first/kernel"][0, 0, 1, 2], params["first/kernel"][1, 1, 0, 6] = 3.0, 4.0
    np.testing.assert_allclose(space.norms(params)[0], [0, 0, 5, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("most", "multiple", "width", "physical"),
    [
        (64, 8, 8, 16),
        (64, 8, 48, 48),
        (64, 8, 56, 64),
        (64, 8, 0, 0),
        (10, 1, 7, 9),  # in steps of 3
        (10, 1, 10, 10),
        (24, 8, 16, 16),  # a quarter is less than the multiple
        (3, 1, 2, 2),
    ],
)
def test_physical_widths_are_rounded_up_to_quarters_of_the_parents(most, multiple, width, physical):
    space = dataclasses.replace(space_of("multiplied"), widths=(most,), multiple=(multiple,))
    assert space.coarse((width,)) == (physical,)


@pytest.mark.exhaustive
@pytest.mark.parametrize("width", [2, 3, 5, 7])
def test_channels_of_halves_stay_with_the_layers_that_read_them_at_any_width(width):
    """At odd widths too, where half of a shuffled half is no whole number."""
    rng = np.random.default_rng(width)
    keep = (np.isin(np.arange(8), rng.permutation(8)[:width]), np.arange(8) > 3)
    networks.assert_masked_equals_sliced(space_of("halves"), keep)


def test_channels_that_no_others_are_read_like_are_paired_with_any():
    """Of 6 shuffled halves more stay for two units than of 7."""
    space = space_of("halves")
    found = wiring.index(space.network, space.labels, space.wired, (7, 8), [np.arange(6), np.arange(8)])
    shapes = {path: leaf.shape for path, leaf in space.network.abstract((6, 8)).params.items()}
    for (path, axis), index in found.items():
        assert len(set(index.tolist())) == len(index) == shapes[path][axis]


@pytest.mark.parametrize(("name", "group", "multiple"), [("halves", "half", 1), ("swapped", "a", 2)])
def test_halves_that_the_least_width_would_leave_nothing_to_follow_of_are_refused(name, group, multiple):
    want = f"want at least {2 * multiple}: which half a channel is in is followed$"
    with pytest.raises(ConfigError, match=f"^net.multiple: {group} got {multiple}, {want}"):
        probe(networks.segmented(name), (multiple,))


@pytest.mark.parametrize("widths", [(1, 1), (3, 3), (8, 4)])
def test_concatenation_is_found_whatever_the_widths(widths):
    def make(w, rngs):
        return networks.UNet({"high": w["a"], "low": w["b"], "out": 4}, rngs)

    network = from_nnx("unet", make, dict(zip("ab", widths, strict=True)), networks.SHAPE)
    label = probe(network, (1,), check=False).labels["out/kernel"]
    assert label == (None, None, Row((Segment(0, 1), Segment(1, 1)), 1), None)


def entries(dim, widths):
    """Group and channel of each entry, written out."""
    groups, channels = [], []
    for _ in range(dim.repeat):
        for segment in segments.row(dim).segments:
            width = 1 if segment.group is None else widths[segment.group]
            for i in range(width):
                groups += [-1 if segment.group is None else segment.group] * segment.copies
                channels += [(i % segment.parts) * (width // segment.parts) + i // segment.parts] * segment.copies
    return np.array(groups), np.array(channels)


@st.composite
def rows(draw):
    """Rows of up to three segments, each of another group than the one beside it."""
    chosen = draw(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=3, unique=True))
    counts = [draw(st.integers(1, 3)) for _ in chosen]
    parts = [1 if g is None else draw(st.sampled_from([1, 2])) for g in chosen]
    return Row(tuple(map(Segment, chosen, counts, parts)), draw(st.integers(1, 3)))


@given(rows(), st.data())
def test_slicing_takes_the_entries_of_the_kept_channels_in_the_smaller_network_s_order(dim, data):
    few = [2 * data.draw(st.integers(1, 3)) for _ in range(3)]
    kept = [np.array(data.draw(st.permutations(range(8)))[:n]) for n in few]
    at = segments.index(dim, {0: 8, 1: 8, 2: 8}, kept)
    groups, channels = (found[at] for found in entries(dim, [8, 8, 8]))
    want_groups, ranks = entries(dim, few)
    np.testing.assert_array_equal(groups, want_groups)
    channel_of = [0 if g < 0 else kept[g][r] for g, r in zip(want_groups, ranks, strict=True)]
    np.testing.assert_array_equal(channels, channel_of)


@given(rows())
def test_the_row_behind_given_entries_is_found_again(dim):
    found = segments.fit(*entries(dim, [6, 10, 14]), [6, 10, 14])
    assert found is not None
    for widths in ([6, 10, 14], [4, 8, 2]):
        for got, want in zip(entries(segments.row(found), widths), entries(dim, widths), strict=True):
            np.testing.assert_array_equal(got, want)
