"""Few measurements find lanes that are nearly the fastest, and a round takes no more lanes than it can fill."""

import threading

import numpy as np
import pytest

from fednas_jax.engine import lane_plan
from fednas_jax.engine.lane_search import LADDER, Rung, fewest_lanes, ladder, search

# Lane-steps a second as devices may have them: saturating, falling where memory ends, flat, and rising to the last.
SATURATING = {n: 1e5 * n / (n + 40) for n in LADDER}
FALLING = {n: speed * (1 if n <= 128 else 0.2) for n, speed in SATURATING.items()}
FLAT = dict.fromkeys(LADDER, 5.0)
RISING = {n: float(n) for n in LADDER}
SMALL = {n: speed * (n <= 32) for n, speed in SATURATING.items()}


class Device:
    """Speeds from a table; each compilation and measurement takes its time on a clock of the device's own."""

    def __init__(self, table, measuring=0.5):
        self.table, self.measuring, self.now = table, measuring, 0.0
        self.prepared, self.measured = [], []
        self.lock = threading.Lock()

    def prepare(self, rung):
        with self.lock:
            self.prepared.append(rung)
        return rung if self.table(rung) else None

    def speed(self, rung):
        self.measured.append(rung)
        self.now += self.measuring
        return self.table(rung)

    def search(self, rungs=LADDER, names=("rows",), seconds=10.0):
        return search(rungs, names, self.prepare, self.speed, lambda: self.now, seconds)


@pytest.mark.parametrize("speeds", [SATURATING, FALLING, FLAT, RISING, SMALL])
def test_a_few_rungs_are_enough_to_come_within_a_tenth_of_the_best(speeds):
    device = Device(lambda rung: speeds[rung.lanes])
    found = device.search()
    assert max(found.of.values()) >= 0.9 * max(speeds.values())
    assert all(found.of[n] == speeds[n] for n in found.of)
    assert len(device.measured) <= 6 < len(LADDER)
    assert len(device.measured) == len(set(device.measured))


def test_lowerings_are_compared_at_one_number_of_lanes_and_only_the_fastest_goes_on():
    factor = {"rows": 1.0, "patches": 1.5, "shifts": 0.5, "grouped": 0.0}
    device = Device(lambda rung: factor[rung.lowering] * SATURATING[rung.lanes])
    found = device.search(names=tuple(factor))
    assert found.lowering == "patches"
    assert device.measured[:3] == [Rung(64, name) for name in ("rows", "patches", "shifts")]  # the last does not fit
    assert {rung.lowering for rung in device.measured[3:]} == {"patches"}


def test_a_lane_alone_is_what_is_measured_where_there_is_no_other():
    device = Device(lambda rung: 3.0)
    assert device.search((1,)).of == {1: 3.0}
    assert device.search((512,)).of == {512: 3.0}


def test_nothing_is_begun_when_the_time_is_out():
    device = Device(lambda rung: SATURATING[rung.lanes], measuring=4.0)
    found = device.search(seconds=10.0)
    assert len(device.measured) == 3
    assert set(found.of) == {rung.lanes for rung in device.measured}
    slow = Device(lambda rung: SATURATING[rung.lanes], measuring=60.0)
    assert len(slow.search(names=("shifts", "rows")).of) == len(slow.measured) == 1


def test_what_goes_wrong_in_a_thread_reaches_the_caller():
    def prepare(rung):
        raise ZeroDivisionError(rung)

    with pytest.raises(ZeroDivisionError):
        search((1, 2), ("rows",), prepare, lambda program: 1.0)


def test_the_ladder_has_no_more_lanes_than_there_are_tasks():
    assert ladder(1) == (1,)
    assert ladder(100) == (1, 2, 4, 8, 16, 32, 64)
    assert ladder(5000) == LADDER


def round_of(tasks):
    examples = np.random.default_rng(0).lognormal(np.log(120), 0.5, tasks).clip(20, 500)
    return np.ceil(examples / 20).astype(np.int32)


def padding(steps, lanes):
    steps = steps[: lane_plan.TASKS_PER_LANE * lanes]
    return 1 - steps.sum() / (lane_plan.segments(steps, lanes).length.sum() * lanes)


@pytest.mark.parametrize(
    ("speeds", "tasks", "want"),
    [
        (SATURATING, 2048, 256),
        (SATURATING, 64, 32),  # lanes for all would wait for the longest task
        (SATURATING, 1, 1),
        (FLAT, 2048, 1),  # one lane is as fast as any
        (SMALL, 2048, 32),
        ({1: 100.0}, 50, 1),
        ({64: 0.0, 16: 0.0}, 50, 16),  # nothing fits; less cannot be had
    ],
)
def test_a_round_takes_the_fewest_lanes_that_are_about_as_fast(speeds, tasks, want):
    assert fewest_lanes(round_of(tasks), speeds) == want


@pytest.mark.parametrize("speeds", [SATURATING, FALLING, FLAT, RISING])
@pytest.mark.parametrize("tasks", [8, 30, 128, 512, 2048])
def test_padding_exceeds_a_tenth_only_where_fewer_lanes_are_slower(speeds, tasks):
    steps = round_of(tasks)
    chosen = fewest_lanes(steps, speeds)

    def seconds(lanes):
        """Of all steps, at the speed of the lane-steps that have work."""
        return 1 / (speeds[lanes] * (1 - padding(steps, lanes)))

    if padding(steps, chosen) > 0.1:
        assert all(seconds(fewer) > 1.03 * seconds(chosen) for fewer in LADDER if fewer < chosen)


def test_speeds_between_two_measured_numbers_of_lanes_are_estimated():
    power = {n: n**0.3 for n in LADDER}
    chosen = [fewest_lanes(round_of(tasks), power) for tasks in (40, 100, 300)]
    assert chosen == [fewest_lanes(round_of(tasks), {n: power[n] for n in (1, 1024)}) for tasks in (40, 100, 300)]
    assert min(chosen) > 1, "else nothing was estimated"
    assert max(chosen) < 1024
