"""Policies that may drop after every round, by a rule on the scores so far: the median stopping rule, or your own.

Letters: K slots for candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from fednas_jax.config.schema import SearchConfig
from fednas_jax.search.policies import Policy, Progress, lengthened, needs_whole, places, winner


class Seen(NamedTuple):
    """What a rule decides by. Of dropped candidates it holds what they had when they were dropped."""

    alive: jax.Array  # [K] bool: who has a finite score and lives
    scores: jax.Array  # [K] float32: the latest
    best: jax.Array  # [K] float32: the highest so far
    average: jax.Array  # [K] float32: the mean of all so far


class Table(NamedTuple):
    """One iteration's length: rounds in all, and how many of them pass before the first that is scored."""

    warmup: Any  # int32
    rounds: Any  # int32


class State(NamedTuple):
    """The policy in the midst of an iteration."""

    table: Table
    resource: jax.Array  # [K] float32
    alive: jax.Array  # [K] bool
    scores: jax.Array  # [K] float32
    best: jax.Array  # [K] float32, -inf before the first score
    total: jax.Array  # [K] float32: the sum of all scores so far
    scored: jax.Array  # [K] int32: their number
    done: jax.Array  # int32: rounds done in this iteration


def median(search: SearchConfig, warmup: int = 1, rounds: int = 8) -> Policy:
    """The median stopping rule [Golovin et al. 2017, Google Vizier, section 3.2.2], among an iteration's candidates.

    A candidate is dropped after a round if the best of its scores so far is below the median of the running averages
    of all who live. The rule is the paper's for trials that run side by side.

    Args:
      search: growth, settling and selection.
      warmup: rounds that pass before the first that is scored.
      rounds: of the first iteration.

    Raises:
      ConfigError: an argument is out of its bounds.
    """

    def stays(seen: Seen) -> jax.Array:
        ordered = jnp.sort(jnp.where(seen.alive, seen.average, jnp.inf))
        living = jnp.sum(seen.alive)
        middle = (ordered[jnp.maximum(living - 1, 0) // 2] + ordered[living // 2]) / 2
        return seen.best >= middle

    return from_rule(search, stays, warmup, rounds)


def from_rule(search: SearchConfig, stays: Callable[[Seen], jax.Array], warmup: int = 0, rounds: int = 8) -> Policy:
    """A policy that asks a rule after every round, for rules of your own.

    Whoever has the best score stays, whatever the rule says. Nobody is scored while only one is left, until the end.

    Args:
      search: growth, settling and selection.
      stays: what was seen -> [K] bool; read of the living. It must be jittable.
      warmup: rounds that pass before the first that is scored.
      rounds: of the first iteration.

    Raises:
      ConfigError: a number is out of its bounds.
    """
    needs_whole("warmup", warmup, 0)
    cap = search.round_cap if search.dynamic_rounds else math.inf
    needs_whole("rounds", rounds, 1, cap, " (search.round_cap)")
    ratio = search.select == "ratio"

    def table(iteration: int, candidates: int) -> Table:
        (length,) = lengthened(search, [rounds], iteration)
        return Table(np.int32(min(warmup, length - 1)), np.int32(length))

    def tell(state: State, scores: ArrayLike) -> State:
        counts = wants_scores(state) & state.alive
        given = jnp.asarray(scores, jnp.float32)
        fit = counts & jnp.isfinite(given)
        latest = jnp.where(counts, given, state.scores)
        best = jnp.where(fit, jnp.maximum(state.best, given), state.best)
        total, scored = state.total + jnp.where(fit, given, 0), state.scored + fit
        kept = stays(Seen(fit, latest, best, total / jnp.maximum(scored, 1)))
        kept |= (places(latest, fit, state.resource) == 0) | _last(state)
        done = state.done + (~finished(state)).astype(jnp.int32)
        alive = jnp.where(counts, fit & kept, state.alive)
        return State(state.table, state.resource, alive, latest, best, total, scored, done)

    def select(state: State, parent_score: ArrayLike, parent_resource: ArrayLike) -> jax.Array:
        return winner(state.alive, state.scores, state.resource, parent_score, parent_resource, ratio)

    return Policy(table, init, plan, wants_scores, tell, select, finished, progress)


def init(table: Table, alive: ArrayLike, resource: ArrayLike) -> State:
    """The start of an iteration."""
    table, alive = Table(*map(jnp.asarray, table)), jnp.asarray(alive)
    unscored = jnp.full(alive.shape, jnp.nan, jnp.float32)
    best, none = jnp.full(alive.shape, -jnp.inf, jnp.float32), jnp.zeros(alive.shape, jnp.float32)
    number = jnp.zeros(alive.shape, jnp.int32)
    return State(table, jnp.asarray(resource, jnp.float32), alive, unscored, best, none, number, jnp.int32(0))


def plan(state: State) -> jax.Array:
    """Who trains in the next round [K]."""
    return state.alive & (state.done < state.table.rounds)


def finished(state: State) -> jax.Array:
    """Whether the iteration is over: all rounds done, or nobody left."""
    return ~jnp.any(plan(state))


def wants_scores(state: State) -> jax.Array:
    """Whether the next round is scored: after the warm-up, while there is somebody to drop, and at the end."""
    decides = (state.done >= state.table.warmup) & (jnp.sum(state.alive) > 1)
    return (decides | _last(state)) & ~finished(state)


def progress(state: State) -> Progress:
    """Where the iteration is: the warm-up and the first scored round are a rung, as is each round after that."""
    warmup, rounds = state.table
    round_ = jnp.minimum(state.done + 1, rounds)
    return Progress(jnp.maximum(round_ - warmup, 1), rounds - warmup, round_, rounds)


def _last(state: State) -> jax.Array:
    return state.done + 1 == state.table.rounds
