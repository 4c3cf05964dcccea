"""What jax does by itself computes the fleet's round, and is lax's alone."""

import jax
import numpy as np
import pytest
from small_rounds import NETS, small

from fednas_jax import nets
from fednas_jax.bench import plain
from fednas_jax.bench.rounds import Federation, FleetRounds
from fednas_jax.bench.workloads import CLASSES
from fednas_jax.config.schema import EngineConfig
from fednas_jax.nets import conv


@pytest.mark.parametrize(
    "name", ["nas-round", *(pytest.param(n, marks=pytest.mark.exhaustive) for n in list(NETS)[1:])]
)
def test_clients_side_by_side_compute_the_fleet_s_round(name):
    f = Federation(small(name, 4), 4, 1)
    rate = f.workload.train.learning_rate * (1 - f.workload.train.momentum)
    start = f.start()
    work = FleetRounds(f, EngineConfig(lanes=2), jax.devices()[:1])
    fleet = work.fleet.train(f.widths, start, work.server, f.first(4), f.moment(1), f.names, rate).stack
    rounds = plain.PlainRounds(f, 2, 4, jax.devices()[0])
    assert len({int(s) for s in rounds.steps}) > 1
    sideways = rounds.train(jax.device_put(start), f.moment(1), rate)
    for ours, theirs in zip(jax.tree.leaves(fleet), jax.tree.leaves(sideways), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), sideways.params, start.params)
    assert min(moved.values()) > 0
    longest = [max(rounds.steps[:2]), max(rounds.steps[2:])]
    pieces = f.workload.candidates * f.workload.rounds
    assert rounds.examples == 2 * sum(longest) * f.workload.train.batch_size * pieces
    assert rounds() > 0


def test_nothing_of_the_project_s_own_lowerings_is_left(monkeypatch):
    """Under vmap with weights of its own for each lane, lax's convolution stays one."""
    net, shape, _ = NETS["nas-round"]
    network = nets.build(net, shape, CLASSES)
    widths = tuple(network.widths.values())
    lanes = jax.tree.map(lambda a: jax.ShapeDtypeStruct((3, *a.shape), a.dtype), network.abstract(widths))
    images = jax.ShapeDtypeStruct((3, 5, *shape), np.float32)

    def lowered(network):
        forward = jax.vmap(lambda v, x: network.apply(widths, v, x, train=True)[0])
        return str(jax.make_jaxpr(forward)(lanes, images))

    assert conv.conv_general_dilated is not jax.lax.conv_general_dilated
    assert lowered(plain.Plain(network)).count("conv_general_dilated") == 2
    assert "conv_general_dilated" not in lowered(network)
