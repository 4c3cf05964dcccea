"""Training that goes wrong, noticed where it happens: divergence stops a run, doubtful results are warned of."""

from __future__ import annotations

import math

import numpy as np

from fednas_jax.engine.tasks import Tally
from fednas_jax.errors import TrainingError
from fednas_jax.run.problem import Problem

SIGMAS = 2.0  # standard deviations of a chance-level score within which a score says nothing


def diverged_parent(stage: str, number: int, learning_rate: float) -> TrainingError:
    """Why a run stops in the round in which its parent was lost."""
    return TrainingError(
        f"{stage}: diverged in round {number}: no client's update was a finite number within train.update_bound; "
        f"got train.learning_rate={learning_rate:g}, try a lower one; the checkpoint before this round is kept"
    )


def of_parent(problem: Problem, tally: Tally) -> tuple[str, ...]:
    """What makes a pretrained parent doubtful, in words.

    Args:
      problem: of the run.
      tally: of the parent, in the first slot.
    """
    accuracy, total = float(tally.accuracy[0]), int(tally.total[0])
    labels = np.asarray(problem.dataset.train.labels)
    largest = float(np.bincount(labels).max() / len(labels))
    chance = max(largest, 1 / problem.dataset.classes)
    if accuracy > chance + SIGMAS * math.sqrt(chance * (1 - chance) / max(1, total)):
        return ()
    rate = problem.config.train.learning_rate
    return (
        f"the parent is at chance level: accuracy {accuracy:.3f} on {total:,} validation examples, where naming the "
        f"largest class gives {largest:.3f}; the search compares nothing. train.learning_rate={rate:g} may be too high",
    )
