"""Where the data's random numbers come from: one seed, one number for each purpose, one fixed generator."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for. Never change or reuse a number: recorded runs depend on it."""

    DIGITS_SPLIT = 1
    SYNTHETIC = 2
    PARTITION = 3
    HOLDOUT = 4


def generator(seed: int, purpose: Purpose) -> np.random.Generator:
    """The stream of one purpose, independent of the others and the same on every machine.

    Args:
      seed: at least 0.
      purpose: which stream.

    Returns:
      A fresh PCG64 generator. It is named, since numpy is free to change what `default_rng` means.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(purpose)])))
