"""What happens in a run, as records: each becomes one line of events.jsonl, `{"event": name, field: value, ...}`.

Seconds are simulated ones of clients or server; fields that are None are left out of the line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened."""

    name: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """The line of events.jsonl as JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"event": self.name} | {name: value for name, value in values.items() if value is not None}


@dataclasses.dataclass(frozen=True)
class Start(Event):
    """A run begins."""

    name: ClassVar[str] = "start"
    clients: int
    examples: int
    heterogeneity: dict[str, float]
    label_mix: dict[str, list[Any]]  # of some clients: their sizes, and counts of each label
    network: str
    macs: int
    params: int
    devices: str


@dataclasses.dataclass(frozen=True)
class Load(Event):
    """A given parent takes the place of a freshly initialised one."""

    name: ClassVar[str] = "load"
    path: str


@dataclasses.dataclass(frozen=True)
class Round(Event):
    """A round of training, and the scoring that followed it."""

    name: ClassVar[str] = "round"
    stage: str
    round: int  # from 1, in this stage, iteration or bucket
    rounds: int  # of which that is one
    client_seconds: float  # of all clients
    simulated_seconds: float  # that went by
    waited_seconds: float | None = None  # of them, in which nobody was there
    left_out: int | None = None  # updates that were no finite numbers, or beyond train.update_bound
    bucket: int | None = None  # fine-tuning: which members
    iteration: int | None = None  # search
    rung: int | None = None  # search, from 1
    rungs: int | None = None
    alive: int | None = None  # candidates after it
    scores: dict[str, float] | None = None  # of the candidates that were scored, by name


@dataclasses.dataclass(frozen=True)
class Parent(Event):
    """The parent was scored."""

    name: ClassVar[str] = "parent"
    score: float
    macs: int
    client_seconds: float
    simulated_seconds: float
    waited_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Iteration(Event):
    """An iteration of the search begins."""

    name: ClassVar[str] = "iteration"
    iteration: int
    resource: str  # that is brought down
    target: float
    parent: float  # the parent's resource
    candidates: Sequence[dict[str, Any]]  # name, widths, and the resource, a float32


@dataclasses.dataclass(frozen=True)
class Drop(Event):
    """Candidates were dropped as inferior."""

    name: ClassVar[str] = "drop"
    iteration: int
    round: int
    candidates: Sequence[str]
    nonfinite: Sequence[str] | None = None  # those of them whose scores are no finite numbers


@dataclasses.dataclass(frozen=True)
class Select(Event):
    """An iteration has a winner."""

    name: ClassVar[str] = "select"
    iteration: int
    winner: str
    widths: Sequence[int]
    score: float
    macs: int
    progress: float  # of the way to the budget, 0 to 1


@dataclasses.dataclass(frozen=True)
class Compact(Event):
    """The network was sliced physically."""

    name: ClassVar[str] = "compact"
    iteration: int
    physical_widths: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Sliced(Event):
    """Candidates are trained at their own physical widths."""

    name: ClassVar[str] = "sliced"
    reason: str  # why they are not masked, or the setting that asked for it


@dataclasses.dataclass(frozen=True)
class Skip(Event):
    """Members or shares that were asked for were not found by the search."""

    name: ClassVar[str] = "skip"
    members: Sequence[int]
    shares: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Stop(Event):
    """The search is over."""

    name: ClassVar[str] = "stop"
    reason: str
    iteration: int


@dataclasses.dataclass(frozen=True)
class Diverged(Event):
    """A member's logits are no finite numbers after its fine-tuning."""

    name: ClassVar[str] = "diverged"
    stage: str
    iteration: int


@dataclasses.dataclass(frozen=True)
class Warned(Event):
    """Something that makes the run's result doubtful; it stands in result.json too."""

    name: ClassVar[str] = "warning"
    message: str


@dataclasses.dataclass(frozen=True)
class Checkpoint(Event):
    """The state was handed to the thread that saves it."""

    name: ClassVar[str] = "checkpoint"
    stage: str
    iteration: int
    step: int


@dataclasses.dataclass(frozen=True)
class Fallback(Event):
    """A checkpoint could not be believed; the one before it is taken."""

    name: ClassVar[str] = "fallback"
    step: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Resume(Event):
    """The run goes on from a checkpoint."""

    name: ClassVar[str] = "resume"
    step: int
    client_seconds: float
    progress: float


@dataclasses.dataclass(frozen=True)
class Finished(Event):
    """The family is tested and the result written."""

    name: ClassVar[str] = "finished"
    stop_reason: str
