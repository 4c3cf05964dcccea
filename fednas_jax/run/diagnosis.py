"""Training that goes wrong, noticed where it happens: divergence stops a run, doubtful results are warned of."""

from __future__ import annotations

import math

import numpy as np

from fednas_jax.config.schema import Config
from fednas_jax.engine.tasks import Tally, Tasks
from fednas_jax.errors import TrainingError
from fednas_jax.run.problem import Problem
from fednas_jax.run.state import Stack

SIGMAS = 2.0  # standard deviations within which two scores are the same


def diverged_parent(stage: str, number: int, learning_rate: float) -> TrainingError:
    """Why a run stops in the round in which its parent was lost."""
    return TrainingError(
        f"{stage}: diverged in round {number}: no client's update was a finite number within train.update_bound; "
        f"got train.learning_rate={learning_rate:g}, try a lower one; the checkpoint before this round is kept"
    )


def without_score(config: Config, where: str, said: str) -> TrainingError:
    """Why a run stops that has no score to go by: what diverged, or examples of which the metric has no value."""
    metric, cure = config.search.metric, "try a lower train.learning_rate"
    if config.train.update_bound is not None:  # beyond it all updates may have been left out
        cure += f", or a train.update_bound above {config.train.update_bound:g}"
    if metric != "accuracy":
        cure += f", or more search.score_clients where {metric} has no value on the examples of so few"
    return TrainingError(f"{where}: {said}; {cure}")


def score_of(problem: Problem, stack: Stack) -> float | None:
    """The score of a stack's first network by all clients; no decision hangs on it, so nobody is charged.

    Args:
      problem: of the run.
      stack: its slots need not be filled.

    Returns:
      None where it is no finite number, which training may mend: statistics of BatchNorm may be what is wrong.
    """
    clients = np.arange(problem.clients, dtype=np.int32)
    tasks = Tasks(np.zeros_like(clients), clients)
    variables = problem.filled(stack.variables)
    score = float(problem.fleet.evaluate(stack.physical_widths, variables, tasks).score[0])
    return score if math.isfinite(score) else None


def of_parent(problem: Problem, tally: Tally, given_score: float | None) -> tuple[str, ...]:
    """What makes a pretrained parent doubtful, in words.

    Args:
      problem: of the run.
      tally: of the parent, in the first slot.
      given_score: of a given parent, before it was trained on.
    """
    accuracy, total, score = float(tally.accuracy[0]), int(tally.total[0]), float(tally.score[0])
    labels = np.asarray(problem.dataset.train.labels).reshape(-1)  # of all positions, where each has one
    labels = labels[labels >= 0]
    largest = float(np.bincount(labels).max() / len(labels))
    chance = max(largest, 1 / problem.dataset.classes)
    why = f"train.learning_rate={problem.config.train.learning_rate:g} may be too high"
    if not problem.config.pretrain.rounds:
        why = "pretrain.rounds=0 left it as it was"
    found = []
    if accuracy <= chance + _spread(chance, total):
        found.append(
            f"the parent is at chance level: accuracy {accuracy:.3f} on {total:,} validation examples, where naming "
            f"the largest class gives {largest:.3f}; the search compares nothing. {why}"
        )
    if given_score is not None and score < given_score - _spread(min(max(given_score, 0.0), 1.0), total):
        found.append(
            f"the parent is worse than it was given: {score:.3f} after pretraining, {given_score:.3f} before; {why}"
        )
    return tuple(found)


def _spread(share: float, total: int) -> float:
    """How far a share of so many examples may be off by chance."""
    return SIGMAS * math.sqrt(share * (1 - share) / max(1, total))
