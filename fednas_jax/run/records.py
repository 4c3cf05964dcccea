"""What the files of a run say, read as data in this one place: each has a form, and bounds.

A run's folder may be damaged, cut, of an older version, or a stranger's. What is read here fits its form, so that
nobody after it trips; what is missing or wrong is one line that names file and field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from fednas_jax import forms
from fednas_jax.config.files import from_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import opened
from fednas_jax.forms import Amount, Between, Count
from fednas_jax.run.manifest import Entry

MOST_CLIENTS = 10**7  # of one run
MOST_LINE = 1 << 24  # bytes of one event

Side = Annotated[int, Between(1, 1 << 16)]
Length = Annotated[int, Between(1, 1 << 24)]
StageName = Literal["pretrain", "search", "finetune"]


class Statistics(TypedDict):
    """Of a quantity over clients."""

    mean: Amount
    p50: Amount
    p95: Amount
    max: Amount
    total: Amount


class Spent(TypedDict):
    """Cost of a stage, each quantity over clients."""

    seconds: Statistics
    macs: Statistics
    bytes_up: Statistics
    bytes_down: Statistics
    joules: Statistics


class ClientCost(TypedDict):
    """Cost by stage."""

    pretrain: Spent
    search: Spent
    finetune: Spent
    all: Spent


class Hours(TypedDict):
    """Simulated hours by stage."""

    pretrain: Amount
    search: Amount
    finetune: Amount
    all: Amount


class Member(TypedDict):
    """One network of the family."""

    iteration: Count
    widths: dict[str, Count]
    macs: Annotated[int, Between(1)]
    params: Count
    score: float
    test_accuracy: float | None
    test_score: NotRequired[float | None]
    client_seconds: Amount
    simulated_hours: NotRequired[Amount]
    resources: NotRequired[dict[str, float]]


class Mixes(TypedDict):
    """How much clients differ."""

    label_distance: float
    size_gini: float


class Source(TypedDict):
    """Where a given parent came from."""

    path: str
    client_cost: NotRequired[Spent | None]


class Budget(TypedDict):
    """A limited resource."""

    resource: str
    budget: float
    unit: str


class Data(TypedDict):
    """The data set of a run, and how its examples become a network's input."""

    name: str
    fingerprint: str
    image: tuple[Side, Side, Annotated[int, Between(1, 256)]] | tuple[Length, Side] | tuple[Length]
    tokens: NotRequired[Annotated[int, Between(0, 1 << 31)]]
    positions: NotRequired[bool]
    classes: Annotated[int, Between(1, 10**6)]
    test_examples: NotRequired[Count]
    validation_examples: NotRequired[Count]
    mean: list[float]
    std: list[Annotated[float, Between(1e-12)]]


class Result(TypedDict):
    """result.json, as far as anybody reads it."""

    schema: NotRequired[Literal[1, 2]]
    method: str
    preset: str
    seed: Annotated[int, Between(0, 2**32 - 1)]
    stop_reason: str
    clients: Annotated[int, Between(1, MOST_CLIENTS)]
    parent: Member
    models: list[Member]
    client_cost: ClientCost
    heterogeneity: NotRequired[Mixes]
    parent_source: NotRequired[Source | None]
    wasted: NotRequired[dict[str, dict[str, Amount]]]
    simulated_hours: NotRequired[Hours]
    metric: NotRequired[str]
    budgets: NotRequired[list[Budget]]
    warnings: NotRequired[list[str]]
    checksum: NotRequired[str]
    data: NotRequired[Data]
    files: NotRequired[list[Entry]]


class Repriced(TypedDict):
    """reprice/NAME.json."""

    population: str
    source: str
    licence: str
    client_cost: ClientCost
    wasted: dict[str, dict[str, Amount]]
    phases: NotRequired[dict[str, dict[str, Amount]]]
    simulated_hours: Hours


class Mix(TypedDict):
    """How the labels of some clients are divided."""

    sizes: list[Count]
    counts: list[list[Count]]


class Start(TypedDict):
    """A 'start' event."""

    label_mix: NotRequired[Mix]


class Round(TypedDict):
    """A 'round' or 'parent' event."""

    stage: NotRequired[StageName]
    iteration: NotRequired[Count]
    round: NotRequired[Count]
    rounds: NotRequired[Count]
    alive: NotRequired[Count]
    scores: NotRequired[dict[str, float]]
    client_seconds: NotRequired[Amount]
    simulated_seconds: NotRequired[Amount]
    waited_seconds: NotRequired[Amount]


class Candidate(TypedDict):
    """Of an 'iteration' event."""

    name: NotRequired[str]
    resource: NotRequired[float]


class Iteration(TypedDict):
    """An 'iteration' event."""

    iteration: NotRequired[Count]
    parent: NotRequired[float]
    candidates: list[Candidate]


class Drop(TypedDict):
    """A 'drop' event."""

    iteration: Count
    round: Count
    candidates: list[str]


class Select(TypedDict):
    """A 'select' event."""

    iteration: Count
    winner: str
    score: float
    progress: float


class Beginning(TypedDict):
    """What a config.json says besides the config, of what a run began with."""

    versions: NotRequired[dict[str, str]]
    code: NotRequired[dict[str, str]]  # field -> SHA-256 of what it names
    data: NotRequired[str]  # fingerprint


class Widths(TypedDict):
    """widths.json of a model."""

    network: str
    widths: dict[str, Count]


class TierRecord(TypedDict):
    """A class of phones in tiers.json."""

    name: str
    device: str
    budget_ms: Amount | None
    budget_ratio: Amount | None
    clients: Annotated[int, Between(1)]


class ChoiceRecord(TypedDict):
    """What a class of phones runs."""

    tier: TierRecord
    budget_ms: Amount
    least_ms: Amount
    iteration: Count | None
    widths: dict[str, Count] | None
    ms: Amount | None
    score: float | None
    test_accuracy: float | None


class Tiers(TypedDict):
    """tiers.json."""

    tiers: list[ChoiceRecord]


_EVENTS: dict[str, Any] = {
    "start": Start,
    "round": Round,
    "parent": Round,
    "iteration": Iteration,
    "drop": Drop,
    "select": Select,
}


def config(path: Path) -> Config:
    """The config that a config.json holds.

    Raises:
      RunError: it cannot be read, or holds no config.
    """
    about = forms.read(path, dict[str, Any])
    if "config" not in about:
        raise RunError(f"{path}: config: got nothing, want the config of a run")
    try:
        forms.check(about["config"], Config, f"{path}: config")
        return from_json(about["config"])
    except ConfigError as error:
        raise RunError(f"{path}: cannot be read as a run's config: {error}") from None


def beginning(path: Path) -> Beginning:
    """What a config.json says besides the config.

    Raises:
      RunError: it cannot be read, or says it in another form.
    """
    found: Beginning = forms.read(path, Beginning)
    return found


def result(path: Path) -> dict[str, Any]:
    """What a result.json says.

    Raises:
      RunError: it cannot be read, or lacks what a result has.
    """
    found = forms.read(path, Result)
    iterations = [member["iteration"] for member in (found["parent"], *found["models"])]
    for number, iteration in enumerate(iterations):
        if iteration != number:
            where = f"models[{number - 1}]" if number else "parent"
            raise RunError(f"{path}: {where}.iteration: got {iteration}, want {number}")
    return found


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, one by one; none where there is no such file.

    Raises:
      RunError: a line is no event.
    """
    if not path.exists():
        return
    with opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE), b""), 1):
            yield event_of(line, f"{path}: line {number}")


def event_of(line: bytes, where: str) -> dict[str, Any]:
    """The event that a line of events.jsonl says.

    Args:
      line: of the file.
      where: it stands, for the message.

    Raises:
      RunError: it is none.
    """
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise RunError(f"{where}: cannot be read as JSON, want an event") from None
    forms.check(event, dict[str, Any], where)
    forms.check(event.get("event"), str, f"{where}: event")
    if event["event"] in _EVENTS:
        forms.check(event, _EVENTS[event["event"]], where)
    return event
