"""Learning curves as a finished run recorded them: who was trained and scored after which round, and for how much.

Letters: I iterations, R rounds of the longest iteration, K slots of the largest iteration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import RunError
from fednas_jax.phones.ledger import KINDS
from fednas_jax.run.finished import Run, members
from fednas_jax.run.folder import RunDir

MOST = 50_000_000  # I x R x K: more is no search that this machine could have run


class Curves(NamedTuple):
    """The search of a run, round by round. Iterations, rounds and slots that there are not are False, NaN and 0."""

    names: tuple[tuple[str, ...], ...]  # [I] of the candidates
    lengths: np.ndarray  # [I] int: rounds that each iteration had
    exists: np.ndarray  # [I, K] bool
    resource: np.ndarray  # [I, K] float32
    parent_resource: np.ndarray  # [I] float32
    parent_score: np.ndarray  # [I] float32: of the network that the iteration began with
    scores: np.ndarray  # [I, R, K] float32: after each round, NaN where it was not finite or not scored
    scored: np.ndarray  # [I, R, K] bool
    trained: np.ndarray  # [I, R, K] bool
    invited: np.ndarray  # [I, R, K] float64: clients that a candidate trained on, as `expected_clients`
    diverged: np.ndarray  # [I, K] bool: dropped since its score was not finite
    seconds: np.ndarray  # [I, R, K, work] float64: of all clients, work in the order of ledger.KINDS
    megabytes: np.ndarray  # [I, R, K, work] float64: up and down, of all clients
    winners: np.ndarray  # [I] int: the run's own
    drops: tuple[tuple[int, int, tuple[str, ...]], ...]  # the run's own: iteration and round from 1, and names
    clients: int

    @property
    def complete(self) -> bool:
        """Whether all candidates were scored after the last round, so that it is known who is best at the end."""
        last = self.scored[np.arange(len(self.lengths)), self.lengths - 1]
        return bool((last | ~self.exists | self.diverged).all())


def curves_of(run: Run) -> Curves:
    """Reads the curves of a run off its events and its ledger.

    Raises:
      RunError: it searched nothing, is of an older version, or says what cannot be.
    """
    file = RunDir(run.path).events_file
    told = list(run.events())
    begun = _in_order(run, [e for e in told if e["event"] == "iteration"])
    rounds = [e for e in told if e["event"] == "round" and e.get("stage") == "search"]
    selected = _in_order(run, [e for e in told if e["event"] == "select"])
    if not begun:
        raise RunError(f"{run.path}: searched for no iteration, want a run with at least one")
    if any("parent" not in e or any({"name", "resource"} - set(c) for c in e["candidates"]) for e in begun):
        raise RunError(f"{file}: is of an older version, which recorded less; want a run of this one: search again")
    if any({"iteration", "round", "scores"} - set(e) for e in rounds):
        raise RunError(f"{file}: got a round of a search without iteration, round and scores")
    names = tuple(tuple(c["name"] for c in e["candidates"]) for e in begun)
    form = (len(begun), max((e["round"] for e in rounds), default=0), max(map(len, names)))
    if not 0 < np.prod(form, dtype=float) <= MOST:
        raise RunError(f"{file}: got {' x '.join(map(str, form))} iterations, rounds and candidates, want fewer")
    exists = np.arange(form[2]) < np.asarray([[len(n)] for n in names])
    resource, lengths = np.zeros(exists.shape, np.float32), np.zeros(form[0], int)
    scores = np.full(form, np.nan, np.float32)
    for i, event in enumerate(begun):
        resource[i, exists[i]] = [c["resource"] for c in event["candidates"]]
    for event in rounds:
        i, r = event["iteration"] - 1, event["round"] - 1
        if not (0 <= i < form[0] and r >= 0):
            raise RunError(f"{file}: got round {r + 1} of iteration {i + 1}, which never began")
        lengths[i] = max(lengths[i], r + 1)
        for name, score in event["scores"].items():
            scores[i, r, _slot(file, names[i], name)] = score
    if not lengths.all():
        raise RunError(f"{file}: got an iteration {int(np.argmin(lengths)) + 1} without a round")
    spent = _spent(run.ledger, form)
    trained = spent["seconds"][1][..., KINDS.index("training")]
    drops = tuple((e["iteration"], e["round"], tuple(e["candidates"])) for e in told if e["event"] == "drop")
    curves = Curves(
        names=names,
        lengths=lengths,
        exists=exists,
        resource=resource,
        parent_resource=np.asarray([e["parent"] for e in begun], np.float32),
        parent_score=np.asarray([m["score"] for m in members(run.result)[: form[0]]], np.float32),
        scores=scores,
        scored=spent["seconds"][1][..., KINDS.index("scoring")],
        trained=trained,
        invited=expected_clients(trained, run.config.search, run.result["clients"]),
        diverged=np.zeros(exists.shape, bool),
        seconds=spent["seconds"][0],
        megabytes=spent["bytes"][0] / 1e6,
        winners=np.asarray([_slot(file, n, e["winner"]) for n, e in zip(names, selected, strict=True)]),
        drops=drops,
        clients=run.result["clients"],
    )
    return _with_diverged(curves)


def expected_clients(trains: np.ndarray, search: SearchConfig, clients: int) -> np.ndarray:
    """Clients that a round's draw gives to each candidate (`search.assignment.draw`), groups being equally large.

    Args:
      trains: [..., K] bool.
      search: groups, clients of a group, and what idle groups do.
      clients: C.

    Returns:
      [..., K] float64, 0 for those that do not train.
    """
    groups = search.groups if search.partial else 1
    living = np.maximum(1, trains.sum(-1, keepdims=True))
    rank = np.cumsum(trains, -1) - 1
    helped = (groups - rank + living - 1) // living if search.idle_groups == "help" else 1
    each = clients / groups
    if search.partial and search.clients_per_group:
        each = min(each, search.clients_per_group)
    return np.where(trains, np.where(living <= groups, helped, 1) * each, 0.0)


def _in_order(run: Run, events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """One event for each iteration of the run's result; one more may have begun, and found no candidate."""
    got, want = [e.get("iteration") for e in events], list(range(1, len(run.result["models"]) + 1))
    if got != want:
        where = f"{RunDir(run.path).events_file}: {events[0]['event'] if events else 'iteration'}"
        raise RunError(f"{where}: got iterations {str(got)[:80]}, want 1 to {len(want)}, as in result.json")
    return events


def _slot(file: Any, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise RunError(f"{file}: got a candidate {name[:80]!r} that its iteration has not")
    return names.index(name)


def _spent(ledger: pa.Table, form: tuple[int, int, int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Quantity -> its sums over clients [I, R, K, work], and where there are rows at all."""
    rows = ledger.filter(pc.equal(pc.cast(ledger["stage"], pa.string()), "search"))
    work = np.asarray(pc.index_in(pc.cast(rows["work"], pa.string()), pa.array(KINDS)).fill_null(-1))
    if (work < 0).any():
        raise RunError("ledger: is of an older version, which did not tell training from scoring: search again")
    places = tuple(np.asarray(rows[name]) for name in ("iteration", "round", "candidate"))
    inside = [(p >= low) & (p < most + low) for p, most, low in zip(places, form, (1, 1, 0), strict=True)]
    if not np.all(inside):
        raise RunError("ledger: got rows of an iteration, round or candidate that the events have not")
    at = (places[0] - 1, places[1] - 1, places[2], work)
    found = {}
    for quantity in ("seconds", "bytes"):
        sums, there = np.zeros((*form, len(KINDS))), np.zeros((*form, len(KINDS)), bool)
        np.add.at(sums, at, np.asarray(rows[quantity], np.float64))
        there[at] = True
        found[quantity] = sums, there
    return found


def _with_diverged(curves: Curves) -> Curves:
    """A candidate that was dropped since its score was no number stays so, and goes on costing what it cost last."""
    rounds = np.arange(curves.scores.shape[1])[:, None]
    bad = curves.scored & ~np.isfinite(curves.scores)  # [I, R, K]
    last = np.where(curves.trained, rounds, -1).max(1)  # [I, K]
    ended = np.take_along_axis(bad, np.maximum(last, 0)[:, None], 1)[:, 0] & (last >= 0)
    diverged = ended & curves.exists
    after = diverged[:, None] & (rounds > last[:, None]) & (rounds < curves.lengths[:, None, None])
    scored, trained = curves.scored | after, curves.trained | after
    where = np.where(after, last[:, None], rounds)[..., None]
    seconds, megabytes = (np.take_along_axis(a, where, 1) for a in (curves.seconds, curves.megabytes))
    return curves._replace(
        scored=scored,
        trained=trained,
        diverged=diverged,
        invited=np.take_along_axis(curves.invited, where[..., 0], 1),
        seconds=seconds,
        megabytes=megabytes,
    )
