"""Who is there and who is invited: phones that come, go and leave in the midst of a round."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fednas_jax.config.schema import ParticipationConfig
from fednas_jax.errors import ConfigError
from fednas_jax.files import csv_rows
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
        rng = generator(seed, Purpose.AVAILABLE)
        normal = rng.standard_normal((2, clients, SPELLS))
        away, ready = (
            median * np.exp(np.log(high / median) / NORMAL_90 * z)
            for (median, high), z in zip((config.away_seconds, config.ready_seconds), normal, strict=True)
        )
        end = np.cumsum(away + ready, axis=1)
        cycle = end[:, -1]
        # A client is met at any time of its cycle: long gaps are met more often than short ones.
        offset = rng.uniform(size=clients) * cycle
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
            rng = generator(now.seed, Purpose.AVAILABLE, *moment, look)
            found = rng.uniform(size=now.clients) < config.available
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
    draws = generator(now.seed, Purpose.INVITE, *moment).uniform(size=now.clients)
    order = np.lexsort((draws, ~present, group_of))
    first = np.searchsorted(group_of[order], group_of[order])
    chosen = np.zeros(now.clients, bool)
    chosen[order] = np.arange(now.clients) - first < most
    return chosen & present


def leaving(now: Presence, moment: tuple[int, ...]) -> np.ndarray:
    """The share of its steps in this round after which each client leaves [C]; infinite for those who stay."""
    if not now.config.dropout:
        return np.full(now.clients, np.inf)
    draws = generator(now.seed, Purpose.DROPOUT, *moment).uniform(size=(2, now.clients))
    return np.where(draws[0] < now.config.dropout, draws[1], np.inf)


def _read_trace(path: Path, clients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whose spells [S], their starts and ends, in the order of clients and starts."""
    where = f"participation.trace: {path}"
    columns = ("client", "from [s]", "to [s]")
    rows = csv_rows(path, "participation.trace")
    if not rows or not set(columns) <= set(rows[0]):
        got = ", ".join(map(str, rows[0])) if rows else "no rows"
        raise ConfigError(f"{where} got {got}, want the columns {', '.join(columns)}")
    try:
        table = np.asarray([[float(row[c]) for c in columns] for row in rows])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from None
    if not (whole := table[:, 0] == np.rint(table[:, 0])).all():
        raise ConfigError(f"{where} got client {table[~whole, 0][0]:g}, want 0 to {clients - 1}")
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
