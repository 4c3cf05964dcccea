"""The end of a run: the family is tested, once, and result.json written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from fednas_jax import data
from fednas_jax.engine.fleet import Fleet, Tasks
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
    spent = totals.summary(ledger.read(setup.run.ledger), setup.clients, len(state.family), _clock(setup))
    meter = setup.fleet.meter

    def described(member: Member) -> dict[str, Any]:
        return {
            "iteration": member.iteration,
            "widths": dict(zip(setup.space.groups, member.widths, strict=True)),
            "macs": setup.space.macs(member.widths),
            "params": setup.space.params(member.widths),
            "resources": {resource.name: resource(member.widths) for resource in setup.goal.resources},
            "score": member.score,
            "test_accuracy": tested.get(member.iteration),
            "client_seconds": spent.client_seconds[member.iteration],
            "simulated_hours": spent.hours[member.iteration],
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
        "data": _data(setup.dataset),
        "heterogeneity": setup.heterogeneity._asdict(),
        "parent_source": state.source,
        "budgets": [
            {"resource": resource.name, "budget": budget, "unit": resource.unit}
            for resource, budget in zip(setup.goal.resources, setup.goal.budgets, strict=True)
        ],
        "parent": described(state.family[0]),
        "models": [described(m) for m in state.family[1:]],
        "client_cost": spent.client_cost,
        "wasted": spent.wasted,
        "simulated_hours": spent.simulated_hours,
        "simulator": {
            "wall_seconds": setup.effort()["wall_seconds"],
            "compile_seconds": meter.compile_seconds,
            "compilations": meter.compilations,
            "examples_per_second": meter.examples / meter.train_seconds if meter.train_seconds else 0.0,
            "lane_padding": 1 - meter.steps / meter.lane_steps if meter.lane_steps else 0.0,
            "lanes": setup.fleet.lanes,
            "streams": setup.fleet.streams,
            "devices": [str(d) for d in setup.fleet.mesh.devices.flat],
        },
    }
    setup.tell(event="finished", stop_reason=state.stop_reason)
    write_json(setup.run.result_file, result)
    return result


def _data(dataset: data.Dataset) -> dict[str, Any]:
    """What tells this data set from others, and what makes a network's input of its images."""
    return {
        "name": dataset.name,
        "fingerprint": data.fingerprint(dataset),
        "examples": len(dataset.train.labels),
        "test_examples": len(dataset.test.labels),
        "image": list(dataset.train.images.shape[1:]),
        "classes": dataset.classes,
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }


def _clock(setup: Setup) -> Iterator[tuple[str, int, float]]:
    """Stage, iteration and simulated seconds of each round; a run begun before there was a clock has none."""
    for event in setup.run.events():
        if event["event"] in ("round", "parent"):
            yield event.get("stage", "pretrain"), event.get("iteration", 0), event.get("simulated_seconds", 0.0)


def test_accuracy(setup: Setup, members: list[Member]) -> list[float | None]:
    """Test accuracy of each member after its fine-tuning, None if that diverged: the one use of the test split."""
    split = data.chunks(setup.dataset.test, 256)
    fleet = Fleet(
        setup.space.network,
        split,
        setup.dataset.mean,
        setup.dataset.std,
        setup.config.train,
        dataclasses.replace(setup.config.engine, eval_batch=256, lanes=setup.fleet.lanes),
        setup.config.seed,
        setup.slots,
        list(setup.fleet.mesh.devices.flat),
        setup.fleet.meter,
    )
    whole, everyone = setup.space.widths, np.arange(split.clients, dtype=np.int32)
    found: list[float | None] = []
    for first in range(0, len(members), setup.slots):
        some = members[first : first + setup.slots]
        stack = stacks.stacked(
            [setup.space.embed(load_member(setup.run, setup.space.network, m, "finetuned"), whole) for m in some]
        )
        slots = np.arange(len(some), dtype=np.int32)
        tasks = Tasks(np.repeat(slots, split.clients), np.tile(everyone, len(some)))
        accuracy = fleet.evaluate(whole, stacks.filled(stack, setup.slots), tasks).accuracy[: len(some)]
        found += [float(a) if np.isfinite(a) else None for a in accuracy]
    for member in (m for m, accuracy in zip(members, found, strict=True) if accuracy is None):
        setup.tell(event="diverged", stage="finetune", iteration=member.iteration)
    return found
