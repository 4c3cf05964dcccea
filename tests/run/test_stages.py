"""Which members of a family are fine-tuned and tested, and what is said of those that training would spoil."""

from types import SimpleNamespace

import numpy as np
import pytest

from fednas_jax.config.schema import Config, FinetuneConfig
from fednas_jax.engine.tasks import Effort, Tasks
from fednas_jax.phones import ledger
from fednas_jax.run import stages
from fednas_jax.run.rounds import Trained
from fednas_jax.run.state import Member, RunState, Spent, Stage

MACS = (100, 60, 29, 29, 12)
FAMILY = [Member(n, (macs,), (macs,), 0.5) for n, macs in enumerate(MACS)]


def problem(**fields):
    config = Config(finetune=FinetuneConfig(**fields))
    return SimpleNamespace(config=config, space=SimpleNamespace(macs=lambda widths: widths[0]))


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"members": (4, 0, 9)}, [0, 4]),
        ({"shares": (1.0, 0.5)}, [0, 2]),
        ({"shares": (0.29,)}, [2]),  # though 0.29 x 100 is 28.999999999999996; of equals the first
        ({"shares": (0.29, 0.3), "members": (2, 1)}, [1, 2]),
        ({"shares": (0.1,)}, []),
    ],
)
def test_members_asked_for_by_iteration_and_by_share(fields, want):
    assert [member.iteration for member in stages.asked_for(problem(**fields), FAMILY)] == want


def test_a_member_that_is_lost_round_after_round_is_one_warning_and_an_event_each():
    nothing = {"iteration": 9, "round": 0, "bucket": 0, "stop_reason": "", "source": None, "given_score": None}
    nothing |= dict.fromkeys(("physical_widths", "widths", "stacks", "kept", "family", "warnings", "files"), ())
    rows, numbers = ledger.SCHEMA.empty_table(), np.asarray([4, 5])
    state = RunState(Stage.FINETUNE, **nothing, trial=None, spent=Spent(), effort=Effort(), pending=rows)
    tasks, team = Tasks(np.asarray([0, 1]), np.asarray([3, 3])), SimpleNamespace(stacks=())
    for left_out in ([0, 0], [1, 0], [1, 1]):
        done = Trained(team, tasks, rows, 1.0, 0.0, np.asarray(left_out), Effort())
        step = stages._averaged(state, done, 3, 0.1, numbers)
        state = step.state
        assert sum(event.name == "diverged" for event in step.events) == sum(left_out)
    assert state.warnings == (
        "iteration 4: diverged in fine-tuning, first in round 2; it stays as it was before such a round",
        "iteration 5: diverged in fine-tuning, first in round 3; it stays as it was before such a round",
    )
