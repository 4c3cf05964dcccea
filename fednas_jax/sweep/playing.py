"""Elimination policies played on recorded curves, many at once: a policy is pure, so tables of one form are vmapped.

Letters: P policies, I iterations, R rounds, K slots.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.search.policies import Policy
from fednas_jax.sweep.curves import Curves

AT_ONCE = 1 << 22  # numbers of a [K, K] comparison that are held at a time


class Played(NamedTuple):
    """What policies would have done in each iteration."""

    trains: np.ndarray  # [P, I, R, K] bool: who trains in a round
    scored: np.ndarray  # [P, I, R, K] bool: who is scored after it
    alive: np.ndarray  # [P, I, R, K] bool: who is left after it
    unscored: np.ndarray  # [P, I] bool: it wants a score that was not recorded; what follows means nothing
    too_long: np.ndarray  # [P, I] bool: it is not over after the recorded rounds
    winner: np.ndarray  # [P, I] int: -1 nobody was left with a finite score


class _Recorded(NamedTuple):
    """One iteration of the curves, as the policies see it."""

    alive: Any  # [K] bool
    resource: Any  # [K]
    parent_score: Any
    parent_resource: Any
    scores: Any  # [R, K]
    scored: Any  # [R, K]
    trained: Any  # [R, K]
    length: Any  # rounds that were recorded


def play(policies: Sequence[Policy], curves: Curves) -> Played:
    """Plays policies on recorded curves.

    Policies whose functions are the same code over the same values, and whose tables have one form, are one program.

    Args:
      policies: P of them, in any order.
      curves: of a run.

    Raises:
      ConfigError: a policy cannot have that many candidates.
    """
    form = curves.scores.shape
    many, (iterations, _, slots) = len(policies), form
    found = Played(
        trains=np.zeros((many, *form), bool),
        scored=np.zeros((many, *form), bool),
        alive=np.zeros((many, *form), bool),
        unscored=np.zeros((many, iterations), bool),
        too_long=np.zeros((many, iterations), bool),
        winner=np.zeros((many, iterations), np.int64),
    )
    alike: dict[Hashable, list[int]] = {}
    tables = []
    for p, policy in enumerate(policies):
        each = [policy.table(i + 1, len(names)) for i, names in enumerate(curves.names)]
        tables.append(jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *each))
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tables[-1]))
        key = (jax.tree.structure(tables[-1]), shapes, tuple(same_code(function) for function in policy[1:]))
        alike.setdefault(key, []).append(p)
    recorded = _Recorded(
        curves.exists,
        curves.resource,
        curves.parent_score,
        curves.parent_resource,
        curves.scores,
        curves.scored,
        curves.trained,
        curves.lengths,
    )
    most = max(1, AT_ONCE // (iterations * slots**2))
    for group in alike.values():
        program = jax.jit(_many(policies[group[0]]))
        size = min(most, len(group))
        for first in range(0, len(group), size):
            some = group[first : first + size]
            # The last part is filled up with its first policy, so that it has the shape of the others.
            filled = [*some, *some[:1] * (size - len(some))]
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(tables[p] for p in filled))
            done = jax.device_get(program(stacked, recorded))
            for into, values in zip(found, done, strict=True):
                into[some] = values[: len(some)]
    return found


def same_code(function: Callable[..., Any]) -> Hashable:
    """What two functions have in common that do the same: their code, and the values that it holds on to.

    Values that cannot be compared count as themselves alone.
    """
    try:
        return _value(function)
    except (RecursionError, ValueError):  # a function that holds on to itself, or to nothing yet
        return id(function)


def _value(value: Any) -> Hashable:
    if isinstance(value, functools.partial):
        return _value(value.func), tuple(map(_value, value.args)), _value(tuple(value.keywords.items()))
    if isinstance(value, types.FunctionType):
        cells = tuple(_value(cell.cell_contents) for cell in value.__closure__ or ())
        given = _value(value.__defaults__), _value(tuple((value.__kwdefaults__ or {}).items()))
        return value.__code__, value.__module__, cells, given
    if isinstance(value, tuple):
        return type(value), tuple(map(_value, value))
    if isinstance(value, bool | int | float | str | None):
        return type(value), repr(value)
    return id(value)


def _many(policy: Policy) -> Callable[[Any, _Recorded], tuple[jax.Array, ...]]:
    """(tables [P, I, ...], curves [I, ...]) -> the fields of Played, of policies that differ in their tables alone."""
    return jax.vmap(jax.vmap(functools.partial(_iteration, policy)), in_axes=(0, None))


def _iteration(policy: Policy, table: Any, recorded: _Recorded) -> tuple[jax.Array, ...]:
    """One iteration under one policy; the same as the run's own loop, but for where its scores come from."""
    begun = policy.init(table, recorded.alive, recorded.resource)

    def one_round(state: Any, now: tuple[jax.Array, ...]) -> tuple[Any, tuple[jax.Array, ...]]:
        scores, scored, trained = now
        over = policy.finished(state)
        trains, asked = policy.plan(state) & ~over, policy.wants_scores(state) & ~over & state.alive
        missing = jnp.any((asked & ~scored) | (trains & ~trained))
        after = policy.tell(state, jnp.where(asked, scores, jnp.nan))
        state = jax.tree.map(functools.partial(jnp.where, over), state, after)
        return state, (trains, asked, state.alive, missing)

    end, (trains, asked, alive, missing) = jax.lax.scan(
        one_round, begun, (recorded.scores, recorded.scored, recorded.trained)
    )
    chosen = policy.select(end, recorded.parent_score, recorded.parent_resource)
    too_long = ~policy.finished(end) | (jnp.sum(jnp.any(trains, axis=1)) > recorded.length)
    return trains, asked, alive, jnp.any(missing) & ~too_long, too_long, chosen
