"""Whose clients train what: clients in groups of nearly equal data, and the draw that gives groups to candidates.

Letters: K slots for candidates, M client groups, C clients.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class Draw(NamedTuple):
    """A round's draw: candidate k is trained by the cohort's clients of the groups m with assign[k, m]."""

    assign: jax.Array  # [K, M] bool
    cohort: jax.Array  # [C] bool


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


def draw(
    alive: ArrayLike, key: jax.Array, group_of: ArrayLike, groups: int, most: int = 0, help_out: bool = False
) -> Draw:
    """Draws a round: which group trains which candidate, and who of the group takes part.

    While there are enough groups no group serves two candidates; with more candidates than groups each candidate has
    one group, and groups serve several.

    Args:
      alive: [K] bool: the candidates that train in this round.
      key: the round's key; the draw is anew in every round.
      group_of: [C] group of each client.
      groups: M.
      most: clients sampled in a group; 0 takes all.
      help_out: groups left over train these candidates too, instead of resting.
    """
    alive, group_of = jnp.asarray(alive), jnp.asarray(group_of)
    key_groups, key_clients = jax.random.split(key)
    rank = jnp.cumsum(alive) - 1  # [K] place among the living
    living = jnp.maximum(1, jnp.sum(alive))
    place = jax.random.permutation(key_groups, groups)  # [M] each group's place in this round's draw
    enough = jnp.where(help_out, place[None, :] % living == rank[:, None], place[None, :] == rank[:, None])
    shared = place[None, :] == rank[:, None] % groups
    assign = jnp.where(living <= groups, enough, shared) & alive[:, None]
    cohort = jnp.ones(group_of.shape, bool)
    if most:
        # The rank of each client's random number within its group.
        order = jnp.lexsort((jax.random.uniform(key_clients, group_of.shape), group_of))
        first = jnp.cumsum(jnp.bincount(group_of, length=groups)) - jnp.bincount(group_of, length=groups)
        within = jnp.arange(group_of.shape[0]) - first[group_of[order]]
        cohort = jnp.zeros(group_of.shape, bool).at[order].set(within < most)
    return Draw(assign, cohort)
