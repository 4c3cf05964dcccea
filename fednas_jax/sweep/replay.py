"""Replay: what other elimination policies would have chosen in a finished run, and what they would have cost.

Nothing is trained. The recorded scores are told to other policies, and the recorded rows of the ledger are charged for
the rounds that these would have trained and scored. Letters: P policies, I iterations, R rounds, K slots.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.config import bounds
from fednas_jax.config.checks import validate
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config, SearchConfig
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import as_json, plain_name
from fednas_jax.phones.ledger import KINDS
from fednas_jax.phones.totals import phase_seconds
from fednas_jax.run.finished import Run, load_run, write_into
from fednas_jax.search.policies import policy_of
from fednas_jax.sweep import grids, playing
from fednas_jax.sweep.curves import Curves, curves_of, expected_clients
from fednas_jax.sweep.playing import Played

# Fields of the search that a replay can change; with others, other networks would have been trained.
REPLAYED = (
    *("policy", "early_dropping", "dynamic_rounds", "rungs", "growth", "round_cap", "settle_rounds", "select"),
    *("partial_clients", "groups", "clients_per_group", "idle_groups", "score_alone"),
)
FOLDER = "replay"
MOST_POLICIES = 200_000
_PART = 1 << 25  # numbers [P, I, R, K] that are held at a time
_EQUAL = 1e-9  # relative: the ledger's seconds are added in another order


class Cost(NamedTuple):
    """What policies would have cost."""

    seconds: np.ndarray  # [P] of all clients
    megabytes: np.ndarray  # [P] up and down, of all clients


def replay_run(path: Path | str, searches: Sequence[SearchConfig] | None = None, name: str = "") -> dict[str, Any]:
    """Replays a finished run under other elimination policies, and writes it to RUN/replay/NAME.json.

    Curves are recorded by `--search.policy "none(score_every=1)"`; of another run only such policies can be replayed
    that want no score which it lacks. docs/replay.md says what a replay cannot know.

    Args:
      path: the folder of a finished run.
      searches: the run's section `search` (`load_run(path).config.search`) with some of `REPLAYED` changed; by default
        a grid of hundreds (`grids.default`).
      name: of the file; 'replay' by default.

    Returns:
      What was written. `used`: the policy of the run itself, with its `drops`; `policies`: one for each of `searches`,
      with `name`, `settings` (fields that differ from the run's), `unknown` (None, or why it could not be replayed: all
      else is None then), `winners` by iteration, `agreement` (share of them that are the run's), `regret` and
      `worst_regret` (mean and worst, over iterations, of the score at the recorded end that its winner has less than
      the run's winner; None where not all were scored at the end, or a winner diverged before it), `rounds`, `tasks`
      (candidates x rounds trained), `scorings`, `client_seconds` and `megabytes` (of an average client, in the search),
      `cheaper` (times, than the run) and `front` (no other policy with as many groups costs less without more regret);
      `notes`: what it cannot know.

    Raises:
      RunError: as `load_run`; it recorded too little; or its own policy does not go as it went then.
      ConfigError: a policy that cannot be, or a field that no replay can change.
    """
    file = plain_name(f"{name or FOLDER}.json", "--name")
    run = load_run(path)
    curves, own = curves_of(run), run.config.search
    if searches is None:
        searches = grids.default(own, int(curves.lengths.min()), int(curves.lengths[-1]), len(curves.names))
    if not 0 < len(searches) <= MOST_POLICIES:
        raise ConfigError(f"--policies: got {len(searches):,} policies, want 1 to {MOST_POLICIES:,}")
    for search in searches:
        _check(run.config, search)
    played, cost = _replayed([own], curves, own)
    _check_used(run, curves, played, cost)
    whole = float(cost.seconds[0])
    used = _records([own], curves, played, cost, own, whole)[0] | {"drops": drops_of(curves, played, 0)}
    policies: list[dict[str, Any]] = []
    part = max(1, _PART // curves.scores.size)
    for first in range(0, len(searches), part):
        some = searches[first : first + part]
        policies += _records(some, curves, *_replayed(some, curves, own), own, whole)
    for many in {_groups(search) for search in searches}:
        alike = [p for p, search in zip(policies, searches, strict=True) if _groups(search) == many]
        for at in front(alike):
            alike[at]["front"] = True
    found = {
        "run": run.title,
        "metric": run.config.search.metric,
        "recorded": {
            "iterations": len(curves.names),
            "rounds": curves.lengths.tolist(),
            "candidates": [len(names) for names in curves.names],
            "complete": curves.complete,
        },
        "notes": notes(run.config, curves, searches),
        "used": used,
        "policies": policies,
    }
    write_into(run.path, f"{FOLDER}/{file}", as_json(found))
    return found


def cost_of(searches: Sequence[SearchConfig], curves: Curves, played: Played, own: SearchConfig) -> Cost:
    """What policies would have cost: the recorded rows of each round and candidate, by the clients it would have had.

    Args:
      searches: P of them.
      curves: of the run.
      played: what they would have done.
      own: the search of the run.
    """
    training, scoring = KINDS.index("training"), KINDS.index("scoring")
    then = np.where(curves.trained, curves.invited, curves.clients)  # who trained it scores it, else all
    sums: list[list[float]] = []
    for p, search in enumerate(searches):
        trains, scored = played.trains[p], played.scored[p]
        clients = expected_clients(trains, search, curves.clients)
        share = np.where(trains, clients, 0) / np.maximum(curves.invited, 1e-9)
        who = 1.0 if own.score_clients else np.where(trains, clients, curves.clients) / then
        shown = np.where(scored, who, 0)
        sums.append(
            [
                float((share * spent[..., training]).sum() + (shown * spent[..., scoring]).sum())
                for spent in (curves.seconds, curves.megabytes)
            ]
        )
    seconds, megabytes = np.asarray(sums).T
    return Cost(seconds, megabytes)


def front(policies: Sequence[dict[str, Any]]) -> list[int]:
    """Policies, by number, than which no other costs less client seconds without more regret; from cheap to good."""
    known = [n for n, p in enumerate(policies) if p["regret"] is not None]
    best, found = math.inf, []
    for n in sorted(known, key=lambda n: (policies[n]["client_seconds"], policies[n]["regret"])):
        if policies[n]["regret"] < best:
            best = policies[n]["regret"]
            found.append(n)
    return found


def drops_of(curves: Curves, played: Played, policy: int) -> list[dict[str, Any]]:
    """Whom a policy drops when: iteration and round from 1, and names."""
    found = []
    for i, names in enumerate(curves.names):
        before = curves.exists[i]
        for r in range(int(played.trains[policy, i].any(-1).sum())):
            after = played.alive[policy, i, r]
            gone = [names[k] for k in np.flatnonzero(before & ~after)]
            if gone:
                found.append({"iteration": i + 1, "round": r + 1, "candidates": gone})
            before = after
    return found


def notes(config: Config, curves: Curves, searches: Sequence[SearchConfig]) -> list[str]:
    """What this replay cannot know, in sentences."""
    own = config.search
    trained = "all clients" if not own.partial else f"{own.groups} groups of clients"
    said = [
        "Each iteration begins with the parent that the run had, whomever a policy would have chosen before.",
        f"Scores are those of candidates trained on {trained}, with nobody gone that the run had not dropped.",
    ]
    if any(_groups(search) != _groups(own) for search in searches):
        said.append(
            "With another number of groups only the cost is another, not the scores, which fewer clients would have "
            "made noisier; so there is a front for each number of groups."
        )
    if any(_dealt(s) != _dealt(own) for s in searches):
        said.append("Costs with other clients a candidate are expected values, groups being equally large.")
    if own.partial:
        said.append("After another drop groups would have been dealt anew, to other candidates.")
    if curves.diverged.any():
        many = int(curves.diverged.sum())
        said.append(f"{many} candidates diverged: whoever would have trained on them is charged for their last round.")
    if own.growing_panel:
        said.append("Scores and their costs are those of panels that grew until the run's own decision was clear.")
    if config.participation.timed:
        said.append("Who was there and in time depended on the clock, which other policies would have moved.")
    if not curves.complete:
        said.append(
            "Not all candidates were scored after the last round, so nobody knows the best: there is no regret. Record "
            'curves with --search.policy "none(score_every=1)".'
        )
    return said


def _groups(search: SearchConfig) -> int:
    return search.groups if search.partial else 1


def _dealt(search: SearchConfig) -> tuple[Any, ...]:
    """What says how many clients a candidate has."""
    return _groups(search), search.partial and (search.clients_per_group, search.idle_groups)


def _check(config: Config, search: SearchConfig) -> None:
    """Refuses what a replay cannot change, and what no run can have."""
    own = config.search
    if search == own:
        return
    for field in dataclasses.fields(SearchConfig):
        got, want = getattr(search, field.name), getattr(own, field.name)
        if got != want and field.name not in REPLAYED:
            why = "as in the run, since a replay cannot change it"
            raise ConfigError(f"search.{field.name}: got {got!r}, want {want!r} {why}")
    bounds.check(search, "search.")
    validate(dataclasses.replace(config, search=search))


def _replayed(searches: Sequence[SearchConfig], curves: Curves, own: SearchConfig) -> tuple[Played, Cost]:
    tried: set[str | None] = set()  # a policy of the user's own is tried out once, not with each setting
    policies = []
    for search in searches:
        policies.append(policy_of(search, search.policy not in tried))
        tried.add(search.policy)
    played = playing.play(policies, curves)
    return played, cost_of(searches, curves, played, own)


def _check_used(run: Run, curves: Curves, played: Played, cost: Cost) -> None:
    """The run's own policy, replayed, goes as the run went.

    Raises:
      RunError: names what differs.
    """
    winners = [names[w] if w >= 0 else "nobody" for names, w in zip(curves.names, played.winner[0], strict=True)]
    drops = [(d["iteration"], d["round"], tuple(d["candidates"])) for d in drops_of(curves, played, 0)]
    got = {
        "winners": winners,
        "drops": drops,
        "rounds": played.trains[0].any(-1).sum(-1).tolist(),
        "gaps": (played.unscored | played.too_long)[0].nonzero()[0].tolist(),
    }
    want = {
        "winners": [names[w] for names, w in zip(curves.names, curves.winners, strict=True)],
        "drops": list(curves.drops),
        "rounds": curves.lengths.tolist(),
        "gaps": [],
    }
    for what, value in want.items():
        if got[what] != value:
            raise RunError(
                f"{run.path}: its own policy replayed: got {what} {str(got[what])[:200]}, want {str(value)[:200]} as "
                "the run went; has the policy's code changed since?"
            )
    spent = sum(phase_seconds(run.ledger, "search").values())
    if not math.isclose(cost.seconds[0], spent, rel_tol=_EQUAL):
        raise RunError(
            f"{run.path}: its own policy replayed: got {cost.seconds[0]:,.6g} client seconds, want {spent:,.6g} as in "
            "the ledger"
        )


def _records(
    searches: Sequence[SearchConfig], curves: Curves, played: Played, cost: Cost, own: SearchConfig, whole: float
) -> list[dict[str, Any]]:
    """What replay says of each policy, as JSON values; `whole`: client seconds of the run's search."""
    each = np.arange(len(curves.names))
    final = curves.scores[each, curves.lengths - 1].astype(float)  # [I, K]
    mine, found = to_json(own), []
    for p, search in enumerate(searches):
        said = to_json(search)
        record: dict[str, Any] = {
            "name": grids.name_of(search),
            "settings": {f: said[f] for f in REPLAYED if said[f] != mine[f]},
            "unknown": _unknown(curves, played, p),
        }
        known = record["unknown"] is None
        winner = played.winner[p]
        lacks = final[each, curves.winners] - final[each, winner]
        # A winner of fewer rounds may be one that diverged later, which has no score at the end.
        regret = lacks if known and curves.complete and np.isfinite(lacks).all() else None
        trains, scored = played.trains[p], played.scored[p]
        seconds = float(cost.seconds[p])
        values: dict[str, Any] = {
            "winners": [names[w] for names, w in zip(curves.names, winner, strict=True)],
            "agreement": float((winner == curves.winners).mean()),
            "regret": None if regret is None else float(regret.mean()),
            "worst_regret": None if regret is None else float(regret.max()),
            "rounds": int(trains.any(-1).sum()),
            "tasks": int(trains.sum()),
            "scorings": int(scored.sum()),
            "client_seconds": seconds / curves.clients,
            "megabytes": float(cost.megabytes[p]) / curves.clients,
            "cheaper": whole / seconds if seconds else None,
        }
        found.append(record | (values if known else dict.fromkeys(values)) | {"front": False})
    return found


def _unknown(curves: Curves, played: Played, policy: int) -> str | None:
    """Why a policy could not be replayed, by the first iteration that stops it."""
    reasons = {
        "wants more rounds than were recorded": played.too_long[policy],
        "wants scores that were not recorded, or trains whom the run had dropped": played.unscored[policy],
        "leaves nobody with a finite score": played.winner[policy] < 0,
    }
    stopped = [(int(np.argmax(where)), why) for why, where in reasons.items() if where.any()]
    if not stopped:
        return None
    at, why = min(stopped, key=lambda pair: pair[0])
    return f"iteration {at + 1}: {why}"
