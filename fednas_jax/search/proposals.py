"""From a parent and a target to candidates: their widths, and which channels they keep. Host-side and pure."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.config.registries import POLICIES, PROPOSALS
from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt, own_module
from fednas_jax.search.resources import Goal, Resource, goal_of
from fednas_jax.seeds import Purpose, generator
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths

FIELD = PROPOSALS.field  # whose value a message is about


class Proposal(NamedTuple):
    """A candidate before it is trained."""

    name: str  # what was shrunk: a width group, 'random 3', 'uniform 0.71'; unlike those of its iteration
    widths: Widths


class Proposer(NamedTuple):
    """A kind of proposals: what a function `(space, search, goal, **arguments)` returns."""

    most: int
    """K: the most candidates that an iteration can have."""
    propose: Callable[[Widths, int, int], list[Proposal]]
    """(the parent's widths, iteration from 1, the run's seed) -> candidates under the target; none: none is feasible.

    Each width is the parent's or a smaller multiple. Of several resources, the one that exceeds its budget most is
    brought under `target_of`."""


def target_of(space: Space, config: SearchConfig, widths: Widths, iteration: int, goal: Goal | None = None) -> float:
    """R_i = R(w) - rho R(w0) d^(i-1): what a candidate of iteration i must stay under [NetAdapt, section 3].

    R is the resource that exceeds its budget most; `goal` is made of the config where it is not given.
    """
    table = (goal or goal_of(space, config, check=False)).most_exceeded(widths)
    return table(widths) - config.reduction * table(space.widths) * config.decay ** (iteration - 1)


def proposer_of(space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """The proposals of a search. Those of the user's own are checked in every iteration.

    Args:
      space: groups, multiples and costs.
      search: the kind of proposals, target and rungs.
      goal: resources and budgets.

    Raises:
      ConfigError: there is no such kind, it takes no such arguments or returns no Proposer; or a rung keeps more
        candidates than there are.
    """
    name = search.proposals or "groups"
    found = PROPOSALS.get(name)(space, search, goal)
    if not isinstance(found, Proposer) or not isinstance(found.most, int) or found.most < 1:
        got = f"most={found.most!r}" if isinstance(found, Proposer) else type(found).__name__
        want = "want a Proposer with the most candidates of an iteration, at least 1 (docs/extend.md)"
        raise ConfigError(f"{FIELD}: {name} returned {got}, {want}")
    kept = max(keep for _, keep in search.rungs)
    by_rungs = search.early_dropping and POLICIES.parse(search.policy or "rungs").name == "rungs"
    if by_rungs and 1 < found.most < kept:
        raise ConfigError(f"search.rungs: got keep={kept:g}, want at most {found.most}, the number of candidates")
    return found if PROPOSALS.checksum(name) is None else checked(name, found, space, search, goal)


def checked(name: str, proposer: Proposer, space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """The proposer, of which every candidate is checked: in bounds, under the target, and unlike the others.

    Args:
      name: in the config, for the message.
      proposer: to be checked; it may return plain pairs (name, widths).
      space: groups and multiples.
      search: the target.
      goal: resources and budgets.
    """
    what = f"{FIELD}: {name}"
    module = own_module(name, FIELD) if PROPOSALS.parse(name).own else None

    def propose(widths: Widths, iteration: int, seed: int) -> list[Proposal]:
        def proposed() -> list[Proposal]:
            pairs = list(proposer.propose(widths, iteration, seed))
            return [Proposal(str(label), tuple(operator.index(w) for w in candidate)) for label, candidate in pairs]

        found = attempt(what, module, proposed)
        if len(found) > proposer.most:
            raise ConfigError(f"{what} proposes {len(found)} candidates, want at most {proposer.most}, its `most`")
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        for n, (label, candidate) in enumerate(found):
            got = f"{what} proposes {label!r} of widths {_text(candidate)}"
            if len(candidate) != len(widths):
                raise ConfigError(f"{got}, want {len(widths)} widths: {', '.join(space.groups)}")
            for g, width in enumerate(candidate):
                fits = space.smallest[g] <= width <= widths[g] and width % space.multiple[g] == 0
                if width != widths[g] and not fits:
                    least, step = max(space.smallest[g], 0), space.multiple[g]
                    want = f"want {space.groups[g]} from {least} to {widths[g]}, the parent's, a multiple of {step}"
                    raise ConfigError(f"{got}, {want}")
            if not resource(candidate) < target:
                want = f"want below {target:,.6g} {resource.unit}, the target of iteration {iteration}"
                raise ConfigError(f"{got}: {resource(candidate):,.6g} {resource.unit}, {want}")
            for other in found[:n]:
                if other.widths == candidate or other.name == label:
                    raise ConfigError(f"{got}, want names and widths unlike those of {other.name!r} before it")
        return found

    return Proposer(proposer.most, propose)


def groups(space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """For each group the largest smaller multiple that meets the target [NetAdapt, section 3].

    0, where a block can be removed, is a multiple.
    """

    def propose(widths: Widths, iteration: int, seed: int) -> list[Proposal]:
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        found = []
        for g, (name, step) in enumerate(zip(space.groups, space.multiple, strict=True)):
            choices = np.arange(space.smallest[g], widths[g], step)[::-1]
            tried = np.tile(np.asarray(widths), (len(choices), 1))
            tried[:, g] = choices
            fits = np.flatnonzero(resource(tried) < target)
            if len(fits):
                found.append(Proposal(name, tuple(int(w) for w in tried[fits[0]])))
        return found

    return Proposer(len(space.groups), propose)


def random(space: Space, search: SearchConfig, goal: Goal, candidates: int | None = None) -> Proposer:
    """Random walks down from the parent: one multiple off a random group, until the target is met.

    Args:
      space: groups and multiples.
      search: target, and `random_candidates`.
      goal: resources and budgets.
      candidates: of an iteration, instead of `search.random_candidates`; equal ones count once.

    Raises:
      ConfigError: no candidates are asked for.
    """
    count = search.random_candidates if candidates is None else candidates
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigError(f"{FIELD}: got random(candidates={count!r}), want a whole number, at least 1")
    step, least = np.asarray(space.multiple), np.asarray(space.smallest)

    def propose(widths: Widths, iteration: int, seed: int) -> list[Proposal]:
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        rng = generator(seed, Purpose.PROPOSE, iteration)
        found: dict[Widths, None] = {}  # in order, without repeats
        for _ in range(count):
            walk = np.array(widths)
            while resource(walk) >= target:
                able = np.flatnonzero(walk > least)
                if not len(able):
                    return []
                g = rng.choice(able)
                walk[g] = max(least[g], (walk[g] - 1) // step[g] * step[g])
            found[tuple(int(w) for w in walk)] = None
        return [Proposal(f"random {n}", w) for n, w in enumerate(found)]

    return Proposer(count, propose)


def uniform(space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """The largest width multiplier, a factor on the search's first widths, that meets the target."""

    def propose(widths: Widths, iteration: int, seed: int) -> list[Proposal]:
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        return _scaled("uniform", space.widths, space, resource, widths, target)

    return Proposer(1, propose)


def proportional(space: Space, search: SearchConfig, goal: Goal) -> Proposer:
    """The largest common factor on the parent's widths that meets the target."""

    def propose(widths: Widths, iteration: int, seed: int) -> list[Proposal]:
        target, resource = target_of(space, search, widths, iteration, goal), goal.most_exceeded(widths)
        return _scaled("proportional", widths, space, resource, widths, target)

    return Proposer(1, propose)


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


def _scaled(
    name: str, whole: Widths, space: Space, resource: Resource, widths: Widths, target: float
) -> list[Proposal]:
    """The largest factor on `whole` that meets the target, each width rounded down to its multiple.

    A factor is not meant to remove blocks: rounding down to 0 is for targets that cannot be met otherwise.
    """
    step = np.asarray(space.multiple)
    for least in dict.fromkeys((space.multiple, space.smallest)):
        for factor in np.arange(999, 0, -1) / 1000:
            scaled = np.minimum(widths, np.maximum(least, (np.asarray(whole) * factor).astype(int) // step * step))
            if resource(scaled) < target:
                return [Proposal(f"{name} {factor:.3f}", tuple(int(w) for w in scaled))]
    return []


def _text(widths: Widths) -> str:
    return "-".join(map(str, widths))
