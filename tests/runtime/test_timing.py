"""The stopwatch takes turns, picks among the runs, holds little at once. How long anything takes is the machine's."""

import statistics
import time

import jax
import numpy as np

from fednas_jax.runtime import timing as stopwatch
from fednas_jax.runtime.timing import Timed


def product(size):
    shapes = [{"a": jax.ShapeDtypeStruct((size, 3), np.float32)}, jax.ShapeDtypeStruct((3,), np.float32)]
    return Timed(f"product {size}", lambda x, y: x["a"] @ y, shapes)


def test_it_runs_all_in_turns_and_picks_among_each_ones_runs(monkeypatch):
    seen, ran = [], []

    def pick(seconds):
        seen.append(list(seconds))
        return statistics.median(seconds)

    def run(function, calls, arguments, whole=stopwatch._run):
        ran.append(arguments[0]["a"].shape[0])
        return whole(function, calls, arguments)

    monkeypatch.setattr(stopwatch, "_run", run)
    found = stopwatch.stopwatch(4, pick, least_seconds=1e-9)([product(2), product(5)])
    assert ran[-16:] == [2, 2, 5, 5] * 4  # each first once unseen, to warm up
    assert [len(seconds) for seconds in seen] == [4, 4]
    assert found == [statistics.median(seconds) for seconds in seen]
    assert min(map(min, seen)) > 0


def test_short_functions_are_called_often_in_a_run(monkeypatch):
    calls = []

    def run(function, number, arguments):
        calls.append(number)
        return 1e-5

    monkeypatch.setattr(stopwatch, "_run", run)
    assert stopwatch.stopwatch(1, least_seconds=1e-3)([product(2)]) == [1e-5]
    assert calls == [2, 3, 1, 100]


def test_it_holds_no_more_than_what_fits_at_once_and_says_what_it_does(monkeypatch):
    said = []
    monkeypatch.setattr(stopwatch, "MOST_BYTES", 4 * (3 * 9 + 3))
    sizes = [2, 5, 9, 30, 1]  # 36, 72, 120, 372 and 24 bytes
    assert [[t.shapes[0]["a"].shape[0] for t in lot] for lot in stopwatch._lots(list(map(product, sizes)))] == [
        [2, 5],
        [9],
        [30],
        [1],
    ]
    assert len(stopwatch.stopwatch(2, observe=said.append)(list(map(product, sizes)))) == 5
    assert said[0] == "compiling 1 of 5: product 2"
    assert said[3] == "timing 1 to 2 of 5, turn 2"
    assert said[-1] == "timing 5 to 5 of 5, turn 2"


def test_seconds_are_those_of_one_call(monkeypatch):
    monkeypatch.setattr(stopwatch, "_prepared", lambda one, least: (one.function, [], 2))
    clock = iter(range(100))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    # The clock says a second for each run, warm or timed, of two calls.
    assert stopwatch.stopwatch(3)([Timed("nothing", lambda: None, [])]) == [0.5]
