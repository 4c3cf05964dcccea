"""Lookup tables with a timer that counts instead of measuring: what they say is known by hand. Nothing is timed."""

import functools
import json
import math

import jax
import networks
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from fednas_jax.cli.app import main
from fednas_jax.config.schema import NetConfig, SearchConfig
from fednas_jax.errors import ConfigError, DeviceError
from fednas_jax.nets import build
from fednas_jax.runtime import timing as stopwatch
from fednas_jax.search import latency, lut
from fednas_jax.search.resources import goal_of
from fednas_jax.space.jaxprs import count_macs
from fednas_jax.space.probing import probe

CALL = 5e-6  # seconds that the fake machine needs for a call


def macs_of(function, shapes):
    """MACs of a function, from its trace."""
    jaxpr = jax.make_jaxpr(function)(*shapes).jaxpr

    def count(inner):
        total = 0
        for equation in inner.eqns:
            if equation.primitive.name == "dot_general":
                total += math.prod(equation.outvars[0].aval.shape) * equation.invars[0].aval.shape[-1]
            elif equation.primitive.name == "conv_general_dilated":
                image, kernel = (operand.aval.shape for operand in equation.invars)
                transposed = max(equation.params["lhs_dilation"]) > 1  # each input meets the kernel once
                windows = (image if transposed else equation.outvars[0].aval.shape)[:-1]
                total += math.prod(windows) * math.prod(kernel)
            total += sum(map(count, jaxprs_in_params(equation.params)))
        return total

    return count(jaxpr)


class Counter:
    """A timer of a machine of 1 MMAC/s: seconds are exact, calls are remembered."""

    def __init__(self):
        self.calls = 0

    def __call__(self, functions):
        self.calls += len(functions)
        return [CALL + macs_of(one.function, one.shapes) / 1e6 for one in functions]


@functools.cache
def cnn():
    return probe(build(NetConfig("cnn", widths=(4, 8, 16)), (8, 8, 1), 3), (2, 2, 4), check=False)


@functools.cache
def measured():
    timer = Counter()
    return latency.measure(cnn(), timer, points=3, networks=3), timer.calls


def test_a_table_says_of_any_network_what_the_machine_would():
    """MACs are products of a layer's widths, which linear interpolation along each axis meets exactly."""
    table, _ = measured()
    assert (table.base_ms, table.scale) == (pytest.approx(1e3 * CALL), pytest.approx(1.0))
    for widths in ((4, 8, 16), (2, 2, 4), (3, 5, 7), (4, 2, 12)):
        assert table(widths) == pytest.approx(1e3 * (CALL + count_macs(cnn().network, widths) / 1e6))
    np.testing.assert_allclose(table.errors, 0, atol=1e-9)
    assert [w.measured_ms for w in table.checked] == [
        pytest.approx(1e3 * (CALL + count_macs(cnn().network, w.widths) / 1e6)) for w in table.checked
    ]


def test_layers_that_read_several_groups_side_by_side_are_measured_for_each():
    table = latency.measure(probe(networks.segmented("unet"), (4,), check=False), Counter(), points=2, networks=2)
    assert table.layers[3].groups == ("high", "low", "out")
    for widths in ((8, 8, 8), (4, 8, 4), (8, 4, 8)):
        want = CALL + count_macs(networks.segmented("unet"), widths) / 1e6
        assert table(widths) == pytest.approx(1e3 * want)


def test_layers_know_their_groups_and_each_grid_point_is_measured_once():
    table, calls = measured()
    assert [layer.groups for layer in table.layers] == [("conv1",), ("conv1", "conv2"), ("conv2", "dense"), ("dense",)]
    assert [layer.points for layer in table.layers][1:3] == [((2, 4), (2, 4, 8)), ((2, 4, 8), (4, 8, 16))]
    assert table.layers[0].name == "convolution of 1x8x8x1 with 5x5x1x4"
    grid = 2 + 2 * 3 + 3 * 3 + 3
    assert calls == 1 + grid + (1 + 3) + 3  # an empty call, the layers, networks to fit to and to check with


def test_layers_that_compute_the_same_are_measured_once():
    """The residual network's classifier and others differ; its stem is alone. A twin layer costs no measurement."""
    from flax import nnx

    from fednas_jax.nets import from_nnx

    class Twins(nnx.Module):
        def __init__(self, widths, rngs):
            wide = widths["wide"]
            self.first = nnx.Linear(3, wide, rngs=rngs)
            self.second, self.third = (nnx.Linear(wide, wide, rngs=rngs) for _ in range(2))
            self.last = nnx.Linear(wide, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.third(nnx.relu(self.second(nnx.relu(self.first(x)))))))

    space = probe(from_nnx("twins", Twins, {"wide": 8}, (3,)), (4,), check=False)
    timer = Counter()
    table = latency.measure(space, timer, points=2, networks=2)
    assert timer.calls == 1 + 3 * 2 + 3 + 2
    assert table.layers[1].ms == table.layers[2].ms == (pytest.approx(0.016), pytest.approx(0.064))


@pytest.mark.exhaustive
def test_a_residual_networks_table_agrees_too():
    space = probe(networks.residual(), (2,), check=False)
    table = latency.measure(space, Counter(), points=3, networks=2)
    for widths in ((6, 4), (2, 2), (5, 3)):
        assert table(widths) == pytest.approx(1e3 * (CALL + count_macs(space.network, widths) / 1e6))


def test_a_table_is_read_back_as_it_was_written(tmp_path):
    table, _ = measured()
    path = tmp_path / "lut.json"
    path.write_text(json.dumps(lut.to_json(table)))
    again = lut.read(path, "search.resource")
    assert again == table
    assert json.loads(path.read_text())["relative_error"]["largest"] < 1e-9
    assert again((3, 5, 7)) == table((3, 5, 7))


def test_the_fit_finds_base_and_scale_and_never_a_negative_base():
    layers = np.asarray([1.0, 2.0, 5.0])
    assert latency.fitted(layers, 0.3 + 1.5 * layers) == (pytest.approx(0.3), pytest.approx(1.5))
    base, scale = latency.fitted(layers, 1.5 * layers - 0.3)
    assert base == 0
    ratios = layers / (1.5 * layers - 0.3)
    assert scale == pytest.approx(ratios.sum() / (ratios**2).sum())


def test_times_that_do_not_grow_with_the_layers_are_refused():
    with pytest.raises(
        DeviceError, match=r"^latency: got -1 ms of the network for each ms of its layers, want above 0"
    ):
        latency.fitted(np.asarray([1.0, 2.0, 3.0]), np.asarray([4.0, 3.0, 2.0]))


def test_a_narrower_layer_that_was_measured_slower_is_slower():
    layers = (lut.Layer("a", ("x",), ((8, 16, 24),), (0.2, 0.2, 0.1)),)
    assert lut.layers_ms(("x",), layers, [[8], [20], [24], [32]]) == pytest.approx([0.2, 0.15, 0.1, 0.1])


def test_a_layer_without_channels_takes_no_time():
    layers = (lut.Layer("a", ("x", "y"), ((2, 4), (3,)), ((1.0,), (2.0,))), lut.Layer("b", (), (), 7.0))
    many = np.asarray([[4, 3], [3, 3], [3, 1], [0, 3], [1, 3]])
    assert lut.layers_ms(("x", "y"), layers, many).tolist() == [9.0, 8.5, 8.5, 7.0, 8.0]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (None, "cannot be read: No such file or directory; want a table that fednas latency wrote"),
        ("{", "want a table that fednas latency wrote"),
        ("[]", "want a table that fednas latency wrote"),
        ('{"schema": 1}', "got 'unit', want a table that fednas latency wrote"),
        ('{"schema": 2, "unit": "ms", "batch": 1}', "got another schema or unit, want a table that fednas"),
        ("[" * 100_000, "want a table that fednas latency wrote"),
        ({"layers": [{}]}, "want a table that fednas latency wrote"),
        ({"scale": -9.0}, "ms at its own widths, want a table that"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(text, want, tmp_path):
    path = tmp_path / "lut.json"
    if isinstance(text, dict):  # a good table but for this
        text = json.dumps(lut.to_json(measured()[0]) | text)
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        lut.read(path, "search.resource")
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_writes_a_table_that_a_search_of_that_network_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stopwatch, "stopwatch", lambda repeats, pick, observe: Counter())
    out = tmp_path / "lut.json"
    numbers = ["--points", "2", "--networks", "2", "--net.widths", "4", "8", "16", "--net.multiple", "2", "2", "4"]
    assert main(["latency", "cnn", "--image", "8", "8", "1", "--classes", "3", "--out", str(out), *numbers]) == 0
    assert "error of the table: 0.0 % in the mean, 0.0 % at most" in capsys.readouterr().out
    goal = goal_of(cnn(), SearchConfig(resource=f"latency:{out}", budget=0.5))
    whole = 1e3 * (CALL + count_macs(cnn().network, (4, 8, 16)) / 1e6)
    assert goal.budgets == (pytest.approx(0.5 * whole),)
    assert goal.resources[0].unit == "ms"
