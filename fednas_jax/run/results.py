"""The end of a run: the family is tested, once, and result.json written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from fednas_jax import data
from fednas_jax.engine.fleet import FleetSpec
from fednas_jax.engine.tasks import Effort, Tasks
from fednas_jax.phones import totals
from fednas_jax.run.manifest import sealed
from fednas_jax.run.problem import Problem
from fednas_jax.run.state import Member, RunState
from fednas_jax.space import stacks
from fednas_jax.space.network import Variables

SCHEMA = 2  # of result.json
TEST_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Tested:
    """What the test split says of a member; None where its logits are no finite numbers."""

    accuracy: float | None
    score: float | None  # by the run's metric; None too where it has no value, as auc of labels that are all alike


def test(
    problem: Problem, members: Sequence[Member], load: Callable[[Member], Variables]
) -> tuple[list[Tested], Effort]:
    """Tests each member after its fine-tuning: the one use of the test split.

    Args:
      problem: of the run.
      members: those to be tested.
      load: a member's fine-tuned variables.
    """
    split = data.chunks(problem.dataset.test, TEST_BATCH)
    config = problem.config
    fleet = problem.fleets(
        FleetSpec(
            network=problem.space.network,
            data=split,
            mean=problem.dataset.mean,
            std=problem.dataset.std,
            classes=problem.dataset.classes,
            train=config.train,
            engine=dataclasses.replace(
                config.engine, eval_batch=TEST_BATCH, lanes=problem.fleet.lanes, lowering=problem.fleet.lowering
            ),
            seed=config.seed,
            slots=problem.slots,
            devices=list(problem.fleet.mesh.devices.flat),
            metric=config.search.metric,
        )
    )
    everyone, most = np.arange(split.clients, dtype=np.int32), 1 if problem.sliced else problem.slots
    found, effort = [], Effort()
    parts = [members[first : first + most] for first in range(0, len(members), most)]
    shapes = [part[0].widths if problem.sliced else problem.space.widths for part in parts]
    with fleet.compiling("score", [(shape, most) for shape in dict.fromkeys(shapes)]):
        for physical, part in zip(shapes, parts, strict=True):
            stack = stacks.stacked([problem.space.embed(load(member), physical) for member in part])
            slots = np.arange(len(part), dtype=np.int32)
            tasks = Tasks(np.repeat(slots, split.clients), np.tile(everyone, len(part)))
            tally = fleet.evaluate(physical, problem.filled(stack), tasks)
            effort += tally.effort
            for accuracy, score in zip(tally.accuracy[: len(part)], tally.score[: len(part)], strict=True):
                found.append(Tested(_number(accuracy), _number(score)))
    return found, effort


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def summary(
    problem: Problem,
    state: RunState,
    tested: dict[int, Tested],
    rows: pa.Table,
    wall_seconds: float,
) -> dict[str, Any]:
    """What stands in result.json, with a checksum of itself.

    Args:
      problem: of the run.
      state: its last.
      tested: the members that were tested, by iteration.
      rows: the whole ledger.
      wall_seconds: of all processes that worked on it.
    """
    config, effort = problem.config, state.effort
    spent = totals.summary(rows, problem.clients, len(state.family), state.spent.clock)

    def described(member: Member) -> dict[str, Any]:
        n, test_of = member.iteration, tested.get(member.iteration, Tested(None, None))
        return {
            "iteration": n,
            "widths": dict(zip(problem.space.groups, member.widths, strict=True)),
            "macs": problem.space.macs(member.widths),
            "params": problem.space.params(member.widths),
            "resources": {resource.name: resource(member.widths) for resource in problem.goal.resources},
            "score": member.score,
            "test_accuracy": test_of.accuracy,
            "test_score": test_of.score,
            "client_seconds": spent.client_seconds[n],
            "simulated_hours": spent.hours[n],
            "path": f"models/{n:03d}",
        }

    return sealed(
        {
            "schema": SCHEMA,
            "method": config.method,
            "preset": config.preset,
            "seed": config.seed,
            "finished": True,
            "stop_reason": state.stop_reason,
            "warnings": list(state.warnings),
            "metric": config.search.metric,
            "candidates": problem.candidates,
            "clients": problem.clients,
            "heterogeneity": problem.heterogeneity._asdict(),
            "data": _about(problem),
            "parent_source": state.source,
            "budgets": [
                {"resource": resource.name, "budget": budget, "unit": resource.unit}
                for resource, budget in zip(problem.goal.resources, problem.goal.budgets, strict=True)
            ],
            "parent": described(state.family[0]),
            "models": [described(m) for m in state.family[1:]],
            "client_cost": spent.client_cost,
            "wasted": spent.wasted,
            "simulated_hours": spent.simulated_hours,
            "simulator": {
                "wall_seconds": wall_seconds,
                "compile_seconds": effort.compile_seconds,
                "compilations": effort.compilations,
                "examples_per_second": effort.examples / effort.train_seconds if effort.train_seconds else 0.0,
                "lane_padding": 1 - effort.steps / effort.lane_steps if effort.lane_steps else 0.0,
                "lanes": problem.fleet.lanes,
                "lowering": problem.fleet.lowering,
                "streams": problem.fleet.streams,
                "devices": [str(d) for d in problem.fleet.mesh.devices.flat],
            },
        }
    )


def _about(problem: Problem) -> dict[str, Any]:
    """What tells the data set from others, and what makes a network's input of its images."""
    dataset, fleet = problem.dataset, problem.fleet
    other = {}
    if dataset.train.inputs.dtype != np.uint8:
        other = {"tokens": dataset.tokens, "positions": dataset.train.labels.ndim > 1}
    return {
        "name": dataset.name,
        "fingerprint": problem.fingerprint,
        "examples": len(dataset.train.labels),
        "train_examples": int(fleet.train_count.sum()),
        "validation_examples": int(fleet.val_count.sum()),
        "test_examples": len(dataset.test.labels),
        "image": list(dataset.train.inputs.shape[1:]),
        "classes": dataset.classes,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        **other,
    }
