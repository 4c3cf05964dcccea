"""One process's work on a run: its folder, its checkpoints, who watches it, and when it is to stop.

Everything that touches the disk or the world goes through here; what is decided and trained knows nothing of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fednas_jax.errors import Interrupted, RunError
from fednas_jax.files import sync
from fednas_jax.phones import ledger
from fednas_jax.run import events, manifest, model_files
from fednas_jax.run.checkpoint import Checkpoints
from fednas_jax.run.folder import RunDir
from fednas_jax.run.state import Member, RunState, Stage, pack
from fednas_jax.runtime import hosts
from fednas_jax.space.network import Network, Variables

MOST_PENDING = 200_000  # rows of the ledger that a checkpoint carries before they go to a file of their own


class Model(NamedTuple):
    """A network that a step hands over to be saved."""

    member: Member
    variables: Variables  # at the member's own widths
    part: str = ""  # '' as found, or 'finetuned'


class Step(NamedTuple):
    """What a step of a run leaves: the next state, and what the world is to know of it."""

    state: RunState
    events: tuple[events.Event, ...] = ()
    models: tuple[Model, ...] = ()
    closes: str = ""  # name of the ledger's file that ends here; none: its rows stay pending
    boundary: bool = True  # whether a round ended, so that it is worth a checkpoint


@dataclasses.dataclass
class Session:
    """A run's folder in this process; of several hosts only the first touches it."""

    run: RunDir
    network: Network
    observe: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]  # agreed upon by all hosts
    every: int  # rounds between checkpoints
    worked: Callable[[], float]  # seconds of this process's work so far
    later: bool  # whether a round's checkpoint waits for `catch_up`

    def __post_init__(self) -> None:
        self.checkpoints = Checkpoints(self.run.checkpoints)
        self._wall = 0.0  # seconds of the processes that worked on this run before
        self._rounds = 0
        self._due: RunState | None = None

    def wall_seconds(self) -> float:
        """Seconds of this process and those before it."""
        return self._wall + self.worked()

    def goes_on(self, wall_seconds: float) -> None:
        """Takes over from the processes before."""
        self._wall = wall_seconds

    def tell(self, event: events.Event) -> None:
        """Writes an event, and shows it to who observes the run; on the first host."""
        if hosts.first():
            line = event.to_json()
            with saving(self.run.events_file):
                self.run.append(line)
            self.observe(line)

    def commit(self, step: Step) -> RunState:
        """Writes what a step left, and a checkpoint where one is due; stops here where that was asked for.

        Where checkpoints wait, a round's is left to `catch_up`; what is marked, or the last, is written at once.

        Raises:
          Interrupted: all is saved.
          RunError: something cannot be written; what was saved before is kept.
        """
        for event in step.events:
            self.tell(event)
        files, closed = hosts.from_first_host(lambda: self._written(step))
        pending = ledger.SCHEMA.empty_table() if closed else step.state.pending
        state = step.state._replace(files=files, pending=pending)
        self._rounds += step.boundary
        stop = self.should_stop() and state.stage != Stage.TEST
        due = step.boundary and self._rounds % self.every == 0
        if step.closes or stop or (due and not self.later):
            self._save(state, marked=bool(step.closes), last=stop)
        elif due:
            self._due = state
        if stop:
            raise Interrupted
        return state

    def catch_up(self) -> None:
        """Writes the checkpoint that is due. Called when the devices have the next round.

        Raises:
          RunError: as `commit`.
        """
        due, self._due = self._due, None
        if due is not None:
            self._save(due, marked=False, last=False)

    def _save(self, state: RunState, marked: bool, last: bool) -> None:
        self.tell(events.Checkpoint(state.stage.name.lower(), state.iteration, self._next_step()))
        hosts.from_first_host(lambda: self._checkpoint(state, marked, last))

    def close(self) -> None:
        """Waits for the last checkpoint."""
        with saving(self.run.checkpoints):
            self.checkpoints.close()

    def _next_step(self) -> int:
        return hosts.from_first_host(self.checkpoints.next_step)

    def _written(self, step: Step) -> tuple[tuple[manifest.Entry, ...], bool]:
        """Writes models and rows; what lies in the folder now, and whether all rows do."""
        state, listed = step.state, {entry["path"]: entry for entry in step.state.files}
        for model in step.models:
            folder = self.run.model(model.member.iteration) / model.part
            with saving(folder):
                model_files.save_member(self.run, self.network, model.member, model.variables, model.part)
                sync(folder)
                listing = manifest.entry(self.run.path, folder / manifest.LISTING)
                listed[listing["path"]] = listing
        closes = bool(state.pending.num_rows and (step.closes or state.pending.num_rows > MOST_PENDING))
        if closes:
            number = sum(path.startswith("ledger/") for path in listed)
            name = step.closes or f"{state.stage.name.lower()}-{state.iteration:04d}-{state.round:04d}"
            path = self.run.ledger / f"{number:04d}-{name}.parquet"
            with saving(path):
                ledger.write([state.pending], path)
            closed = manifest.entry(self.run.path, path)
            listed[closed["path"]] = closed
        return tuple(listed.values()), closes

    def _checkpoint(self, state: RunState, marked: bool, last: bool) -> None:
        arrays, record = pack(state)
        record |= {"events": self.run.events_entry(), "wall_seconds": self.wall_seconds()}
        with saving(self.run.checkpoints):
            step = self.checkpoints.next_step()
            self.checkpoints.save(step, arrays, record, marked, lambda: sync(self.run.events_file))
            if last:
                self.checkpoints.wait()


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turns what goes wrong with a disk while something is saved into one line.

    Raises:
      RunError: the disk is full, a quota reached, the folder gone or read-only.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
    except ValueError as error:
        # orbax says a full disk in this way.
        if not any(sign in str(error) for sign in ("RESOURCE_EXHAUSTED", "No space", "PERMISSION", "NOT_FOUND")):
            raise
        why = str(error).splitlines()[0]
    else:
        return
    kept = "what was saved before is kept, and the same command goes on from there"
    raise RunError(f"{path}: cannot be written: {why}; {kept}")
