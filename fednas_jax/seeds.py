"""Where random numbers come from: one seed, one number for each purpose, fixed generators on the host and in jax."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

# The generator of all jax keys, by name: a user's default may be one that draws otherwise in lanes (rbg).
KEYS = "threefry2x32"


class Purpose(IntEnum):
    """What a stream on the host is for. Never change or reuse a number: recorded runs depend on it."""

    DIGITS_SPLIT = 1
    SYNTHETIC = 2
    PARTITION = 3
    HOLDOUT = 4
    SCORE = 6
    COHORT = 7
    PROPOSE = 8
    TEST_SPLIT = 9
    DEVICES = 20
    LINKS = 21
    AVAILABLE = 22
    DROPOUT = 23
    INVITE = 24
    MALICIOUS = 25
    FEATURE_SKEW = 31


class KeyPurpose(IntEnum):
    """What a jax key is for, folded into the run's key first. Never change or reuse a number."""

    INIT = 1
    PRETRAIN = 2
    SEARCH = 3
    FINETUNE = 4
    PLAN = 5


def generator(seed: int, purpose: Purpose, *moment: int) -> np.random.Generator:
    """The stream of one purpose, independent of the others and the same on every machine.

    Args:
      seed: at least 0.
      purpose: which stream.
      *moment: further numbers that tell streams of one purpose apart, such as the iteration.

    Returns:
      A fresh PCG64 generator. It is named, since numpy is free to change what `default_rng` means.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, int(purpose), *moment])))
