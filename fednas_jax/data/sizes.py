"""How many examples each client holds: equal sizes, lognormal ones or a power law. Letters: C clients, N examples."""

from __future__ import annotations

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.errors import DataError


def client_sizes(examples: int, config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """[C] int64 client sizes: each at least `min_examples` (and 1), together exactly `examples`.

    - equal to within one, where neither of the two below is asked for;
    - lognormal: the logarithms of sizes are normal with standard deviation `size_sigma`;
    - power law: the r-th largest client's size is in proportion to r^-size_power (Zipf's law, which needs no tail to be
      cut off: the largest client is C^size_power times the smallest); which client is r-th is drawn.

    Args:
      examples: N.
      config: clients, size_sigma, size_power, min_examples; validated.
      rng: where the draws come from.

    Raises:
      DataError: there are too few examples for so many clients.
    """
    clients, least = config.clients, least_size(examples, config)
    if (config.size_sigma == 0 and config.size_power == 0) or examples == clients * least:
        return examples // clients + (np.arange(clients) < examples % clients).astype(np.int64)
    logs = -np.log(rng.permutation(clients) + 1) if config.size_power else rng.standard_normal(clients)
    # Relative to the largest, and bounded: no exponent overflows, however large the spread is.
    weights = np.exp(min(config.size_power or config.size_sigma, 1e300) * (logs - logs.max()))
    return apportion(weights, examples, least)


def least_size(examples: int, config: DataConfig) -> int:
    """The least number of examples that a client must hold.

    Raises:
      DataError: there are too few examples for so many clients.
    """
    clients, least = config.clients, max(1, config.min_examples)
    if not 1 <= clients <= examples // least:
        raise DataError(
            f"data.clients: got {clients}, want 1 to {examples // least}: "
            f"there are {examples} training examples and data.min_examples is {config.min_examples}"
        )
    return least


def apportion(weights: np.ndarray, total: int, least: int) -> np.ndarray:
    """Whole numbers in proportion to weights, but `least` where that is more; together exactly `total`.

    Args:
      weights: [C], none negative, one at least above 0.
      total: at least C * least.
      least: at least 0.

    Returns:
      [C] int64. Where the weights are such numbers themselves, but for the least, none that has enough grows.
    """
    if total == len(weights) * least:
        return np.full(len(weights), least, np.int64)
    # Raising some takes from the others, which may then fall below in turn: repeat until none does. The largest never
    # falls below, since here there is more to give than the least numbers.
    raised = np.zeros(len(weights), bool)
    while True:
        left = total - least * np.count_nonzero(raised)
        shares = np.where(raised, least, left * (weights / weights[~raised].sum()))
        low = shares < least
        if not low.any():
            break
        raised |= low
    numbers = np.floor(shares).astype(np.int64)
    # Whole numbers by the largest remainder.
    largest = np.argsort(numbers - shares, kind="stable")[: total - numbers.sum()]
    numbers[largest] += 1
    assert numbers.sum() == total
    return numbers
