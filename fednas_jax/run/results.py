"""The end of a run: the family is tested, once, and result.json written."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fednas_jax import data
from fednas_jax.engine.fleet import Fleet
from fednas_jax.engine.tasks import Tasks
from fednas_jax.files import write_json
from fednas_jax.phones import ledger, totals
from fednas_jax.run.problem import Setup
from fednas_jax.run.state import Member, RunState, load_member
from fednas_jax.space import stacks

SCHEMA = 1  # of result.json


def write(setup: Setup, state: RunState, tested: dict[int, float | None]) -> dict[str, Any]:
    """Writes result.json and returns it; on one host.

    Args:
      setup: of the run.
      state: its last.
      tested: test accuracy of the members that were tested, by iteration; None where one diverged.
    """
    spent = ledger.read(setup.run.ledger)
    until = totals.search_seconds(spent, len(state.family), setup.clients)
    hours = _hours(setup, len(state.family))
    effort = setup.meter.effort

    def described(member: Member) -> dict[str, Any]:
        return {
            "iteration": member.iteration,
            "widths": dict(zip(setup.space.groups, member.widths, strict=True)),
            "macs": setup.space.macs(member.widths),
            "params": setup.space.params(member.widths),
            "resources": {resource.name: resource(member.widths) for resource in setup.goal.resources},
            "score": member.score,
            "test_accuracy": tested.get(member.iteration),
            "client_seconds": until[member.iteration],
            "simulated_hours": hours["until"][member.iteration],
            "path": str(setup.run.model(member.iteration).relative_to(setup.run.path)),
        }

    config = setup.config
    result = {
        "schema": SCHEMA,
        "method": config.method,
        "preset": config.preset,
        "seed": config.seed,
        "finished": True,
        "stop_reason": state.stop_reason,
        "clients": setup.clients,
        "heterogeneity": setup.heterogeneity._asdict(),
        "parent_source": state.source,
        "budgets": [
            {"resource": resource.name, "budget": budget, "unit": resource.unit}
            for resource, budget in zip(setup.goal.resources, setup.goal.budgets, strict=True)
        ],
        "parent": described(state.family[0]),
        "models": [described(m) for m in state.family[1:]],
        "client_cost": totals.client_cost(spent, setup.clients),
        "wasted": totals.wasted(spent),
        "simulated_hours": hours["stages"],
        "simulator": {
            "wall_seconds": setup.effort()["wall_seconds"],
            "compile_seconds": effort.compile_seconds,
            "compilations": effort.compilations,
            "examples_per_second": effort.examples / effort.train_seconds if effort.train_seconds else 0.0,
            "lane_padding": 1 - effort.steps / effort.lane_steps if effort.lane_steps else 0.0,
            "lanes": setup.fleet.lanes,
            "streams": setup.fleet.streams,
            "devices": [str(d) for d in setup.fleet.mesh.devices.flat],
        },
    }
    setup.tell(event="finished", stop_reason=state.stop_reason)
    write_json(setup.run.result_file, result)
    return result


def _hours(setup: Setup, iterations: int) -> dict[str, Any]:
    """Simulated hours of each stage, and of the search up to the end of each iteration, from 0."""
    stages, each = dict.fromkeys(ledger.STAGES, 0.0), np.zeros(iterations)
    for event in setup.run.events():
        if event["event"] in ("round", "parent"):
            stage = event.get("stage", "pretrain")
            spent = event.get("simulated_seconds", 0.0) / 3600  # a run begun before there was a clock has none
            stages[stage] += spent
            if stage == "search":
                each[event["iteration"]] += spent
    return {"stages": stages | {"all": sum(stages.values())}, "until": np.cumsum(each).tolist()}


def test_accuracy(setup: Setup, members: list[Member]) -> list[float | None]:
    """Test accuracy of each member after its fine-tuning, None if that diverged: the one use of the test split."""
    split = data.chunks(setup.dataset.test, 256)
    engine = dataclasses.replace(setup.config.engine, eval_batch=256, lanes=setup.fleet.lanes)
    fleet = Fleet(dataclasses.replace(setup.fleet.spec, data=split, engine=engine))
    whole, everyone = setup.space.widths, np.arange(split.clients, dtype=np.int32)
    found: list[float | None] = []
    for first in range(0, len(members), setup.slots):
        some = members[first : first + setup.slots]
        stack = stacks.stacked(
            [setup.space.embed(load_member(setup.run, setup.space.network, m, "finetuned"), whole) for m in some]
        )
        slots = np.arange(len(some), dtype=np.int32)
        tasks = Tasks(np.repeat(slots, split.clients), np.tile(everyone, len(some)))
        tally = fleet.evaluate(whole, stacks.filled(stack, setup.slots), tasks)
        setup.meter.effort += tally.effort
        accuracy = tally.accuracy[: len(some)]
        found += [float(a) if np.isfinite(a) else None for a in accuracy]
    for member in (m for m, accuracy in zip(members, found, strict=True) if accuracy is None):
        setup.tell(event="diverged", stage="finetune", iteration=member.iteration)
    return found
