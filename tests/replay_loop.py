"""The slow twin of a replay: one policy on one iteration of recorded curves, round by round in plain Python."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Looped(NamedTuple):
    trains: np.ndarray  # [R, K]
    scored: np.ndarray  # [R, K]
    alive: np.ndarray  # [R, K]
    unscored: bool
    too_long: bool
    winner: int


def loop(policy: Any, curves: Any, i: int) -> Looped:
    """What a policy would have done in the iteration of index i."""
    table = policy.table(i + 1, len(curves.names[i]))
    state = policy.init(table, jnp.asarray(curves.exists[i]), jnp.asarray(curves.resource[i]))
    form = curves.scores.shape[1:]
    trains, scored, alive = (np.zeros(form, bool) for _ in range(3))
    missing, done = False, 0
    for r in range(form[0]):
        if not policy.finished(state):
            done += 1
            trains[r] = policy.plan(state)
            told = np.full(form[1], np.nan, np.float32)
            for k in range(form[1]):
                missing |= bool(trains[r, k] and not curves.trained[i, r, k])
                if policy.wants_scores(state) and state.alive[k]:
                    scored[r, k] = True
                    missing |= not curves.scored[i, r, k]
                    told[k] = curves.scores[i, r, k]
            state = policy.tell(state, told)
        alive[r] = state.alive
    too_long = not policy.finished(state) or done > curves.lengths[i]
    winner = int(policy.select(state, curves.parent_score[i], curves.parent_resource[i]))
    return Looped(trains, scored, alive, missing and not too_long, too_long, winner)
