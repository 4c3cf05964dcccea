"""How sure a number is: 95 % intervals of shares, means, differences and ratios. Pure functions of numbers.

Runs that differ in their seed alone are few, so means take Student's t; where two methods ran on the same seeds, their
differences are paired, since a seed decides data, division and initial weights of both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95  # that an interval holds the true value


class Estimate(NamedTuple):
    """A number and its 95 % interval; None where there are too few values for one."""

    value: float
    low: float | None
    high: float | None
    values: int  # it is of

    def times(self, factor: float) -> Estimate:
        """The same in another unit, such as percent."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Estimate(factor * self.value, low, high, self.values)


def wilson(share: float, examples: int) -> tuple[float, float]:
    """Wilson's score interval of a share of examples, such as an accuracy.

    Unlike the normal approximation it stays within 0 and 1, and is no point at 0 or 1. Source: Wilson 1927, JASA 22.

    Args:
      share: found, from 0 to 1.
      examples: that it was found on, at least 1.

    Returns:
      Its low and high end.
    """
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    inside = share * (1 - share) / examples + z * z / (4 * examples * examples)
    middle, half = share + z * z / (2 * examples), z * math.sqrt(max(0.0, inside))
    scale = 1 + z * z / examples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def of_seed(pairs: Iterable[tuple[int, object]]) -> bool:
    """Whether every seed has a value to itself, so that the value belongs to the seed and tells no methods apart.

    Args:
      pairs: seed and value of each run. Of one seed alone nothing can be said: False.
    """
    found = set(pairs)
    seeds, values = ({pair[n] for pair in found} for n in (0, 1))
    return len(seeds) == len(values) == len(found) > 1


def mean(values: Sequence[float]) -> Estimate:
    """The mean and its interval by Student's t.

    Args:
      values: at least one; of one there is no interval.
    """
    found, count = np.asarray(values, float), len(values)
    value = float(found.mean())
    if count < 2:
        return Estimate(value, None, None, count)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1) * found.std(ddof=1) / math.sqrt(count))
    return Estimate(value, value - half, value + half, count)


def explained(groups: Sequence[Sequence[float]]) -> float:
    """How much of the values' variance their groups explain beyond chance: the adjusted R².

    Unlike how far the groups' means are apart, it does not grow where groups are many and small. Source: Ezekiel 1930,
    Methods of Correlation Analysis.

    Args:
      groups: values, at least one in each.

    Returns:
      At most 1, about 0 for chance alone; 0 where there is one group or no group has two values.
    """
    values = np.concatenate([np.asarray(group, float) for group in groups])
    free, every = len(values) - len(groups), float(values.var())
    if len(groups) < 2 or not free or not every:
        return 0.0
    within = sum(float(np.var(group)) * len(group) for group in groups) / free
    return 1 - within / (every * len(values) / (len(values) - 1))


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """The mean of a less that of b, by seed: paired over the seeds that both have, else Welch's.

    Args:
      a: value by seed.
      b: likewise.

    Returns:
      None where one of them has no value.
    """
    if not a or not b:
        return None
    shared = sorted(a.keys() & b.keys())
    if shared:
        return mean([a[seed] - b[seed] for seed in shared])
    return _welch(list(a.values()), list(b.values()))


def ratio(a: Mapping[int, float], b: Mapping[int, float]) -> Estimate | None:
    """How many times b is in a: the geometric mean of ratios, its interval by the logarithm's; paired as `difference`.

    Args:
      a: value by seed, above 0.
      b: likewise.

    Returns:
      None where one of them has no value, or one that is not above 0.
    """
    if not all(value > 0 for value in (*a.values(), *b.values())):
        return None
    logs = difference(*({seed: math.log(value) for seed, value in of.items()} for of in (a, b)))
    if logs is None:
        return None
    low, high = (None if end is None else _exp(end) for end in (logs.low, logs.high))
    return Estimate(_exp(logs.value), low, high, logs.values)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # what a float can hold: two odd seeds may give any interval


def _welch(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """The difference of two means whose variances may differ; source: Welch 1947, Biometrika 34."""
    value, count = float(np.mean(a) - np.mean(b)), min(len(a), len(b))
    if count < 2:
        return Estimate(value, None, None, count)
    parts = [float(np.var(of, ddof=1)) / len(of) for of in (a, b)]
    if not sum(parts):
        return Estimate(value, value, value, count)
    freedom = sum(parts) ** 2 / sum(p * p / (len(of) - 1) for p, of in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(sum(parts))
    return Estimate(value, value - half, value + half, count)
