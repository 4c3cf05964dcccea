"""The clients' learning rate over the rounds of pretraining and of fine-tuning: `train.schedule`.

A choice is a function of the number of rounds, given first, and of the arguments that stand in the config's text. It
gives a function of a round, counted from 0, whose value multiplies the learning rate. Plain Python, so that a schedule
is a table.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from fednas_jax.config.registries import SCHEDULES
from fednas_jax.config.schema import TrainConfig
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt

Schedule = Callable[[int], float]

MOST = 1e38  # a learning rate that float32 still takes


def constant(rounds: int, /) -> Schedule:
    """1 in every round."""
    del rounds
    return lambda n: 1.0


def cosine(rounds: int, /, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 towards `final`, which it would reach one round after the last [SGDR, eq. 5]."""
    return lambda n: final + (1 - final) * (1 + math.cos(math.pi * n / rounds)) / 2


def step(rounds: int, /, every: int = 10, factor: float = 0.5) -> Schedule:
    """Multiplied by `factor` after each `every` rounds.

    Raises:
      ConfigError: `every` below 1.
    """
    del rounds
    if every < 1:
        raise ConfigError(f"train.schedule: got step(every={every}), want every at least 1")
    return lambda n: factor ** (n // every)


def warmup(total: int, /, rounds: int = 5, then: str = "constant") -> Schedule:
    """Rises in equal steps during the first `rounds`, and then does as another schedule over those that are left.

    Args:
      total: number of rounds.
      rounds: of these, in which it rises: 1/(rounds + 1), 2/(rounds + 1), ...
      then: the schedule after them, as a config names it.

    Raises:
      ConfigError: `rounds` below 0.
    """
    if rounds < 0:
        raise ConfigError(f"train.schedule: got warmup(rounds={rounds}), want rounds at least 0")
    after = SCHEDULES.get(then)(max(1, total - rounds))
    return lambda n: (n + 1) / (rounds + 1) if n < rounds else after(n - rounds)


def rates(train: TrainConfig, rounds: int) -> list[float]:
    """The clients' learning rate in each of a stage's rounds: learning_rate x learning_rate_decay^round x schedule.

    Raises:
      ConfigError: the schedule fails, or gives what is no finite number of at least 0; or the rate becomes none.
    """
    what, factor = f"train.schedule: got {train.schedule!r}", SCHEDULES.get(train.schedule)(rounds)
    found = []
    for n in range(rounds):
        when = f"in round {n} of {rounds}"
        value = attempt(f"{what} {when}", None, functools.partial(factor, n))
        if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
            raise ConfigError(f"{what}, which gives {value!r} {when}, want a finite number of at least 0")
        try:
            rate = train.learning_rate * train.learning_rate_decay**n * value
        except OverflowError:
            rate = math.inf
        if not rate <= MOST:
            got = f"got {train.learning_rate}, which schedule and decay make {rate:.3g} {when}"
            raise ConfigError(f"train.learning_rate: {got}, want at most {MOST:.0e}")
        found.append(rate)
    return found
