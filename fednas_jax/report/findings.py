"""What the figures and tables of a run are made of: plain rows, read off its result, events and ledger."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fednas_jax.phones import ledger, totals
from fednas_jax.report import statistics
from fednas_jax.run.finished import Run, members


class Score(NamedTuple):
    """A candidate's score after a round, on the clients' validation examples."""

    iteration: int
    candidate: str
    at: int  # rounds of the whole search so far
    score: float
    low: float | None  # of its 95 % interval; None where it is no accuracy, or of unknown examples
    high: float | None
    examples: int | None
    dropped: bool  # by the policy, after this very round
    won: bool  # its candidate won the iteration


class Cut(NamedTuple):
    """What an iteration took from its parent."""

    iteration: int
    groups: tuple[str, ...]  # that shrank
    before: tuple[int, ...]  # their widths
    after: tuple[int, ...]
    taken: float  # of the first parent's MACs
    left: float  # likewise


class Bill(NamedTuple):
    """Seconds of an average client: the whole, and what of it buys one network alone."""

    stages: dict[str, float]  # by stage
    tuning: dict[int, float]  # fine-tuning, by member (0 is the parent); empty where the ledger cannot tell
    one: int | None  # the smallest member that was fine-tuned

    @property
    def whole(self) -> float:
        """All stages."""
        return sum(self.stages.values())

    @property
    def search_share(self) -> float:
        """Of the search in the whole; 0 where nothing was spent."""
        return self.stages["search"] / self.whole if self.whole else 0.0

    @property
    def alone(self) -> float | None:
        """The whole where the smallest member alone is fine-tuned; None where nobody knows."""
        if self.one is None:
            return None
        return self.whole - self.stages["finetune"] + self.tuning[self.one]

    @property
    def saved(self) -> float | None:
        """What the whole is more than `alone`; None where nobody knows, or no other member was fine-tuned."""
        return None if self.alone is None or len(self.tuning) < 2 else self.whole - self.alone


def interval(score: float | None, examples: float | None, metric: str = "accuracy") -> tuple[float, float] | None:
    """The 95 % interval of an accuracy; None for another metric, or where nobody knows of how many examples it is."""
    if score is None or not examples or metric != "accuracy" or not 0 <= score <= 1:
        return None
    return statistics.wilson(score, max(1, int(examples)))


def tested(run: Run, member: dict[str, Any]) -> tuple[float, float] | None:
    """The interval of a member's test accuracy."""
    return interval(member["test_accuracy"], run.result.get("data", {}).get("test_examples"))


def scores(run: Run) -> list[Score]:
    """Every score of every candidate, in the order of the search; raises as `Run.events` and `Run.ledger`."""
    scored = _scored_examples(run, "search")
    metric = run.result.get("metric", "accuracy")
    found: list[Score] = []
    places: dict[tuple[int, str], list[int]] = {}  # of each candidate's scores in `found`
    ids: dict[str, int] = {}
    at = 0
    for event in run.events():
        kind, iteration = event["event"], event.get("iteration", 0)
        if kind == "iteration":
            ids = {c["name"]: n for n, c in reversed(list(enumerate(event["candidates"]))) if "name" in c}
        elif kind == "round" and event.get("stage") == "search":
            at += 1
            for name, score in event.get("scores", {}).items():
                examples = scored.get((iteration, event.get("round", 0), ids.get(name, -1)))
                low, high = interval(score, examples, metric) or (None, None)
                places.setdefault((iteration, name), []).append(len(found))
                found.append(Score(iteration, name, at, score, low, high, examples, dropped=False, won=False))
        elif kind == "drop":
            for name in event["candidates"]:
                for place in places.get((iteration, name), [])[-1:]:
                    found[place] = found[place]._replace(dropped=True)
        elif kind == "select":
            for place in places.get((iteration, event["winner"]), []):
                found[place] = found[place]._replace(won=True)
    return found


def validated(run: Run, scores: Sequence[Score]) -> dict[int, tuple[float, float]]:
    """The interval of each member's validation score, where it is known, by the examples that scored it."""
    ends = {s.iteration: (s.low, s.high) for s in scores if s.won and s.low is not None and s.high is not None}
    metric = run.result.get("metric", "accuracy")
    # A parent is scored last of all: pretraining itself may score nobody.
    examples = max(_scored_examples(run, "pretrain").items(), default=(None, None))[1]
    if parent := interval(run.result["parent"]["score"], examples, metric):
        ends[0] = parent
    return ends


def _scored_examples(run: Run, stage: str) -> dict[tuple[int, int, int], int]:
    """(iteration, round, candidate) of a stage -> validation examples that scored it: not those of who went away."""
    rows = _stage(run.ledger, stage)
    rows = rows.filter(pc.equal(pc.cast(rows["phase"], pa.string()), "evaluate"))
    rows = rows.filter(pc.fill_null(rows["used"], fill_value=True))
    sums = totals.sums_by(rows, "iteration", "round", "candidate")
    keys = zip(*(sums[name].to_pylist() for name in ("iteration", "round", "candidate")), strict=True)
    return dict(zip(keys, sums["examples"].to_pylist(), strict=True))


def cuts(run: Run) -> list[Cut]:
    """What each iteration took."""
    family, whole = members(run.result), run.result["parent"]["macs"]
    found = []
    for before, after in itertools.pairwise(family):
        names = [g for g, w in after["widths"].items() if w != before["widths"].get(g, w)]
        found.append(
            Cut(
                after["iteration"],
                tuple(names),
                tuple(before["widths"][g] for g in names),
                tuple(after["widths"][g] for g in names),
                (before["macs"] - after["macs"]) / whole,
                after["macs"] / whole,
            )
        )
    return found


def phase_seconds(run: Run) -> dict[str, list[float]]:
    """Seconds of an average client in the search by phase, [iterations] from 1; raises as `Run.ledger`."""
    iterations, clients = len(run.result["models"]), run.result["clients"]
    found = {phase: [0.0] * iterations for phase in ledger.PHASES}
    sums = totals.sums_by(_stage(run.ledger, "search"), "iteration", "phase")
    for iteration, phase, seconds in zip(
        *(sums[name].to_pylist() for name in ("iteration", "phase", "seconds")), strict=True
    ):
        if 1 <= iteration <= iterations:
            found[phase][iteration - 1] = seconds / clients
    return found


def by_client(run: Run) -> dict[str, np.ndarray]:
    """Seconds of each client by stage, [C]; raises as `Run.ledger`."""
    clients = run.result["clients"]
    return {
        stage: np.bincount(np.asarray(rows["client"]), np.asarray(rows["seconds"]), clients)
        for stage in ledger.STAGES
        for rows in [_stage(run.ledger, stage)]
    }


def bill(run: Run) -> Bill:
    """The whole bill; raises as `Run.ledger`."""
    result = run.result
    stages = {stage: result["client_cost"][stage]["seconds"]["mean"] for stage in ledger.STAGES}
    sums = totals.sums_by(_stage(run.ledger, "finetune"), "candidate")
    known = range(len(result["models"]) + 1)
    tuning = {
        candidate: seconds / result["clients"]
        for candidate, seconds in zip(sums["candidate"].to_pylist(), sums["seconds"].to_pylist(), strict=True)
        if candidate in known
    }
    return Bill(stages, tuning, max(tuning, default=None))


def label_mix(run: Run) -> dict[str, Any] | None:
    """How the clients' labels are divided, as the run's start says; None for a run of an older version."""
    for event in run.events():
        if event["event"] == "start":
            return event.get("label_mix")
    return None


def _stage(rows: pa.Table, stage: str) -> pa.Table:
    return rows.filter(pc.equal(pc.cast(rows["stage"], pa.string()), stage))
