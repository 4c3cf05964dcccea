"""Trials of one process that share a fleet: each is an ordinary run in a thread of its own, and they take turns.

Only one thread runs at any time: a trial that asks its fleet for something hands the turn back. When all have asked,
what fits together is done together. So a run knows nothing of the others: it has its own folder, state, clock and
checkpoints, and one that ends, or fails, simply asks for nothing any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from fednas_jax.engine import mesh, shared
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.shared import AnyFleet, Partner, Shared, ToScore
from fednas_jax.run.loop import Machine
from fednas_jax.sweep.attempts import attempted
from fednas_jax.sweep.scheduling import Outcome

MEMORY = 0.5  # share of a device's memory that a pack may take


class Packed(NamedTuple):
    """A trial of a pack."""

    name: str
    path: str  # of its run
    config: dict[str, Any]  # resolved, as JSON values
    drop: str = ""  # the policy that may drop it early; '': none


class _Asked(NamedTuple):
    """What a trial waits for."""

    of: Partner | None  # None: for a fleet
    what: Any  # ToTrain or ToScore; the FleetSpec of a fleet


class _Abandoned(BaseException):
    """Ends a trial's thread when the pack ends before it."""


class _Trial:
    """A trial in a thread that runs only while `resume` waits."""

    def __init__(self, trial: Packed, should_stop: Callable[[], bool]):
        self.trial = trial
        self.lanes = int(trial.config["engine"]["lanes"])
        self.asked: _Asked | None = None
        self.outcome: Outcome | None = None
        self.seconds = 0.0  # of its turns and its part of what was done together
        self._since = 0.0
        self._error: BaseException | None = None
        self._reply: Any = None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        machine = Machine(self._fleet, lambda: self.seconds + time.perf_counter() - self._since)
        self._work = lambda: attempted(trial.config, trial.path, should_stop, trial.drop, machine)
        threading.Thread(target=self._run, name=f"trial-{trial.name}", daemon=True).start()

    def resume(self, reply: Any = None) -> None:
        """Gives the trial its turn, until it asks for something or is over.

        Args:
          reply: to what it asked for; an error is raised there.

        Raises:
          BaseException: the trial raised what is no error of a run.
        """
        self._reply, self.asked, self._since = reply, None, time.perf_counter()
        self._turn.release()
        self._back.acquire()
        self.seconds += time.perf_counter() - self._since
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Ends its thread."""
        with contextlib.suppress(_Abandoned):
            self.resume(_Abandoned())

    def ask(self, of: Partner | None, what: Any) -> Any:
        """Hands the turn back until there is an answer; called in the trial's thread."""
        self.asked = _Asked(of, what)
        self._back.release()
        self._turn.acquire()
        if isinstance(self._reply, BaseException):
            raise self._reply
        return self._reply

    def _fleet(self, spec: FleetSpec) -> AnyFleet:
        fleet: AnyFleet = self.ask(None, spec)
        return fleet

    def _run(self) -> None:
        self._turn.acquire()
        try:
            self.outcome = self._work()
        except BaseException as error:
            self._error = error
        finally:
            self._back.release()


def run_trials(trials: Sequence[Packed], should_stop: Callable[[], bool]) -> Iterator[Outcome]:
    """Runs trials side by side, as many at a time as fit into memory; a lone one as it would run by itself.

    Args:
      trials: to be run.
      should_stop: asked after every round of every trial; True lets all save.

    Yields:
      What became of each, as they end.
    """
    if len(trials) == 1:
        (one,) = trials
        yield attempted(one.config, one.path, should_stop, one.drop)._replace(trial=one.name)
        return
    waiting, live = deque(trials), list[_Trial]()
    try:
        while waiting:
            if should_stop():
                yield Outcome("stopped", trial=waiting.popleft().name)
                continue
            yield from _admit(waiting, live, should_stop)
            while live:
                for trial, reply in _answers(live):
                    yield from _resume(trial, reply, live)
    finally:
        for trial in live:
            trial.abandon()


def _admit(waiting: deque[Packed], live: list[_Trial], should_stop: Callable[[], bool]) -> Iterator[Outcome]:
    """Begins trials, at least one, until the next would not fit into memory."""
    room, largest, taken = MEMORY * mesh.memory_of(jax.local_devices()[0]), 0, 0
    while waiting and taken + largest <= room and not should_stop():
        trial = _Trial(waiting.popleft(), should_stop)
        live.append(trial)
        yield from _resume(trial, None, live)
        if trial.asked is not None:
            size = shared.bytes_of(trial.asked.what)
            largest, taken = max(largest, size), taken + size


def _resume(trial: _Trial, reply: Any, live: list[_Trial]) -> Iterator[Outcome]:
    """Gives a trial its turn; one that is over leaves."""
    try:
        trial.resume(reply)
    except BaseException:
        live.remove(trial)
        raise
    if trial.outcome is not None:
        live.remove(trial)
        yield trial.outcome._replace(trial=trial.trial.name)


def _answers(live: Sequence[_Trial]) -> list[tuple[_Trial, Any]]:
    """Answers what trials wait for: first for fleets, then for scores, so that they come together again to train."""
    asking = [(trial, trial.asked) for trial in live if trial.asked is not None]
    beginning = [trial for trial, asked in asking if asked.of is None]
    if beginning:
        return _with_fleets(beginning)
    scoring = [pair for pair in asking if isinstance(pair[1].what, ToScore)]
    alike: dict[Any, list[_Trial]] = {}
    for trial, asked in scoring or asking:
        assert asked.of is not None
        alike.setdefault((id(asked.of.shared), asked.what.physical_widths), []).append(trial)
    return [answer for some in alike.values() for answer in _together(some)]


def _with_fleets(trials: Sequence[_Trial]) -> list[tuple[_Trial, Any]]:
    """A fleet for each: a shared one for those that can share one."""
    alike: dict[Any, list[_Trial]] = {}
    for trial in trials:
        kind = shared.kind_of(_asked(trial).what, trial.lanes)
        alike.setdefault(trial if kind is None else kind, []).append(trial)
    answers: list[tuple[_Trial, Any]] = []
    for some in alike.values():
        specs, began = [_asked(trial).what for trial in some], time.perf_counter()
        try:
            found = Shared(specs, some[0].lanes) if len(some) > 1 else None
            if found is None or found.fleet.streams:  # all together are too large to lie on the devices
                raise _Alone
        except Exception:  # what is wrong with one is said to that one
            answers += [(trial, _lone(trial)) for trial in some]
            continue
        _share(some, [1] * len(some), time.perf_counter() - began)
        answers += [(t, Partner(found, n, spec, t.ask)) for n, (t, spec) in enumerate(zip(some, specs, strict=True))]
    return answers


class _Alone(Exception):
    """These do not share a fleet."""


def _together(trials: Sequence[_Trial]) -> list[tuple[_Trial, Any]]:
    """One program for all; where that fails, each by itself, so that nobody fails for another."""
    asked = [_asked(trial) for trial in trials]
    partners = [one.of for one in asked if one.of is not None]
    fleet, runs, what = partners[0].shared, [partner.run for partner in partners], [one.what for one in asked]
    call: Callable[..., Any] = fleet.evaluate if isinstance(what[0], ToScore) else fleet.train
    began = time.perf_counter()
    try:
        answers = call(runs, what)
    except Exception as error:
        if len(trials) == 1:
            return [(trials[0], error)]
        return [answer for trial in trials for answer in _together([trial])]
    _share(trials, [len(one.tasks.client) for one in what], time.perf_counter() - began)
    return list(zip(trials, answers, strict=True))


def _lone(trial: _Trial) -> Any:
    """A trial's own fleet, or the error; its own time."""
    began = time.perf_counter()
    try:
        return Fleet(_asked(trial).what)
    except Exception as error:
        return error
    finally:
        trial.seconds += time.perf_counter() - began


def _share(trials: Sequence[_Trial], parts: Sequence[int], seconds: float) -> None:
    """Charges each trial with its part of the seconds."""
    for trial, part in zip(trials, parts, strict=True):
        trial.seconds += seconds * part / max(1, sum(parts))


def _asked(trial: _Trial) -> _Asked:
    assert trial.asked is not None
    return trial.asked
