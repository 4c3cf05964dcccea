"""Who trains what, who is dropped, who wins: a pure state machine over fixed-size arrays, jittable and vmappable.

Letters: K candidates, S rungs, M client groups, C clients. It knows nothing of networks, devices or data.
"""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fednas_jax.config.schema import SearchConfig


class Rungs(NamedTuple):
    """One iteration's schedule: train for rounds[s], then keep the best keep[s]; the last rung's survivors may win."""

    rounds: jax.Array  # [S] int32
    keep: jax.Array  # [S] int32


class State(NamedTuple):
    """The controller in the middle of an iteration."""

    rungs: Rungs
    resource: jax.Array  # [K] float32: R of each candidate, the first tie-breaker
    alive: jax.Array  # [K] bool
    scores: jax.Array  # [K] float32: the latest, NaN before the first
    rung: jax.Array  # int32; S when the iteration is over
    rounds_done: jax.Array  # int32: in this rung


class Plan(NamedTuple):
    """A round: candidate k is trained by the cohort's clients of the groups m with assign[k, m]."""

    assign: jax.Array  # [K, M] bool
    cohort: jax.Array  # [C] bool


def schedule(config: SearchConfig, iteration: int, candidates: int) -> Rungs:
    """The rungs of an iteration as a plain table.

    With dynamic rounds: rounds_i = min(cap, round(r0 + growth (i - 1))) for every rung. Without: the rungs as given,
    the last one stretched so that a survivor trains `settle_rounds` in all. Without early dropping: one rung of all
    rounds.

    Args:
      config: rungs, growth, cap and switches.
      iteration: i = 1, 2, ...
      candidates: K of this iteration; a rung never keeps more, nor more than the rung before.
    """
    rounds = [r for r, _ in config.rungs]
    if config.dynamic_rounds:
        rounds = [min(config.round_cap, math.floor(r + config.growth * (iteration - 1) + 0.5)) for r in rounds]
    else:
        rounds[-1] = max(1, config.settle_rounds - sum(rounds[:-1]))
    keep, most = [], candidates
    for _, share in config.rungs:
        most = max(1, min(most, int(share) if share >= 1 else math.ceil(share * candidates - 1e-9)))
        keep.append(most)
    if not config.early_dropping:
        rounds, keep = [sum(rounds)], [1]
    return Rungs(np.asarray(rounds, np.int32), np.asarray(keep, np.int32))  # type: ignore[arg-type]


def client_groups(sizes: np.ndarray, groups: int) -> np.ndarray:
    """Divides clients into groups of nearly equal data: the largest client goes to the lightest group.

    Args:
      sizes: [C] examples of each client.
      groups: M, at most C.

    Returns:
      [C] group of each client. Equal sizes and equal groups are taken in the order of their numbers.
    """
    heap = [(0, m) for m in range(groups)]
    group_of = np.empty(len(sizes), np.int32)
    for client in np.argsort(-np.asarray(sizes, np.int64), kind="stable"):
        load, m = heapq.heappop(heap)
        group_of[client] = m
        heapq.heappush(heap, (load + int(sizes[client]), m))
    return group_of


def init(rungs: Rungs, alive: ArrayLike, resource: ArrayLike) -> State:
    """The start of an iteration.

    Args:
      rungs: its schedule.
      alive: [K] which places hold a candidate.
      resource: [K] R of each candidate.
    """
    scores = jnp.full(jnp.shape(alive), jnp.nan, jnp.float32)
    zero = jnp.int32(0)
    resource = jnp.asarray(resource, jnp.float32)
    return State(jax.tree.map(jnp.asarray, rungs), resource, jnp.asarray(alive), scores, zero, zero)


def finished(state: State) -> jax.Array:
    """Whether the iteration is over: all rungs done, or nobody left."""
    return (state.rung >= state.rungs.rounds.shape[0]) | ~jnp.any(state.alive)


def wants_scores(state: State) -> jax.Array:
    """Whether the round about to be run ends a rung in which scores decide something, and so is to be scored."""
    last = state.rungs.rounds.shape[0] - 1
    ends = state.rounds_done + 1 >= state.rungs.rounds[state.rung]
    decides = (state.rung == last) | (jnp.sum(state.alive) > state.rungs.keep[state.rung])
    return ends & decides & ~finished(state)


def plan(state: State, key: jax.Array, group_of: jax.Array, groups: int, most: int = 0, help_out: bool = False) -> Plan:
    """Draws a round: which group trains which candidate, and who of the group takes part.

    While there are enough groups no group serves two candidates; with more candidates than groups each candidate has
    one group, and groups serve several.

    Args:
      state: the controller's state.
      key: the round's key; the draw is anew in every round.
      group_of: [C] group of each client.
      groups: M.
      most: clients sampled in a group; 0 takes all.
      help_out: groups left over train surviving candidates too, instead of resting.
    """
    group_of = jnp.asarray(group_of)  # numpy's cannot be indexed by a traced order
    key_groups, key_clients = jax.random.split(key)
    rank = jnp.cumsum(state.alive) - 1  # [K] place among the living
    living = jnp.maximum(1, jnp.sum(state.alive))
    place = jax.random.permutation(key_groups, groups)  # [M] each group's place in this round's draw
    enough = jnp.where(help_out, place[None, :] % living == rank[:, None], place[None, :] == rank[:, None])
    shared = place[None, :] == rank[:, None] % groups
    assign = jnp.where(living <= groups, enough, shared) & state.alive[:, None]
    cohort = jnp.ones(group_of.shape, bool)
    if most:
        # The rank of each client's random number within its group.
        order = jnp.lexsort((jax.random.uniform(key_clients, group_of.shape), group_of))
        first = jnp.cumsum(jnp.bincount(group_of, length=groups)) - jnp.bincount(group_of, length=groups)
        within = jnp.arange(group_of.shape[0]) - first[group_of[order]]
        cohort = jnp.zeros(group_of.shape, bool).at[order].set(within < most)
    return Plan(assign, cohort)


def tell(state: State, scores: ArrayLike) -> State:
    """The state after a round.

    At the end of a rung the best `keep` stay: by score, then the smaller resource, then the lower number. A score that
    is not finite never stays. Dropped is final. The last rung only removes scores that are not finite; `select` chooses
    among its survivors. A finished state stays as it is, so that policies of different lengths can be vmapped.

    Args:
      state: before the round.
      scores: [K]; only read where `wants_scores` said so, and there only of the living.
    """
    ends = state.rounds_done + 1 >= state.rungs.rounds[state.rung]
    last = state.rungs.rounds.shape[0] - 1
    counts = wants_scores(state)
    scores = jnp.where(counts & state.alive, jnp.asarray(scores, jnp.float32), state.scores)
    fit = state.alive & jnp.isfinite(scores)
    best = _order(jnp.where(fit, scores, -jnp.inf), fit, state.resource)
    place = jnp.argsort(best)  # [K] place in the ranking
    keep = jnp.where(state.rung == last, scores.shape[0], state.rungs.keep[state.rung])
    alive = jnp.where(counts, fit & (place < keep), state.alive)
    told = State(
        state.rungs,
        state.resource,
        alive,
        scores,
        state.rung + ends.astype(jnp.int32),
        jnp.where(ends, 0, state.rounds_done + 1),
    )
    over = finished(state)
    return jax.tree.map(lambda old, new: jnp.where(over, old, new), state, told)


def select(state: State, parent_score: ArrayLike, parent_resource: ArrayLike, ratio: bool = False) -> jax.Array:
    """The winner's number, or -1 where nobody is left with a finite score.

    Args:
      state: a finished iteration.
      parent_score: the parent's score; used for `ratio`.
      parent_resource: R of the parent; used for `ratio`.
      ratio: least accuracy lost for the resource saved, instead of the best score. Ties as in `tell`.
    """
    fit = state.alive & jnp.isfinite(state.scores)
    saved = jnp.maximum(parent_resource - state.resource, 1e-9)
    merit = jnp.where(ratio, -(parent_score - state.scores) / saved, state.scores)
    best = _order(jnp.where(fit, merit, -jnp.inf), fit, state.resource)[0]
    return jnp.where(jnp.any(fit), best, -1)


def _order(merit: jax.Array, fit: jax.Array, resource: jax.Array) -> jax.Array:
    """Candidates from best to worst: the fit by merit, then the smaller resource, then the lower number."""
    return jnp.lexsort((jnp.arange(merit.shape[0]), resource, -merit, ~fit))
