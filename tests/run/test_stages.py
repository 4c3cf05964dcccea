"""Which members of a family are fine-tuned and tested."""

from types import SimpleNamespace

import pytest

from fednas_jax.config.schema import Config, FinetuneConfig
from fednas_jax.run import stages
from fednas_jax.run.state import Member

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
