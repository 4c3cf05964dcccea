"""Who trains on and who is dropped within an iteration: what an elimination policy is, and what all of them share.

A policy is a record of pure functions of a table (plain numbers, what changes from iteration to iteration) and a state
(arrays of fixed size): they can be jitted, vmapped over states and over tables of one form, and a state can be saved
and restored in the midst of an iteration. A policy knows nothing of networks, clients or data.

The same for every policy:
- Rounds grow by `lengthened`: by `search.growth` with each iteration, or to `search.settle_rounds`.
- Who is better: the higher score, then the smaller resource, then the lower number (`places`).
- A score that is not finite never stays and never wins. Dropped is final.
- The last round drops nobody else: `winner` chooses among its survivors, by `search.select`.
- `search.early_dropping=False` is the policy `none`, with the arguments that `search.policy` gives it, if it is that.
- Under `search.score_alone=False` the only one left is not scored again.

Letters: K slots for candidates, of which some may be empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fednas_jax.config.registries import POLICIES
from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt, own_module
from fednas_jax.search import trial

FIELD = POLICIES.field  # whose value a message is about


class Progress(NamedTuple):
    """Where an iteration is, each from 1: numbers, or int32 arrays where it is asked for under jit."""

    rung: Any  # that the next round belongs to: a rung ends where somebody may be dropped
    rungs: Any
    round: Any  # the next one
    rounds: Any  # of the iteration, at most; the same in all of its states


class Policy(NamedTuple):
    """An elimination policy. A state is any pytree of arrays with the fields `alive` [K] bool and `scores` [K] float32.

    `scores` are the latest of each candidate, NaN before the first. All functions but `table` can be jitted.
    """

    table: Callable[[int, int], Any]
    """(iteration from 1, number of candidates) -> numpy arrays, whose shapes are always the same."""
    init: Callable[[Any, ArrayLike, ArrayLike], Any]
    """(table, alive [K] bool, resource [K] float32) -> the state at the start of the iteration; R of each candidate."""
    plan: Callable[[Any], jax.Array]
    """state -> [K] bool: who trains in the next round, nobody that was dropped."""
    wants_scores: Callable[[Any], jax.Array]
    """state -> bool: whether all who live are to be scored after the next round; scoring costs the clients."""
    tell: Callable[[Any, ArrayLike], Any]
    """(state, scores [K]) -> the state after the round. Scores are read where they were wanted, and of the living."""
    select: Callable[[Any, ArrayLike, ArrayLike], jax.Array]
    """(finished state, the parent's score, the parent's R) -> the winner's number; -1: nobody is left."""
    finished: Callable[[Any], jax.Array]
    """state -> bool: the iteration is over. From then on `tell` changes nothing."""
    progress: Callable[[Any], Progress]
    """state -> where it is."""


def policy_of(search: SearchConfig, tried: bool = True) -> Policy:
    """The elimination policy of a search. One of the user's own is tried out on made-up scores first.

    Args:
      search: `policy`, or `rungs` where that is open; without `early_dropping` it is `none`.
      tried: False where the same policy was tried out before, with other settings.

    Raises:
      ConfigError: there is no such policy, it takes no such arguments, or breaks its contract (`trial.check`).
    """
    name = search.policy or "rungs"
    if not search.early_dropping and POLICIES.parse(name).name != "none":
        name = "none"
    policy = POLICIES.get(name)(search)
    if not isinstance(policy, Policy):
        raise ConfigError(f"{FIELD}: {name} returned {type(policy).__name__}, want a Policy (docs/extend.md)")
    if tried and POLICIES.checksum(name) is not None:
        module = own_module(name, FIELD) if POLICIES.parse(name).own else None
        attempt(f"{FIELD}: {name}", module, lambda: trial.check(policy, f"{FIELD}: {name}"))
    return policy if search.score_alone else _sparing(policy)


def _sparing(policy: Policy) -> Policy:
    """The policy, under which a candidate that is alone is told its latest score again, instead of being scored."""

    def spares(state: Any) -> jax.Array:
        return (jnp.sum(state.alive) == 1) & jnp.any(state.alive & jnp.isfinite(state.scores))

    def wants_scores(state: Any) -> jax.Array:
        return policy.wants_scores(state) & ~spares(state)

    def tell(state: Any, scores: ArrayLike) -> Any:
        return policy.tell(state, jnp.where(spares(state), state.scores, jnp.asarray(scores, jnp.float32)))

    return policy._replace(wants_scores=wants_scores, tell=tell)


def compiled(policy: Policy) -> Policy:
    """The policy with every function of states jitted."""
    return Policy(policy.table, *(jax.jit(function) for function in policy[1:]))


def progress_of(policy: Policy, state: Any) -> Progress:
    """Where an iteration is, in Python's numbers.

    Raises:
      ConfigError: it goes on for longer than it said.
    """
    at = Progress(*(int(number) for number in policy.progress(state)))
    if at.round > at.rounds:
        raise ConfigError(f"{FIELD}: got a round {at.round}, want at most the {at.rounds} that the policy says itself")
    return at


def lengthened(search: SearchConfig, rounds: Sequence[int], iteration: int) -> list[int]:
    """The rounds of consecutive rungs in an iteration.

    With dynamic rounds: rounds_i = min(cap, round(r0 + growth (i - 1))) for every rung. Without: the rungs as given,
    the last one stretched (or cut) so that a survivor trains `settle_rounds` in all.

    Args:
      search: growth, cap and switches.
      rounds: of each rung in the first iteration.
      iteration: i = 1, 2, ...
    """
    if search.dynamic_rounds:
        grown = search.growth * (iteration - 1)
        return [min(search.round_cap, math.floor(r + grown + 0.5)) for r in rounds]
    return [*rounds[:-1], max(1, search.settle_rounds - sum(rounds[:-1]))]


def places(merit: jax.Array, fit: jax.Array, resource: jax.Array, rivals: ArrayLike = True) -> jax.Array:
    """How many go before each candidate [K]: by merit, then the smaller resource, then the lower number.

    Args:
      merit: [K].
      fit: [K] bool; of the others no merit counts, and their own places mean nothing.
      resource: [K].
      rivals: [K, K] bool: who competes with whom.
    """
    number = jnp.arange(len(merit))

    def pairs(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        return values[:, None], values[None, :]

    (merit_j, merit_k), (resource_j, resource_k), (j, k) = pairs(merit), pairs(resource), pairs(number)
    lighter = (resource_j < resource_k) | ((resource_j == resource_k) & (j < k))
    before = (merit_j > merit_k) | ((merit_j == merit_k) & lighter)
    return jnp.sum(before & fit[:, None] & rivals, axis=0)


def winner(
    alive: jax.Array,
    scores: jax.Array,
    resource: jax.Array,
    parent_score: ArrayLike,
    parent_resource: ArrayLike,
    ratio: bool = False,
) -> jax.Array:
    """The number of the best candidate, or -1 where nobody is left with a finite score.

    Args:
      alive: [K] bool.
      scores: [K].
      resource: [K] R of each.
      parent_score: the parent's score; used for `ratio`.
      parent_resource: R of the parent; used for `ratio`.
      ratio: least accuracy lost for the resource saved, instead of the best score.
    """
    fit = alive & jnp.isfinite(scores)
    merit: Any = scores
    if ratio:
        merit = -(parent_score - scores) / jnp.maximum(parent_resource - resource, 1e-9)
    place = jnp.where(fit, places(merit, fit, resource), len(scores))
    return jnp.where(jnp.any(fit), jnp.argmin(place), -1)


def needs_whole(name: str, value: Any, least: int, most: float = math.inf, why: str = "") -> None:
    """Refuses an argument of a policy that is no whole number within bounds.

    Raises:
      ConfigError: with the argument's name, the value got and those wanted.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        want = f"at least {least}" if most == math.inf else f"{least} to {most}{why}"
        raise ConfigError(f"{FIELD}: got {name}={value!r}, want a whole number, {want}")
