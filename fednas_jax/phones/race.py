"""A round as it really goes: who is taken, who is late, who works in vain."""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

import numpy as np

from fednas_jax.config.schema import ParticipationConfig


class Outcome(NamedTuple):
    """What became of T tasks."""

    done: np.ndarray  # [T, 3] shares of download, training and upload that were done; [T, 2] of download, evaluation
    used: np.ndarray  # [T] bool: its update is averaged, or its score is counted
    cut: np.ndarray  # [T] bool: its client went away, or the server closed the round, before it was done
    seconds: float  # from the beginning to the last client taken, or to the deadline where somebody was late


def outcome(
    config: ParticipationConfig,
    candidate: np.ndarray,
    client: np.ndarray,
    steps: np.ndarray,
    seconds: np.ndarray,
    leaves: np.ndarray,
    gone: np.ndarray,
    wanted: np.ndarray,
) -> Outcome:
    """Plays a round of training.

    A phone does its tasks one after another. A candidate closes when as many as are wanted have sent their updates:
    who is still at it stops there and goes on with its next task. Who goes away stops at that moment and does not come
    back. At the deadline all stop.

    Args:
      config: overcommitment and deadline.
      candidate: [T].
      client: [T].
      steps: [T] local steps, at least 1.
      seconds: [T, 3] of download, training and upload.
      leaves: [C] share of all its steps after which a client leaves; infinite: it stays.
      gone: [C] seconds after the round's beginning when a client goes away; infinite: it stays.
      wanted: [candidates] updates of each; 0, where all that there are were invited: 1 / overcommitment of these.
    """
    done = _planned(client, steps, leaves)
    names, place = np.unique(candidate, return_inverse=True)
    invited = np.bincount(place, minlength=len(names))
    share = np.maximum(1, np.floor(invited / config.overcommit + 1e-9))
    wanted = np.where(wanted[names] > 0, np.minimum(wanted[names], invited), share)
    deadline = np.inf if config.deadline_seconds is None else config.deadline_seconds
    return _played(done, seconds, place, client, wanted, deadline, gone, config.spells)


def scored(candidate: np.ndarray, client: np.ndarray, seconds: np.ndarray, gone: np.ndarray, paired: bool) -> Outcome:
    """Plays a round of scoring, in which nobody is cut or late, but may go away.

    Args:
      candidate: [T].
      client: [T].
      seconds: [T, 2] of download and evaluation.
      gone: [C] seconds after the beginning when a client goes away; infinite: it stays.
      paired: candidates are compared on the same clients: who has not scored all of its own was not used.
    """
    names, place = np.unique(candidate, return_inverse=True)
    wanted = np.bincount(place, minlength=len(names))
    found = _played(np.ones_like(seconds), seconds, place, client, wanted, np.inf, gone, True)
    if paired:
        missed = np.zeros(len(gone), bool)
        missed[client[~found.used]] = True
        found = found._replace(used=found.used & ~missed[client])
    return found


def _played(
    done: np.ndarray,
    seconds: np.ndarray,
    place: np.ndarray,
    client: np.ndarray,
    wanted: np.ndarray,
    deadline: float,
    gone: np.ndarray,
    closes: bool,
) -> Outcome:
    """Plays tasks of which the shares `done` [T, P] of P phases are done where the clock stops nobody.

    Where clients come and go by the clock (`closes`), nobody works on when the round is over. Elsewhere the waste of a
    client that leaves depends on its steps alone, not on anybody's speed, so that a run can be priced again.
    """
    complete = done[:, -1] == 1
    spent = done * seconds
    race = _Race(place, client, done[:, 0] > 0, complete, spent.sum(1), wanted, deadline, gone)
    race.run()
    last = race.end[race.used].max() if race.used.any() else race.end.max(initial=0.0)
    elapsed = race.elapsed
    if closes and not race.late:
        # When the last update is there that the server will get, the round is over: who would have left later stops.
        until = np.clip(last - (race.end - race.elapsed), 0, race.elapsed)
        elapsed = np.where(race.used, race.elapsed, until)
    cut = elapsed < spent.sum(1)
    cut &= ~race.used
    before = np.cumsum(spent, axis=1) - spent
    part = np.clip(elapsed[:, None] - before, 0, spent)
    share = np.divide(part, seconds, out=np.zeros_like(seconds), where=seconds > 0)
    done = np.where(cut[:, None], share, done)
    return Outcome(done, race.used, cut, float(deadline if race.late else last))


def _planned(client: np.ndarray, steps: np.ndarray, leaves: np.ndarray) -> np.ndarray:
    """[T, 3] shares of each task that are done if nobody stops it: all, unless its client leaves."""
    order = np.argsort(client, kind="stable")
    ordered = steps[order].astype(np.int64)
    until = np.cumsum(ordered)
    first = np.searchsorted(client[order], client[order])
    base = until[first] - ordered[first]
    before = np.empty(len(client), np.int64)
    before[order] = until - ordered - base
    whole = np.bincount(client, steps, len(leaves))[client]
    last = np.where(np.isfinite(leaves[client]), np.floor(leaves[client] * whole), whole)
    trained = np.clip(last - before, 0, steps)
    begun = (last > before) | (before == 0)
    return np.stack([begun, trained / steps, trained == steps], axis=1).astype(np.float64)


class _Race:
    """The round's events in the order of time; ties by the client's number."""

    def __init__(
        self,
        candidate: np.ndarray,
        client: np.ndarray,
        begun: np.ndarray,
        complete: np.ndarray,
        spent: np.ndarray,
        wanted: np.ndarray,
        deadline: float,
        gone: np.ndarray,
    ):
        self.candidate, self.complete, self.spent = candidate, complete, spent
        self.wanted, self.deadline, self.gone = wanted.astype(int), deadline, gone
        self.used = np.zeros(len(client), bool)
        self.elapsed, self.end = np.zeros(len(client)), np.zeros(len(client))
        self.late = False
        self.open = np.ones(len(wanted), bool)
        self.waiting: dict[int, deque[int]] = {}
        for task, who in enumerate(client.tolist()):
            queue = self.waiting.setdefault(who, deque())
            if begun[task]:
                queue.append(task)
        self.busy: dict[int, tuple[int, float]] = {}  # client: its task and when it began
        self.at_work: list[set[int]] = [set() for _ in wanted]  # clients that are busy with each candidate
        self.events: list[tuple[float, int, int]] = []

    def run(self) -> None:
        """Plays until nobody works any more."""
        for who in self.waiting:
            self._next(who, 0.0)
        while self.events:
            now, who, task = heapq.heappop(self.events)
            if self.busy.get(who, (-1, 0))[0] != task:
                continue  # it was stopped before
            if now > self.deadline:
                break
            away = self._stop(who, now)
            if away or not self.complete[task]:
                continue  # it left, and does not come back
            k = self.candidate[task]
            self.used[task] = True
            self.wanted[k] -= 1
            if not self.wanted[k]:
                self.open[k] = False
                for other in sorted(self.at_work[k]):
                    self._stop(other, now)
                    self._next(other, now)
            self._next(who, now)
        self.late = bool(self.busy)
        for who in list(self.busy):
            self._stop(who, self.deadline)

    def _next(self, who: int, now: float) -> None:
        queue = self.waiting[who]
        while queue and not self.open[self.candidate[queue[0]]]:
            queue.popleft()
        if queue and now < self.gone[who]:
            task = queue.popleft()
            self.busy[who] = (task, now)
            self.at_work[self.candidate[task]].add(who)
            heapq.heappush(self.events, (min(now + float(self.spent[task]), float(self.gone[who])), who, task))

    def _stop(self, who: int, now: float) -> bool:
        """Ends what a client is at; says whether before it was done."""
        task, began = self.busy.pop(who)
        self.at_work[self.candidate[task]].discard(who)
        # A task that was not stopped takes what it takes, to the last bit.
        finished = now == began + float(self.spent[task])
        self.elapsed[task] = self.spent[task] if finished else now - began
        self.end[task] = now
        return not finished
