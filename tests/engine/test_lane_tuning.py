"""Lanes are measured once, bounded by work and memory, and remembered."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine import lane_steps
from fednas_jax.engine import lane_tuning as tuning
from fednas_jax.engine.lane_search import Rung
from fednas_jax.engine.lane_tuning import Choice
from fednas_jax.errors import RunError
from fednas_jax.nets import conv, lowerings
from fednas_jax.space.training_macs import training_layer_macs

TRAIN = TrainConfig(batch_size=4)
AUTO = Choice(0, "auto")


@pytest.fixture(scope="module")
def network():
    return nets.build(NetConfig("cnn", (2, 2, 4)), (8, 8, 1), 10)


@pytest.fixture
def measured(monkeypatch):
    """Even rounds as small as these are measured."""
    monkeypatch.setattr(tuning, "SMALL", 0)


@pytest.fixture
def speeds(measured, monkeypatch):
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
    for damage in ('{"lan', '{"lanes": 0}', '{"lanes": 1e999}', '{"lanes": 5}', '{"lanes": "4"}'):
        file.write_text(damage)
        assert lanes(network, 99, tmp_path) == 1
    assert speeds[1] == [1, 4] * 6


def test_a_measurement_is_a_speed_and_sees_what_does_not_fit(network, monkeypatch):
    monkeypatch.setattr(lane_steps, "LEAST_SECONDS", 0.001)
    device = jax.devices()[0]
    assert tuning._speed(network, TRAIN, device, 2, 1 << 30, False) > 0
    assert tuning._speed(network, TRAIN, device, 2, 100, False) == 0


def test_a_measurement_is_of_the_lowering_in_use(network):
    with lowerings.using("shifts"):
        shifts = tuning.compiled_steps(network, TRAIN, jax.devices()[0], 2)
    rows = tuning.compiled_steps(network, TRAIN, jax.devices()[0], 2)
    dots = [program.run.as_text().count(" dot(") for program in (shifts, rows)]
    assert dots[0] > dots[1]
    assert shifts.bytes > 0


@pytest.fixture
def accelerator(measured, monkeypatch):
    """A device that is no CPU, fastest with patches; and what was measured of it."""
    made = []

    def program(network, config, device, number):
        rung = Rung(number, lowerings.in_use())

        def speed():
            made.append(rung)
            return {"rows": 1.0, "patches": 2.0}.get(rung.lowering, 0.5) * rung.lanes / (rung.lanes + 4)

        return SimpleNamespace(lanes=number, bytes=number, speed=speed)

    monkeypatch.setattr(tuning, "compiled_steps", program)
    monkeypatch.setattr(conv, "agrees", lambda *_: True)
    return SimpleNamespace(platform="gpu", device_kind="fake"), made


def chosen(network, device, wanted=AUTO, tasks=200, folder=None, memory=1 << 30):
    return tuning.choice(network, TRAIN, device, memory, np.full(tasks, 5), wanted, folder)


def test_an_accelerator_chooses_lanes_and_lowering_and_remembers_them(network, accelerator, tmp_path):
    device, made = accelerator
    found = chosen(network, device, folder=tmp_path)
    assert found.lowering == "patches"
    assert 16 <= found.lanes <= 128
    number = len(made)
    assert {rung.lowering for rung in made} == set(lowerings.LOWERINGS)
    assert chosen(network, device, folder=tmp_path) == found
    assert len(made) == number
    (file,) = tmp_path.iterdir()
    for damage in (
        '{"lower',
        "[1]",
        '{"lowering": "winograd", "speeds": {"1": 2}}',
        '{"lowering": "rows", "speeds": {}}',
        '{"lowering": "rows", "speeds": {"1": 2, "2": -1}}',
        '{"lowering": "rows", "speeds": {"1": NaN}}',
    ):
        file.write_text(damage)
        assert chosen(network, device, folder=tmp_path) == found
    assert len(made) == 7 * number


def test_what_is_set_by_hand_is_not_measured(network, accelerator):
    device, made = accelerator
    assert chosen(network, device, Choice(3, "shifts")) == (3, "shifts")
    assert made == []
    assert chosen(network, device, Choice(3, "auto")) == (3, "patches")
    assert {rung.lanes for rung in made} == {3}
    made.clear()
    assert chosen(network, device, Choice(0, "shifts")).lowering == "shifts"
    assert {rung.lowering for rung in made} == {"shifts"}


def test_lanes_of_an_accelerator_are_bounded_by_memory_and_work(network, accelerator):
    device, _ = accelerator
    assert chosen(network, device, memory=20).lanes <= 10
    assert chosen(network, device, tasks=3).lanes <= 2
    assert chosen(network, device, tasks=1) == (1, lowerings.DEFAULT)


def test_a_rung_that_the_device_refuses_is_not_taken(network, accelerator, monkeypatch):
    device, _ = accelerator
    working = tuning.compiled_steps

    def program(network, config, device, number):
        if lowerings.in_use() == "patches":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return working(network, config, device, number)

    monkeypatch.setattr(tuning, "compiled_steps", program)
    assert chosen(network, device).lowering == "rows"


def test_what_is_made_for_one_platform_need_not_compile_and_what_is_asked_for_must(network, accelerator, monkeypatch):
    device, _ = accelerator
    working = tuning.compiled_steps

    def program(network, config, device, number):
        if lowerings.in_use() == refused:
            raise NotImplementedError("no such backend")
        return working(network, config, device, number)

    monkeypatch.setattr(tuning, "compiled_steps", program)
    refused = "fused"
    assert chosen(network, device).lowering == "patches"
    with pytest.raises(NotImplementedError):
        chosen(network, device, Choice(0, "fused"))
    refused = "shifts"
    with pytest.raises(NotImplementedError):
        chosen(network, device)


def test_a_kernel_of_our_own_must_agree_with_others_before_it_is_measured(network, accelerator, monkeypatch):
    device, made = accelerator
    monkeypatch.setattr(conv, "agrees", lambda *_: False)
    chosen(network, device)
    assert {rung.lowering for rung in made} == set(lowerings.LOWERINGS) - {"fused"}
    with pytest.raises(RunError, match="fused computes other numbers here than rows"):
        chosen(network, device, Choice(0, "fused"))


def test_a_cpu_measures_no_lowerings(network, speeds):
    speeds[0].update({1: 100, 4: 350, 16: 360})
    cpu = jax.devices()[0]
    assert chosen(network, cpu) == (4, lowerings.DEFAULT)
    assert chosen(network, cpu, Choice(2, "grouped")) == (2, "grouped")
    assert speeds[1] == [1, 4, 16]


def test_a_round_too_small_to_pay_for_it_is_not_measured(network, accelerator, monkeypatch):
    device, made = accelerator
    of_example = sum(training_layer_macs(network, (2, 2, 4)))
    monkeypatch.setattr(tuning, "SMALL", 200 * 5 * TRAIN.batch_size * of_example + 1)
    assert chosen(network, jax.devices()[0]) == (1, lowerings.DEFAULT)
    assert chosen(network, device) == (128, lowerings.DEFAULT)  # 2 x 5 steps, as with 256 lanes
    assert chosen(network, device, tasks=3) == (2, lowerings.DEFAULT)
    weights = 4 * sum(a.size for a in jax.tree.leaves(network.abstract((2, 2, 4))))
    assert chosen(network, device, memory=2 * tuning.COPIES * weights * 7) == (7, lowerings.DEFAULT)
    assert chosen(network, device, memory=1) == (1, lowerings.DEFAULT)
    assert chosen(network, device, Choice(0, "shifts")) == (128, "shifts")
    assert made == []
    assert chosen(network, device, Choice(3, "auto")) == (3, "patches")
    assert chosen(network, device, tasks=201).lowering == "patches"


@pytest.mark.parametrize("wanted", [Choice(0, "fused"), Choice(3, "fused")])
def test_a_kernel_of_our_own_that_is_asked_for_must_agree_even_where_nothing_is_measured(
    network, accelerator, monkeypatch, wanted
):
    monkeypatch.setattr(tuning, "SMALL", np.inf)
    monkeypatch.setattr(conv, "agrees", lambda *_: False)
    with pytest.raises(RunError, match="fused computes other numbers here than rows"):
        chosen(network, accelerator[0], wanted)


@pytest.mark.parametrize(
    "error", [ImportError("no triton"), jax.errors.JaxRuntimeError("INTERNAL: too old\nat line 1")]
)
def test_a_kernel_of_our_own_that_cannot_be_had_is_one_line_where_it_is_asked_for(
    network, accelerator, monkeypatch, error
):
    def agrees(*_):
        raise error

    monkeypatch.setattr(conv, "agrees", agrees)
    device, made = accelerator
    with pytest.raises(
        RunError, match=r"^engine\.lowering: fused does not work here: \w+: (no triton|INTERNAL: too old)$"
    ):
        chosen(network, device, Choice(3, "fused"))
    assert chosen(network, device).lowering == "patches"
    assert {rung.lowering for rung in made} == set(lowerings.LOWERINGS) - {"fused"}
