"""A scoring panel that grows until a decision is clear: a sequential paired test, as pure functions of counts.

The panel's clients score all candidates, so that candidates are compared on the same examples. It begins with few
clients and doubles. After each look the policy's decision is taken for what it claims, that whoever stays is as good as
whoever goes, and every claim is tested on the paired differences; where all are clear, nobody else is asked.

Error rate: with a probability of at most `error` the panel stops early although, over all clients, somebody who goes is
better than somebody who stays by more than `tolerance`. It is divided equally among the looks and among the claims of
a look (Bonferroni), so it holds whatever their dependence; each test is Student's t of a ratio estimate from clients
drawn without replacement [Cochran 1977, Sampling Techniques, sections 2.8 and 6.4], an approximation that tests hold
against simulations. A panel that has reached its full size decides as a fixed one of that size does, with its error.

Letters: K slots for candidates, N clients of the panel, C clients.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import special

from fednas_jax.search.policies import Policy


class Counts(NamedTuple):
    """What the panel has counted so far."""

    correct: np.ndarray  # [N, K] int64: examples that each client's candidates had right
    total: np.ndarray  # [N] int64: validation examples of each client

    @property
    def scores(self) -> np.ndarray:
        """[K] float64: share of all examples."""
        scores: np.ndarray = self.correct.sum(0) / max(1, int(self.total.sum()))
        return scores


def sizes(first: int, most: int) -> list[int]:
    """Clients that are asked in each stage: `first`, then as many again as before, `most` in all.

    Args:
      first: at least 1.
      most: below `first`: there is one stage.
    """
    stages = [first]
    while sum(stages) < most:
        stages.append(min(sum(stages), most - sum(stages)))
    return stages


def claims(
    policy: Policy, state: Any, scores: np.ndarray, parent_score: np.float32, parent_resource: np.float32
) -> list[tuple[int, int]]:
    """What the policy would decide by these scores, as pairs: the first stays or wins, the second goes or loses.

    Args:
      policy: of the search, in which the better score is preferred.
      state: before the round's scores.
      scores: [K], NaN for who has none: that one goes in any case, and is not compared.
      parent_score: as `Policy.select` takes it.
      parent_resource: likewise.
    """
    alive = np.asarray(state.alive) & np.isfinite(scores)
    after = policy.tell(state, scores.astype(np.float32))
    stays = np.asarray(after.alive) & alive
    if bool(policy.finished(after)):
        stays &= np.arange(len(scores)) == int(policy.select(after, parent_score, parent_resource))
    return [(int(a), int(b)) for a in np.flatnonzero(stays) for b in np.flatnonzero(alive & ~stays)]


def clear(
    counts: Counts, pairs: list[tuple[int, int]], clients: int, looks: int, error: float, tolerance: float
) -> bool:
    """Whether every claim is clear at this look.

    Args:
      counts: of the N clients asked so far.
      pairs: (a, b), the claim that a's accuracy over all clients is not below b's by more than `tolerance`.
      clients: C that they were drawn from.
      looks: at which the panel may stop early, over which `error` is spent.
      error: rate of wrong claims among the early decisions of a panel.
      tolerance: difference in accuracy that does not matter.
    """
    if not pairs:
        return True
    asked, examples = len(counts.total), float(counts.total.sum())
    if asked < 2 or not examples:
        return False
    least = special.stdtrit(asked - 1, 1 - error / (looks * len(pairs)))
    drawn = max(0.0, 1 - asked / clients)  # who is asked anyway is no matter of chance
    for a, b in pairs:
        difference = counts.correct[:, a] - counts.correct[:, b]
        mean = difference.sum() / examples
        # One more example as if it differed: some few clients on which two agree by chance prove nothing.
        squares = ((difference - mean * counts.total) ** 2).sum() + 1.0
        deviation = np.sqrt(drawn * squares * asked / (asked - 1)) / examples
        if mean + tolerance <= least * deviation:
            return False
    return True
