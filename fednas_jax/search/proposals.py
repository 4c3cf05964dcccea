"""From a parent and a target to candidates: their widths, and which channels they keep. Host-side and pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.search.resources import Goal, Resource, goal_of
from fednas_jax.seeds import Purpose, generator
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths


class Proposal(NamedTuple):
    """A candidate before it is trained."""

    name: str  # what was shrunk: a width group, 'random 3', 'uniform 0.71'
    widths: Widths


def target_of(space: Space, config: SearchConfig, widths: Widths, iteration: int, goal: Goal | None = None) -> float:
    """R_i = R(w) - rho R(w0) d^(i-1): what a candidate of iteration i must stay under [NetAdapt, section 3].

    R is the resource that exceeds its budget most; `goal` is made of the config where it is not given.
    """
    table = (goal or goal_of(space, config, check=False)).most_exceeded(widths)
    return table(widths) - config.reduction * table(space.widths) * config.decay ** (iteration - 1)


def propose(
    space: Space, config: SearchConfig, widths: Widths, iteration: int, seed: int, goal: Goal | None = None
) -> list[Proposal]:
    """The candidates of an iteration that bring the resource strictly under its target; none: nothing is feasible.

    Of several resources that is the one that exceeds its budget most.

    Args:
      space: groups, multiples and costs.
      config: resource, target and the kind of proposals.
      widths: the parent's.
      iteration: i = 1, 2, ...
      seed: the run's; used for random widths.
      goal: resources and budgets; made of the config where it is not given.
    """
    goal = goal or goal_of(space, config, check=False)
    target = target_of(space, config, widths, iteration, goal)
    table = goal.most_exceeded(widths)
    if config.proposals == "random":
        return _random(space, table, widths, target, config.random_candidates, seed, iteration)
    if config.proposals == "uniform":
        return _uniform(space, table, widths, target)
    return _one_group_each(space, table, widths, target)


def most_candidates(space: Space, config: SearchConfig) -> int:
    """K: the most candidates an iteration can have.

    Raises:
      ConfigError: a rung keeps more than that.
    """
    kinds = {"groups": len(space.groups), "random": config.random_candidates, "uniform": 1}
    most = kinds[config.proposals or "groups"]
    kept = max(keep for _, keep in config.rungs)
    if config.early_dropping and config.proposals != "uniform" and kept > most:
        raise ConfigError(f"search.rungs: got keep={kept:g}, want at most {most}, the number of candidates")
    return most


def keep_masks(
    norms: tuple[Any, ...], kept: tuple[np.ndarray, ...], widths: Widths, blocks: Sequence[int] | None = None
) -> tuple[np.ndarray, ...]:
    """Which channels a candidate keeps: those of its parent with the largest filters [NetAdapt, section 3.3].

    Where channels are normalised together, whole blocks of them are kept: those with the largest filters in all.

    Args:
      norms: for each group [width] the L2 norm of each channel's filters.
      kept: for each group [width] bool, the parent's channels, whole blocks.
      widths: the candidate's, whole blocks.
      blocks: for each group the channels that leave together (`Space.blocks`); None: each alone.

    Returns:
      For each group [width] bool with widths[g] true. Equal norms keep the lower number.
    """
    masks = []
    for norm, mask, width, block in zip(norms, kept, widths, blocks or [1] * len(widths), strict=True):
        squares = np.square(np.asarray(norm, np.float64)).reshape(-1, block).sum(1)
        order = np.argsort(np.where(mask[::block], -squares, np.inf), kind="stable")
        chosen = np.zeros(len(order), bool)
        chosen[order[: width // block]] = True
        masks.append(np.repeat(chosen, block))
    return tuple(masks)


def _one_group_each(space: Space, table: Resource, widths: Widths, target: float) -> list[Proposal]:
    """For each group the largest smaller multiple that meets the target; 0, where a block can be removed, is one."""
    found = []
    for g, (name, step) in enumerate(zip(space.groups, space.multiple, strict=True)):
        choices = np.arange(space.smallest[g], widths[g], step)[::-1]
        tried = np.tile(np.asarray(widths), (len(choices), 1))
        tried[:, g] = choices
        fits = np.flatnonzero(table(tried) < target)
        if len(fits):
            found.append(Proposal(name, tuple(int(w) for w in tried[fits[0]])))
    return found


def _uniform(space: Space, table: Resource, widths: Widths, target: float) -> list[Proposal]:
    """The largest width multiplier that meets the target, each width rounded down to its multiple.

    A width multiplier is not meant to remove blocks: rounding down to 0 is for targets that cannot be met otherwise.
    """
    whole, step = np.asarray(space.widths), np.asarray(space.multiple)
    for least in dict.fromkeys((space.multiple, space.smallest)):
        for multiplier in np.arange(999, 0, -1) / 1000:
            scaled = np.minimum(widths, np.maximum(least, (whole * multiplier).astype(int) // step * step))
            if table(scaled) < target:
                return [Proposal(f"uniform {multiplier:.3f}", tuple(int(w) for w in scaled))]
    return []


def _random(
    space: Space, table: Resource, widths: Widths, target: float, count: int, seed: int, iteration: int
) -> list[Proposal]:
    """Random walks down from the parent: one multiple off a random group, until the target is met."""
    rng = generator(seed, Purpose.PROPOSE, iteration)
    step, least = np.asarray(space.multiple), np.asarray(space.smallest)
    found: dict[Widths, None] = {}  # in order, without repeats
    for _ in range(count):
        walk = np.array(widths)
        while table(walk) >= target:
            able = np.flatnonzero(walk > least)
            if not len(able):
                return []
            g = rng.choice(able)
            walk[g] = max(least[g], (walk[g] - 1) // step[g] * step[g])
        found[tuple(int(w) for w in walk)] = None
    return [Proposal(f"random {n}", w) for n, w in enumerate(found)]


class Proposer(NamedTuple):
    """Shim."""

    most: int
    propose: Any


def proposer_of(space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """Shim."""
    return Proposer(most_candidates(space, search), lambda w, i, s: propose(space, search, w, i, s, goal))
