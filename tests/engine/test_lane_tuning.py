"""Lanes are measured once, bounded by work and memory, and remembered."""

import jax
import pytest

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine import lane_tuning as tuning

TRAIN = TrainConfig(batch_size=4)


@pytest.fixture(scope="module")
def network():
    return nets.build(NetConfig("cnn", (2, 2, 4)), (8, 8, 1), 10)


@pytest.fixture
def speeds(monkeypatch):
    """What a measurement finds, by lanes; and which were made."""
    found, made = {}, []

    def speed(network, config, device, number, memory, needed):
        made.append(number)
        return found[number]

    monkeypatch.setattr(tuning, "_speed", speed)
    return found, made


def lanes(network, most, folder=None, config=TRAIN, memory=1 << 30):
    return tuning.lanes(network, config, jax.devices()[0], memory, most, folder)


@pytest.mark.parametrize(
    ("found", "most", "want", "made"),
    [
        ({1: 100, 4: 105}, 999, 1, [1, 4]),
        ({1: 100, 4: 350, 16: 1200, 64: 1250}, 999, 16, [1, 4, 16, 64]),
        ({1: 100, 4: 350, 16: 1200, 64: 0}, 5000, 16, [1, 4, 16, 64]),  # 0: does not fit the memory
        ({1: 100, 4: 350, 16: 1200}, 63, 16, [1, 4, 16]),  # there is no work for 64
        ({}, 3, 1, []),
    ],
)
def test_it_climbs_as_long_as_more_lanes_are_worth_it(network, speeds, found, most, want, made):
    speeds[0].update(found)
    assert lanes(network, most) == want
    assert speeds[1] == made


def test_an_answer_is_remembered_for_the_same_work_only(network, speeds, tmp_path):
    speeds[0].update({1: 100, 4: 350, 16: 360})
    folder = tmp_path / "new"
    assert lanes(network, 99, folder) == 4
    assert lanes(network, 99, folder) == 4
    assert speeds[1] == [1, 4, 16]
    assert lanes(network, 3, folder) == 1  # what is remembered may be more than there is work for
    assert lanes(network, 99, folder, TrainConfig(batch_size=5)) == 4
    assert speeds[1] == [1, 4, 16] * 2


def test_a_climb_that_ended_for_want_of_work_is_not_remembered(network, speeds, tmp_path):
    speeds[0].update({1: 100, 4: 350, 16: 1200, 64: 1201})
    assert lanes(network, 10, tmp_path) == 4
    assert lanes(network, 99, tmp_path) == 16


def test_a_damaged_memory_is_measured_again(network, speeds, tmp_path):
    speeds[0].update({1: 100, 4: 100})
    lanes(network, 99, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text('{"lan')
    assert lanes(network, 99, tmp_path) == 1
    assert speeds[1] == [1, 4, 1, 4]


def test_a_measurement_is_a_speed_and_sees_what_does_not_fit(network, monkeypatch):
    monkeypatch.setattr(tuning, "LEAST_SECONDS", 0.001)
    device = jax.devices()[0]
    assert tuning._speed(network, TRAIN, device, 2, 1 << 30, False) > 0
    assert tuning._speed(network, TRAIN, device, 2, 100, False) == 0
