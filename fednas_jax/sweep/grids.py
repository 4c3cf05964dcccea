"""Elimination policies to be tried: a grid that fits what was recorded, or one of the user's own."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError

Ladder = tuple[tuple[int, float], ...]  # rungs, as in `search.rungs`

LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # rounds of a rung that are tried
KEPT = (0.75, 0.5, 0.34, 0.25)
ADDED = (0, 1, 2, 4)  # rounds that the last iteration has more in a rung than the first


def default(search: SearchConfig, first: int, last: int, iterations: int) -> list[SearchConfig]:
    """Some hundreds of policies: rungs, halving, Hyperband, median and none, each with several kinds of growth.

    Args:
      search: of the run that was recorded.
      first: rounds that were recorded of the first iteration.
      last: rounds that were recorded of the last.
      iterations: that the run had.
    """
    found = []
    cap = max(search.round_cap, first, last)
    for added in ADDED if iterations > 1 else (0,):
        growth = added / max(1, iterations - 1)
        for policy, rungs in _shapes(first):
            many = len(rungs) or 1
            if sum(r for r, _ in rungs) + many * added <= last:
                changed: dict[str, Any] = {"policy": policy, "growth": growth, "round_cap": cap}
                changed |= {"early_dropping": policy != "none", "dynamic_rounds": True}
                changed |= {"rungs": rungs} if rungs else {}
                found.append(dataclasses.replace(search, **changed))
    return list(dict.fromkeys(found))


def product(
    searches: Sequence[SearchConfig],
    policies: Sequence[str] = (),
    rungs: Sequence[Ladder] = (),
    growth: Sequence[float] = (),
    groups: Sequence[int] = (),
) -> list[SearchConfig]:
    """Every combination of what is given with each of these searches; what is not given stays.

    Args:
      searches: to begin with.
      policies: as in `search.policy`; each is with early dropping.
      rungs: as in `search.rungs`, for the policies rungs and none.
      growth: rounds that each iteration adds to every rung; each is with dynamic rounds.
      groups: client groups; each is with partial clients. 1 is all clients.
    """
    changes: list[list[dict[str, Any]]] = [
        [{"policy": policy, "early_dropping": True} for policy in policies] or [{}],
        [{"rungs": ladder} for ladder in rungs] or [{}],
        [{"growth": number, "dynamic_rounds": True} for number in growth] or [{}],
        [{"groups": number, "partial_clients": True} for number in groups] or [{}],
    ]
    found = []
    for search, *chosen in itertools.product(searches, *changes):
        changed: dict[str, Any] = {}
        for each in chosen:
            changed |= each
        found.append(dataclasses.replace(search, **changed))
    return list(dict.fromkeys(found))


def ladder_of(text: str) -> Ladder:
    """Rungs as typed: ROUNDS:KEEP with commas between, as in 1:0.5,2:1.

    Raises:
      ConfigError: it is none.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple((int(rounds), float(keep)) for rounds, keep in pairs)
    except ValueError:
        raise ConfigError(f"--rungs: got {text!r}, want ROUNDS:KEEP,ROUNDS:KEEP such as 1:0.5,2:1") from None


def name_of(search: SearchConfig) -> str:
    """A policy in words, as short as it can be said."""
    policy = search.policy or "rungs"
    if not search.early_dropping and not policy.startswith("none"):
        policy = "none"
    ladder = ",".join(f"{rounds}:{keep:g}" for rounds, keep in search.rungs)
    if policy == "none":
        policy = f"none({sum(r for r, _ in search.rungs)} rounds)" if search.dynamic_rounds else "none"
    elif policy == "rungs":
        policy = f"rungs({ladder})"
    grows = f"growth {search.growth:.3g}" if search.dynamic_rounds else f"settle {search.settle_rounds}"
    return ", ".join([policy, grows, *([f"groups {search.groups}"] if search.partial else [])])


def _shapes(most: int) -> Iterator[tuple[str, Ladder]]:
    """Policies that an iteration of at most so many rounds has room for, and their rungs where they have any."""
    lengths = [n for n in LENGTHS if n < most] + [most]
    for n in lengths:
        yield "none", ((n, 1),)
    for a, b in itertools.product(lengths, repeat=2):
        if a + b <= most:
            yield from (("rungs", ((a, keep), (b, 1))) for keep in KEPT)
    for a, b, c in itertools.product(lengths, repeat=3):
        if a + b + c <= most:
            for keep, then in itertools.combinations(KEPT, 2):
                yield "rungs", ((a, keep), (b, then), (c, 1))
    for eta, n in itertools.product((2, 3, 4), lengths):
        yield f"halving(eta={eta}, rounds={n})", ()
    for eta, n in itertools.product((2, 3), lengths):
        if n >= eta:
            yield f"hyperband(eta={eta}, rounds={n})", ()
    for warmup, n in itertools.product((0, 1, 2, 4), lengths):
        if warmup < n:
            yield f"median(warmup={warmup}, rounds={n})", ()
