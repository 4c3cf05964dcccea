"""Tries a policy of the user's own on made-up scores before a run: what breaks its contract is refused in one line.

Letters: K slots for candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.errors import ConfigError

if TYPE_CHECKING:
    from fednas_jax.search.policies import Policy

SLOTS = 6  # of which the last is empty
MOST_ROUNDS = 100_000  # of an iteration: more than any search has


def check(policy: Policy, what: str) -> None:
    """Goes through iterations of one, some and all candidates, with scores of which some are not finite.

    Args:
      policy: to be tried; its functions are jitted.
      what: names it, for the message.

    Raises:
      ConfigError: with what it does against its contract, and what is wanted.
    """
    policy = type(policy)(policy.table, *(jax.jit(function) for function in policy[1:]))
    rng = np.random.default_rng(0)
    form = None
    for iteration, candidates in ((1, SLOTS - 1), (9, 3), (2, 1)):
        table = jax.tree.map(np.asarray, policy.table(iteration, candidates))
        if form not in (None, _form(table)):
            raise ConfigError(f"{what} has tables of {form}, then of {_form(table)}, want one form in all iterations")
        form = _form(table)
        told = rng.uniform(size=(64, SLOTS)).astype(np.float32)
        _iteration(policy, what, table, np.arange(SLOTS) < candidates, told)
        told[:, 0] = np.nan
        _iteration(policy, what, table, np.arange(SLOTS) < candidates, told)
        _iteration(policy, what, table, np.arange(SLOTS) < candidates, np.full((1, SLOTS), np.inf, np.float32))


def _iteration(policy: Policy, what: str, table: Any, alive: np.ndarray, told: np.ndarray) -> None:
    """One iteration, told these scores over and over."""
    state = policy.init(table, jnp.asarray(alive), jnp.arange(SLOTS, 0, -1, dtype=jnp.float32))
    for name, dtype in (("alive", bool), ("scores", np.float32)):
        found = getattr(state, name, None)
        if found is None or np.shape(found) != (SLOTS,) or found.dtype != dtype:
            want = f"want one with {name}, [K] {np.dtype(dtype)}"
            raise ConfigError(f"{what} has the state {type(state).__name__}, {want}")
    rounds = int(policy.progress(state).rounds)
    if not 1 <= rounds <= MOST_ROUNDS:
        raise ConfigError(f"{what} says that an iteration has {rounds} rounds, want 1 to {MOST_ROUNDS}")
    done, scored = 0, False
    while not policy.finished(state):
        if done == rounds:
            raise ConfigError(f"{what} is not finished after round {rounds}, want at most {rounds} as it says itself")
        trains, before = np.asarray(policy.plan(state)), np.asarray(state.alive)
        if trains.shape != (SLOTS,) or trains.dtype != bool:
            raise ConfigError(f"{what} plans {trains.dtype} of {trains.shape}, want bool of ({SLOTS},), all slots")
        if (trains & ~before).any():
            raise ConfigError(f"{what} trains a candidate that is dropped, want only those who live")
        if not trains.any():
            raise ConfigError(f"{what} trains nobody in round {done + 1}, want at least one until it is finished")
        scored |= bool(policy.wants_scores(state))
        after = policy.tell(state, told[done % len(told)])
        if _form(after) != _form(state):
            raise ConfigError(f"{what} turns a state of {_form(state)} into {_form(after)}, want the same form")
        if (np.asarray(after.alive) & ~before).any():
            raise ConfigError(f"{what} takes a dropped candidate back, want dropped to be final")
        state, done = after, done + 1
    chosen = int(policy.select(state, jnp.float32(0.5), jnp.float32(99)))
    left = np.asarray(state.alive) & np.isfinite(state.scores)
    if not scored:
        raise ConfigError(f"{what} never wants scores, want them before the end, to select a winner by")
    if chosen == -1 and (left.any() or np.isfinite(told[:, alive]).all()):
        raise ConfigError(f"{what} selects nobody, want one where somebody had a finite score")
    if chosen != -1 and not (0 <= chosen < SLOTS and state.alive[chosen]):
        raise ConfigError(f"{what} selects candidate {chosen}, want one who lives, or -1")
    if chosen != -1 and not np.isfinite(state.scores[chosen]):
        raise ConfigError(f"{what} selects a candidate with the score {state.scores[chosen]}, want a finite one")


def _form(tree: Any) -> str:
    """Names, shapes and dtypes of a tree's arrays."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return ", ".join(
        f"{jax.tree_util.keystr(path).strip('.') or 'array'} {np.shape(leaf)} {np.asarray(leaf).dtype}"
        for path, leaf in leaves
    )
