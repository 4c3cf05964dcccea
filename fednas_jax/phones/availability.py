"""Who is there, who is taken, who works in vain: a round of phones that are away, late, or leave in its midst.

Host code, numpy only; everything is a function of (seed, purpose, stage, iteration, round) and the simulated time.
Letters: C clients, T tasks of a round, in the order in which each phone does its own: one thing at a time.
"""

from __future__ import annotations

import csv
import heapq
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fednas_jax.config.schema import ParticipationConfig
from fednas_jax.errors import ConfigError
from fednas_jax.seeds import Purpose, generator

# Intervals of each kind that are drawn for a client, after which it begins again. Their number decides how much clients
# differ in the share of time that they are there. With 64: p5 to p95 0.005, 0.009, 0.024, 0.058, 0.13, 0.26, 0.36;
# FLHetBench's 710 users have 0.000, 0.001, 0.013, 0.055, 0.131, 0.255, 0.324 (statistics of traces without a licence).
SPELLS = 64
NORMAL_90 = 1.2815515655446004  # the normal distribution's 90th percentile
MOST_LOOKS = 100_000  # times that the server looks whether anybody is there
# Seconds to the end of a spell that count as none. A round can end with a spell, and rounding of the sum of all rounds
# (up to 1e10 s, known to 2e-6) must not leave its client there for an instant in which nothing can be done.
INSTANT = 1e-3


class Presence(NamedTuple):
    """When clients are there: for each client spells, one after another, in a cycle of its own."""

    config: ParticipationConfig
    clients: int
    seed: int
    client: np.ndarray  # [S] whose spell; sorted by client, then start
    start: np.ndarray  # [S] seconds after the beginning of the client's cycle
    end: np.ndarray  # [S]
    cycle: np.ndarray  # [C] seconds
    offset: np.ndarray  # [C] where in its cycle a client is at time 0


def presence(config: ParticipationConfig, clients: int, seed: int) -> Presence:
    """Prepares what `there` reads.

    Raises:
      ConfigError: a trace that cannot be read or has clients that the data doesn't.
    """
    if config.availability == "trace":
        assert config.trace is not None, "validate asks for it"
        client, start, end = _read_trace(config.trace, clients)
        return Presence(
            config, clients, seed, client, start, end, np.full(clients, end.max()), np.zeros(clients, np.float64)
        )
    if config.availability == "intervals":
        luck = generator(seed, Purpose.AVAILABLE)
        normal = luck.standard_normal((2, clients, SPELLS))
        away, ready = (
            median * np.exp(np.log(high / median) / NORMAL_90 * z)
            for (median, high), z in zip((config.away_seconds, config.ready_seconds), normal, strict=True)
        )
        end = np.cumsum(away + ready, axis=1)
        cycle = end[:, -1]
        # A client is met at any time of its cycle: long gaps are met more often than short ones.
        offset = luck.uniform(size=clients) * cycle
        who = np.repeat(np.arange(clients), SPELLS)
        return Presence(config, clients, seed, who, (end - ready).ravel(), end.ravel(), cycle, offset)
    none = np.zeros(0)
    return Presence(config, clients, seed, none.astype(int), none, none, np.ones(clients), np.zeros(clients))


def there(now: Presence, moment: tuple[int, ...], clock: float) -> tuple[np.ndarray, float]:
    """Who is there [C] bool when a round begins, and the seconds that the server waited until anybody was.

    Args:
      now: `presence`'s.
      moment: numbers of the round.
      clock: simulated seconds since the run's beginning.

    Raises:
      ConfigError: nobody comes, however long the server waits.
    """
    config = now.config
    if config.availability == "always":
        return np.ones(now.clients, bool), 0.0
    for look in range(MOST_LOOKS):
        waited = look * config.wait_seconds
        if config.availability == "bernoulli":
            luck = generator(now.seed, Purpose.AVAILABLE, *moment, look)
            found = luck.uniform(size=now.clients) < config.available
        else:
            found = stays(now, clock + waited) > 0
        if found.any():
            return found, waited
    raise ConfigError(
        f"participation.availability: got {config.availability} with nobody there in {MOST_LOOKS} looks, want a client"
    )


def stays(now: Presence, clock: float) -> np.ndarray:
    """Seconds [C] for which each client stays from now on: 0 for who is away, infinite where nobody goes by the clock.

    Args:
      now: `presence`'s.
      clock: simulated seconds since the run's beginning.
    """
    if not now.config.spells:
        return np.full(now.clients, np.inf)
    at = (clock + now.offset[now.client]) % now.cycle[now.client]
    here = (now.start <= at) & (at < now.end)
    left = np.zeros(now.clients)
    left[now.client[here]] = (now.end - at)[here]
    # A spell that lasts to the end of the cycle goes on with one that begins it.
    again = np.zeros(now.clients)
    again[now.client[now.start == 0]] = now.end[now.start == 0]
    on = now.client[here & (now.end == now.cycle[now.client])]
    left[on] += np.where(again[on] == now.cycle[on], np.inf, again[on])
    return np.where(left < INSTANT, 0.0, left)


def invited(
    now: Presence, moment: tuple[int, ...], present: np.ndarray, group_of: np.ndarray, wanted: int
) -> np.ndarray:
    """Whom the server invites [C] bool: in each group `wanted` times the overcommitment of those who are there.

    Args:
      now: `presence`'s.
      moment: numbers of the round.
      present: [C] bool.
      group_of: [C] group that each client is sampled in.
      wanted: clients of each group; 0: all that are there.
    """
    if not wanted:
        return present
    most = int(np.ceil(wanted * now.config.overcommit - 1e-9))
    luck = generator(now.seed, Purpose.INVITE, *moment).uniform(size=now.clients)
    order = np.lexsort((luck, ~present, group_of))
    first = np.searchsorted(group_of[order], group_of[order])
    chosen = np.zeros(now.clients, bool)
    chosen[order] = np.arange(now.clients) - first < most
    return chosen & present


def leaving(now: Presence, moment: tuple[int, ...]) -> np.ndarray:
    """The share of its steps in this round after which each client leaves [C]; infinite for those who stay."""
    if not now.config.dropout:
        return np.full(now.clients, np.inf)
    luck = generator(now.seed, Purpose.DROPOUT, *moment).uniform(size=(2, now.clients))
    return np.where(luck[0] < now.config.dropout, luck[1], np.inf)


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
) -> Outcome:
    """Plays a round of training.

    A phone does its tasks one after another. A candidate closes when the first 1 / overcommitment of those invited for
    it have sent their updates: who is still at it stops there and goes on with its next task. Who goes away stops at
    that moment and does not come back. At the deadline all stop.

    Args:
      config: overcommitment and deadline.
      candidate: [T].
      client: [T].
      steps: [T] local steps, at least 1.
      seconds: [T, 3] of download, training and upload.
      leaves: [C] share of all its steps after which a client leaves; infinite: it stays.
      gone: [C] seconds after the round's beginning when a client goes away; infinite: it stays.
    """
    done = _planned(client, steps, leaves)
    names, place = np.unique(candidate, return_inverse=True)
    wanted = np.maximum(1, np.floor(np.bincount(place, minlength=len(names)) / config.overcommit + 1e-9))
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


def _read_trace(path: Path, clients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whose spells [S], their starts and ends, in the order of clients and starts."""
    where = f"participation.trace: {path}"
    columns = ("client", "from [s]", "to [s]")
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
        if not rows or not set(columns) <= set(rows[0]):
            got = ", ".join(rows[0]) if rows else "no rows"
            raise ConfigError(f"{where} got {got}, want the columns {', '.join(columns)}")
        table = np.asarray([[float(row[c]) for c in columns] for row in rows])
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    who, start, end = table[:, 0].astype(np.int64), table[:, 1], table[:, 2]
    if not ((start >= 0) & (end > start) & np.isfinite(end)).all():
        raise ConfigError(f"{where} got an interval that is empty or begins before 0, want 0 <= from < to")
    if who.min() < 0 or who.max() >= clients:
        raise ConfigError(
            f"{where} got client {who.max() if who.max() >= clients else who.min()}, want 0 to {clients - 1}"
        )
    # Spells that touch or overlap are one.
    other = who[1:] != who[:-1]
    last = np.concatenate([np.maximum.accumulate(e) for e in np.split(end, np.flatnonzero(other) + 1)])
    new = np.append(True, other | (start[1:] > last[:-1]))
    return who[new], start[new], last[np.append(new[1:], True)]
