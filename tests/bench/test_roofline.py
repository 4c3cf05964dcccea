"""The bytes of a step are counted by hand here, layer by layer, and the floor is the larger of two times."""

import dataclasses

import jax
import pytest

from fednas_jax import nets
from fednas_jax.bench import machine, roofline
from fednas_jax.bench.workloads import CLASSES, WORKLOADS

CNN_PARAMETERS = 5 * 5 * 32 + 32 + 5 * 5 * 32 * 64 + 64 + 7 * 7 * 64 * 512 + 512 + 512 * 10 + 10
CNN_HANDED = 14 * 14 * 32 + 7 * 7 * 64 + 512  # each pooled convolution's output, and the dense layer's


def network_of(workload):
    network = nets.build(workload.net, workload.shape, CLASSES)
    return network, tuple(network.widths.values())


def test_a_step_of_the_paper_s_network_moves_its_weights_three_times_and_its_activations_twice():
    workload = WORKLOADS["fedavg-round"]
    counted = 3 * 4 * CNN_PARAMETERS + 20 * (2 * 4 * CNN_HANDED + 2 * 28 * 28)
    assert roofline.train_bytes(*network_of(workload), workload.train) == counted == 21_579_000


def test_momentum_is_read_and_written_and_bfloat16_halves_activations_alone():
    workload = WORKLOADS["nas-round"]
    half = dataclasses.replace(workload.train, precision="bfloat16")
    plain = 3 * 4 * CNN_PARAMETERS + 20 * 2 * 28 * 28
    momentum = 2 * 4 * CNN_PARAMETERS
    assert roofline.train_bytes(*network_of(workload), workload.train) == plain + momentum + 20 * 8 * CNN_HANDED
    assert roofline.train_bytes(*network_of(workload), half) == plain + momentum + 20 * 4 * CNN_HANDED


def test_a_value_that_several_layers_read_is_counted_once():
    """ResNet-20: 19 convolutions and the classifier read 20 inputs; skips read the same, and shortcuts cost nothing."""
    inputs = 7 * 32 * 32 * 16 + 6 * 16 * 16 * 32 + 5 * 8 * 8 * 64 + 64
    assert roofline.handed_on(*network_of(WORKLOADS["resnet-round"])) == inputs


def test_running_statistics_are_read_and_written():
    workload = WORKLOADS["mobilenet-round"]
    network, widths = network_of(workload)
    variables = network.abstract(widths)
    numbers = {kind: sum(leaf.size for leaf in getattr(variables, kind).values()) for kind in ("params", "stats")}
    assert numbers["stats"] > 0
    # Weights three times, momentum twice, statistics twice.
    kept = 4 * (5 * numbers["params"] + 2 * numbers["stats"])
    activations = 20 * (8 * roofline.handed_on(network, widths) + 2 * 32 * 32 * 3)
    assert roofline.train_bytes(network, widths, workload.train) == kept + activations


def test_scoring_reads_weights_once_for_each_task_and_images_once():
    network, widths = network_of(WORKLOADS["nas-round"])
    assert roofline.score_bytes(network, widths, 3, 100) == 3 * 4 * CNN_PARAMETERS + 100 * 28 * 28


@pytest.mark.parametrize(("flop", "moved", "least", "bound"), [(400, 10, 4, "arithmetic"), (100, 60, 6, "memory")])
def test_the_floor_is_the_larger_of_two_times(flop, moved, least, bound):
    found = roofline.Roofline(flop_per_second=100, bytes_per_second=10).judge(flop, moved, 8)
    assert (found["least_seconds"], found["share_of_roofline"], found["bound_by"]) == (least, least / 8, bound)


def test_copies_are_measured_on_all_devices_at_once(monkeypatch):
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**20})
    asked = []
    monkeypatch.setattr(machine, "_best_seconds", lambda work: asked.append(jax.block_until_ready(work())) or 0.5)
    assert machine.copy_limit(jax.devices()[:2]) == 2 * 2**20 * 2 / 0.5  # read and written, two devices
    assert [array.nbytes for array in asked[0]] == [2**20] * 2
    monkeypatch.undo()
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**16})
    assert machine.copy_limit(jax.devices()[:1]) > 0
