"""What the engine is asked and what it answers: a round's tasks, what evaluation counted, what the simulator spent.

Letters: K slots for candidates in a stack, T tasks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tasks(NamedTuple):
    """A round's work: task t is client[t] training or scoring candidate[t]."""

    candidate: np.ndarray  # [T] slot in the stack
    client: np.ndarray  # [T]


def diverged(tasks: Tasks, left_out: np.ndarray) -> np.ndarray:
    """[K] bool: candidates that were trained, and none of whose updates was usable.

    Args:
      tasks: of the round, all of clients that have examples.
      left_out: [K] updates that were left out.
    """
    handed_in = np.bincount(tasks.candidate, minlength=len(left_out))
    return (handed_in > 0) & (left_out == handed_in)


class Effort(NamedTuple):
    """The simulator's own effort; never mixed with what the simulated clients spend. Two of them can be added."""

    compilations: int = 0
    compile_seconds: float = 0.0
    steps: int = 0  # local training steps, over all tasks
    lane_steps: int = 0  # steps that lanes went through in training, those without work included
    examples: int = 0  # examples trained on
    train_seconds: float = 0.0  # in training, compilation apart

    def __add__(self, other: Effort) -> Effort:  # type: ignore[override]
        added = (a + b for a, b in zip(self, other, strict=True))
        return Effort(*added)  # type: ignore[arg-type]


class Tally(NamedTuple):
    """What evaluation counted, for each slot in the stack."""

    score: np.ndarray  # [K] the metric's; NaN as in `accuracy`, or where the metric has no value
    correct: np.ndarray  # [K] int64
    total: np.ndarray  # [K] int64
    finite: np.ndarray  # [K] bool: all logits were finite numbers, and somebody scored it
    effort: Effort

    @property
    def accuracy(self) -> np.ndarray:
        """[K]; NaN for a candidate that nobody scored or whose logits were not finite."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.finite, self.correct / self.total, np.nan)
