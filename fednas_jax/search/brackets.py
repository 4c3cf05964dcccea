"""Policies that drop at rungs: the paper's, successive halving, Hyperband's brackets, and none.

One state machine serves them all. Candidates are dealt to brackets that train side by side; in each bracket the
candidates compete among themselves: they train for some rounds, the best stay, these train on. The survivors of all
brackets are compared at the end. Letters: K slots for candidates, B brackets, S rungs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.search.policies import FIELD, Policy, Progress, lengthened, needs_whole, places, winner

MOST_RUNGS = 64  # of a policy whose number of rungs depends on the number of candidates

Rung = tuple[int, float]  # rounds, and how many stay: a number, or below 1 a fraction of the bracket's candidates


class Table(NamedTuple):
    """One iteration's schedule: a bracket trains for rounds[b, s], then keeps its best keep[b, s], and so on."""

    size: Any  # [B] int32: candidates of each bracket
    rounds: Any  # [B, S] int32; 0: there is no such rung
    keep: Any  # [B, S] int32; the last rung's is not used: its survivors are left to `select`


class State(NamedTuple):
    """The policy in the midst of an iteration."""

    table: Table
    resource: jax.Array  # [K] float32
    bracket: jax.Array  # [K] int32
    alive: jax.Array  # [K] bool
    scores: jax.Array  # [K] float32
    done: jax.Array  # int32: rounds done in this iteration


def rungs(search: SearchConfig) -> Policy:
    """The rungs of `search.rungs` [FedNAS, section 3]: after so many rounds the best so many stay."""
    return _policy(search, lambda i, k: table_of(search, i, [(k, search.rungs)], (1, len(search.rungs))))


def none(search: SearchConfig, score_every: int = 0) -> Policy:
    """Nobody is dropped: one rung of as many rounds as those of `search.rungs` have in all.

    Args:
      search: growth, settling and selection.
      score_every: all are also scored after every so many rounds, which the clients are charged for: learning curves
        that `fednas replay` tries other policies on. Who diverged is dropped there. 0: scored at the end only.

    Raises:
      ConfigError: an argument is out of its bounds.
    """
    needs_whole("score_every", score_every, 0)

    def table(iteration: int, candidates: int) -> Table:
        rounds = sum(lengthened(search, [r for r, _ in search.rungs], iteration))
        return Table(*(np.asarray(value, np.int32) for value in ([candidates], [[rounds]], [[1]])))

    policy = _policy(search, table)
    return _scored_every(policy, score_every) if score_every else policy


def halving(search: SearchConfig, eta: float = 2, rounds: int = 1) -> Policy:
    """Successive halving [Jamieson & Talwalkar 2016, arXiv 1502.07943, figure 1].

    A share of 1 / eta stays after each rung, and a rung has eta times the rounds of the one before, so that all cost
    about the same; the last rung leaves the choice of one to `select`.

    Args:
      search: growth, settling and selection.
      eta: at least 2.
      rounds: of the first rung.

    Raises:
      ConfigError: an argument is out of its bounds.
    """
    _arguments(search, eta, rounds)

    def rungs_of(candidates: int) -> list[Rung]:
        found: list[Rung] = []
        while not found or candidates > 1:
            candidates = max(1, int(candidates / eta))
            found.append((_rounded(rounds * eta ** len(found)), candidates))
        return found

    return from_rungs(search, rungs_of)


def hyperband(search: SearchConfig, eta: float = 2, rounds: int = 8) -> Policy:
    """Hyperband [Li et al. 2018, arXiv 1603.06560, algorithm 1], with its brackets side by side in one iteration.

    Bracket s = 0 .. log_eta(rounds) first drops after rounds / eta^s rounds, then each time that a survivor has trained
    eta times as long; 1 / eta stay. The paper draws (s_max + 1) / (s + 1) eta^s candidates for a bracket: here the
    iteration's candidates are dealt to brackets in these proportions.

    Args:
      search: growth, settling and selection.
      eta: at least 2.
      rounds: that a survivor trains in the first iteration.

    Raises:
      ConfigError: an argument is out of its bounds.
    """
    _arguments(search, eta, rounds)
    most = int(math.log(rounds, eta) + 1e-9)
    depths = range(most, -1, -1)
    drawn = [math.ceil((most + 1) / (s + 1) * eta**s - 1e-9) for s in depths]

    def table(iteration: int, candidates: int) -> Table:
        brackets: list[tuple[int, Sequence[Rung]]] = []
        for s, size in zip(depths, _divided(candidates, drawn), strict=True):
            until = [_rounded(rounds * eta ** (n - s)) for n in range(s + 1)]
            lengths = np.diff([0, *until]).tolist()
            brackets.append((size, [(r, max(1, int(size / eta ** (n + 1)))) for n, r in enumerate(lengths)]))
        return table_of(search, iteration, brackets, (most + 1, most + 1))

    return _policy(search, table)


def from_rungs(search: SearchConfig, rungs_of: Callable[[int], Sequence[Rung]]) -> Policy:
    """A policy of one bracket from a function of the number of candidates, for rungs of your own.

    Args:
      search: growth, settling and selection.
      rungs_of: number of candidates -> pairs (rounds, keep) as in `search.rungs`, at most `MOST_RUNGS`.
    """
    return _policy(search, lambda i, k: table_of(search, i, [(k, rungs_of(k))], (1, MOST_RUNGS)))


def table_of(
    search: SearchConfig, iteration: int, brackets: Sequence[tuple[int, Sequence[Rung]]], form: tuple[int, int]
) -> Table:
    """Brackets as a plain table.

    Rounds are `lengthened` in each bracket by itself. Then the last rung of each is stretched until all end together
    (be it beyond the cap), so that survivors have trained equally long and are scored by the same clients.

    Args:
      search: growth, cap and switches.
      iteration: i = 1, 2, ...
      brackets: number of candidates of each, and its rungs. A rung never keeps more than the rung before.
      form: B and S of the table.

    Raises:
      ConfigError: there are more rungs than S, none, or one without rounds.
    """
    rounds, keep = np.zeros(form, np.int32), np.ones(form, np.int32)
    for b, (size, ladder) in enumerate(brackets):
        if not 1 <= len(ladder) <= form[1]:
            raise ConfigError(f"{FIELD}: got {len(ladder)} rungs, want 1 to {form[1]}")
        if any(r < 1 for r, _ in ladder):
            raise ConfigError(f"{FIELD}: got a rung of {min(r for r, _ in ladder)} rounds, want at least 1")
        if size:
            rounds[b, : len(ladder)] = lengthened(search, [r for r, _ in ladder], iteration)
        most = size
        for s, (_, share) in enumerate(ladder):
            most = max(1, min(most, int(share) if share >= 1 else math.ceil(share * size - 1e-9)))
            keep[b, s] = most
    length = rounds.sum(1)
    for b, (size, ladder) in enumerate(brackets):
        rounds[b, len(ladder) - 1] += (length.max() - length[b]) * bool(size)
    return Table(np.asarray([size for size, _ in brackets], np.int32), rounds, keep)


def init(table: Table, alive: ArrayLike, resource: ArrayLike) -> State:
    """The start of an iteration: candidates are dealt to brackets, evenly in the order of their numbers."""
    table, alive = Table(*map(jnp.asarray, table)), jnp.asarray(alive)
    slots, brackets = alive.shape[0], table.size.shape[0]
    # The j-th of n candidates of a bracket stands at (j + 1/2) / n of the way through all candidates.
    j = jnp.arange(slots)
    stand = jnp.where(j < table.size[:, None], (j + 0.5) / jnp.maximum(1, table.size[:, None]), jnp.inf)  # [B, K]
    dealt = jnp.argsort(stand.ravel())[:slots] // slots  # [K] bracket of each place among the living
    bracket = jnp.where(alive, dealt[jnp.cumsum(alive) - 1], brackets - 1).astype(jnp.int32)
    scores = jnp.full(alive.shape, jnp.nan, jnp.float32)
    return State(table, jnp.asarray(resource, jnp.float32), bracket, alive, scores, jnp.int32(0))


def plan(state: State) -> jax.Array:
    """Who trains in the next round [K]: the living, unless their bracket is at its end."""
    length = jnp.sum(state.table.rounds, axis=1)
    return state.alive & (state.done < length[state.bracket])


def finished(state: State) -> jax.Array:
    """Whether the iteration is over: all rungs done, or nobody left."""
    return ~jnp.any(plan(state))


def wants_scores(state: State) -> jax.Array:
    """Whether the next round ends a rung in which scores decide something."""
    return jnp.any(_deciding(state).decides)


def tell(state: State, scores: ArrayLike) -> State:
    """The state after a round: at the end of a rung the best `keep` of the bracket stay."""
    now = _deciding(state)
    counts = now.decides[state.bracket] & state.alive
    latest = jnp.where(counts, jnp.asarray(scores, jnp.float32), state.scores)
    fit = counts & jnp.isfinite(latest)
    rivals = state.bracket[:, None] == state.bracket[None, :]
    stays = now.last[state.bracket] | (places(latest, fit, state.resource, rivals) < now.keep[state.bracket])
    alive = jnp.where(counts, fit & stays, state.alive)
    done = state.done + (~finished(state)).astype(jnp.int32)
    return state._replace(alive=alive, scores=latest, done=done)


def progress(state: State) -> Progress:
    """Where the iteration is; the rung is that of the bracket that has most of them behind it."""
    exists = state.table.rounds > 0
    many = jnp.max(jnp.sum(exists, axis=1))
    rung = jnp.max(jnp.sum(exists & (_ends(state) <= state.done), axis=1)) + 1
    length = jnp.max(jnp.sum(state.table.rounds, axis=1))
    return Progress(jnp.minimum(rung, many), many, jnp.minimum(state.done + 1, length), length)


class _Deciding(NamedTuple):
    """What the next round means for each bracket."""

    decides: jax.Array  # [B] bool: it ends a rung in which scores decide something
    last: jax.Array  # [B] bool: it is the bracket's last
    keep: jax.Array  # [B] int32


def _deciding(state: State) -> _Deciding:
    ends = _ends(state)
    rung = jnp.sum(ends <= state.done, axis=1, keepdims=True)
    keep = jnp.take_along_axis(state.table.keep, jnp.minimum(rung, ends.shape[1] - 1), axis=1)[:, 0]
    living = jnp.bincount(state.bracket, state.alive.astype(jnp.int32), length=len(keep))
    last = ends[:, -1] == state.done + 1
    decides = jnp.any(ends == state.done + 1, axis=1) & (living > 0) & (last | (living > keep))
    return _Deciding(decides, last, keep)


def _ends(state: State) -> jax.Array:
    """The rounds after which each rung ends [B, S]; a rung that there is not ends with the last one."""
    return jnp.cumsum(state.table.rounds, axis=1)


def _policy(search: SearchConfig, table: Callable[[int, int], Table]) -> Policy:
    """The machine with its tables."""
    ratio = search.select == "ratio"

    def select(state: State, parent_score: ArrayLike, parent_resource: ArrayLike) -> jax.Array:
        return winner(state.alive, state.scores, state.resource, parent_score, parent_resource, ratio)

    return Policy(table, init, plan, wants_scores, tell, select, finished, progress)


def _scored_every(policy: Policy, every: int) -> Policy:
    """The policy, under which all who live are scored after every so many rounds too; it decides nothing by that."""

    def due(state: State) -> jax.Array:
        return ((state.done + 1) % every == 0) & ~policy.finished(state)

    def wants_scores(state: State) -> jax.Array:
        return policy.wants_scores(state) | due(state)

    def tell(state: State, scores: ArrayLike) -> State:
        given, after = jnp.asarray(scores, jnp.float32), policy.tell(state, scores)
        seen = due(state) & state.alive
        alive = after.alive & (~seen | jnp.isfinite(given))
        return after._replace(alive=alive, scores=jnp.where(seen, given, after.scores))

    return policy._replace(wants_scores=wants_scores, tell=tell)


def _arguments(search: SearchConfig, eta: float, rounds: int) -> None:
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 2 <= eta < math.inf:
        raise ConfigError(f"{FIELD}: got eta={eta!r}, want a number, at least 2")
    cap = search.round_cap if search.dynamic_rounds else math.inf
    needs_whole("rounds", rounds, 1, cap, " (search.round_cap)")


def _divided(candidates: int, shares: Sequence[int]) -> list[int]:
    """Candidates in these proportions, in whole numbers: the largest remainders are rounded up, the first of equals."""
    exact = [candidates * share / sum(shares) for share in shares]
    whole = [int(x) for x in exact]
    by_rest = sorted(range(len(shares)), key=lambda b: (whole[b] - exact[b], b))
    for b in by_rest[: candidates - sum(whole)]:
        whole[b] += 1
    return whole


def _rounded(rounds: float) -> int:
    """Whole rounds, at least one; halves go up."""
    return max(1, math.floor(rounds + 0.5))
