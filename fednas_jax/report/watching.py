"""What runs are doing, read off their folders while others write them: one run, or all below a folder, as in a sweep.

Nothing is ever written, and nothing here waits for anybody. Seconds called `now` are those of time.time().
"""

from __future__ import annotations

import dataclasses
import math
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import RunError
from fednas_jax.files import read_json
from fednas_jax.run.following import Place, read_on
from fednas_jax.run.lock import OWNER

DEEPEST = 4  # levels below the folder at which runs are looked for
MOST_RUNS = 100_000
QUIET = 120.0  # seconds without an event after which a run whose owner is not known counts as stopped
MOST_MESSAGES = 8
STATUSES = ("running", "waiting", "stopped", "failed", "dropped", "finished")
ENDED = ("failed", "dropped", "finished")


@dataclasses.dataclass(frozen=True)
class View:
    """One run as its events tell it."""

    name: str
    status: str = "waiting"  # one of STATUSES
    why: str = ""  # it stopped or failed
    stage: str = ""
    iteration: int = 0  # of the search
    bucket: int = 0  # of fine-tuning
    round: int = 0  # done in this stage, iteration or bucket
    rounds: int = 0  # of which that is one
    alive: int | None = None  # candidates
    best: float = math.nan  # the highest score of the latest scoring in the search, or the parent's
    client_seconds: float = 0.0  # of all clients
    searched: float = 0.0  # of the way to the budget, 0 to 1
    began: tuple[float, float] | None = None  # when the stage was first seen, and how much of it was done then
    seen: float = 0.0  # when something was last seen of it
    warnings: tuple[str, ...] = ()
    diverged: int = 0
    damaged: int = 0  # lines that are no events

    @property
    def part(self) -> str:
        """The stage, and where in it."""
        where = {"search": f" {self.iteration}", "finetune": f" {self.bucket + 1}"}
        return self.stage + where.get(self.stage, "")

    @property
    def done(self) -> float:
        """How much of the stage is done, 0 to 1."""
        return self.searched if self.stage == "search" else self.round / max(1, self.rounds)

    def left(self, now: float) -> float | None:
        """Seconds that the stage takes on, by how fast it went since it was first seen; None: nobody knows."""
        if self.status != "running" or self.began is None:
            return None
        since, before = self.began
        gone = self.done - before
        return (now - since) * (1 - self.done) / gone if gone > 0 and now > since and self.done < 1 else None

    @property
    def troubles(self) -> int:
        """Warnings, members that diverged and lines that cannot be read."""
        return len(self.warnings) + self.diverged + self.damaged


class Seen(NamedTuple):
    """What was seen of a folder so far."""

    folder: Path
    views: dict[Path, View]
    places: dict[Path, Place]
    whole_seconds: dict[Path, float]  # from begin to end, of finished runs
    waiting: int  # trials of a sweep that no run was begun of


def begin(folder: Path) -> Seen:
    """Nothing seen yet.

    Raises:
      RunError: there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: is no folder, want that of a run, or one with runs in it")
    return Seen(folder, {}, {}, {}, 0)


def look(seen: Seen, now: float) -> Seen:
    """Looks at a folder again.

    Args:
      seen: what an earlier look returned, or `begin`.
      now: when.
    """
    views, places, whole = {}, {}, dict(seen.whole_seconds)
    failures = _failures(seen.folder)
    for path in _runs(seen.folder):
        below = path.relative_to(seen.folder).as_posix().removeprefix("trials/")
        name = path.resolve().name if path == seen.folder else below
        view, place = seen.views.get(path, View(name)), seen.places.get(path, Place())
        ended = (path / "result.json").exists()  # asked before reading: its last event was written before it
        if view.status != "finished" or not ended:
            view, place = _read(path, view, place, now)
            view = _judged(path, view, ended, failures.get(path.name), now)
        if view.status == "finished" and path not in whole:
            whole[path] = _age(path)
        failures.pop(path.name, None)
        views[path], places[path] = view, place
    for name, why in failures.items():  # trials that failed before they had a run
        views[seen.folder / "failed" / name] = View(name, "failed", why)
    return Seen(seen.folder, views, places, whole, _waiting(seen.folder, {view.name for view in views.values()}))


def after(view: View, event: dict[str, Any], now: float) -> View:
    """The view after an event; one that lacks what it should have changes little."""
    kind, told = event["event"], event.get
    if kind in ("round", "parent"):
        view = dataclasses.replace(view, client_seconds=view.client_seconds + told("client_seconds", 0.0))
    if kind == "round":
        stage = told("stage", "")
        begun = view.began if (stage, told("bucket", 0)) == (view.stage, view.bucket) else None
        scores = [s for s in (told("scores") or {}).values() if math.isfinite(s)]
        view = dataclasses.replace(
            view,
            stage=stage,
            iteration=told("iteration", 0),
            bucket=int(told("bucket") or 0),
            round=told("round", 0),
            rounds=told("rounds", 0),
            alive=told("alive"),
            best=max(scores, default=view.best),
        )
        return dataclasses.replace(view, began=begun or (now, view.done))
    changed: dict[str, dict[str, Any]] = {
        "iteration": {"iteration": told("iteration", 0), "alive": len(told("candidates", []))},
        "select": {"searched": told("progress", 0.0), "best": told("score", math.nan), "alive": 1},
        "parent": {"best": told("score", math.nan)},
        "resume": {
            "client_seconds": told("client_seconds", view.client_seconds),
            "searched": told("progress", view.searched),
            "began": None,
        },
        "warning": {"warnings": (*view.warnings, str(told("message", "")))[-MOST_MESSAGES:]},
        "fallback": {"warnings": (*view.warnings, f"a checkpoint was refused: {told('reason', '')}")[-MOST_MESSAGES:]},
        "diverged": {"diverged": view.diverged + 1},
    }
    return dataclasses.replace(view, **changed.get(kind, {}))


def left_of(seen: Seen) -> float | None:
    """Seconds until all runs of a folder are finished, if each takes as long as those before; None: nobody knows."""
    running = sum(view.status == "running" for view in seen.views.values())
    waiting = seen.waiting + sum(view.status == "waiting" for view in seen.views.values())
    known = [seconds for seconds in seen.whole_seconds.values() if seconds > 0]
    if not running or not known:
        return None
    # Those that run are half done on average.
    return sum(known) / len(known) * (waiting + running / 2) / running


def over(seen: Seen) -> bool:
    """Whether nothing more can come: all runs are finished, dropped or failed, and there is one at least."""
    ended = all(view.status in ENDED for view in seen.views.values())
    return bool(seen.views) and ended and not seen.waiting


def _read(path: Path, view: View, place: Place, now: float) -> tuple[View, Place]:
    """Takes up the events that were written since."""
    more, behind = True, not place.offset
    while more:
        try:
            told = read_on(path / "events.jsonl", place)
        except RunError as error:
            return dataclasses.replace(view, warnings=(*view.warnings, str(error))[-MOST_MESSAGES:]), place
        if told.anew:
            view, behind = View(view.name), True
        if told.events:
            view = dataclasses.replace(view, seen=_changed_at(path / "events.jsonl", now))
        for event in told.events:
            view = after(view, event, now)
        view = dataclasses.replace(view, damaged=view.damaged + len(told.damaged))
        place, more = told.place, told.more
    if behind and view.stage:  # when all that was written was done, nobody saw
        view = dataclasses.replace(view, began=(view.seen, view.done))
    return view, place


def _judged(path: Path, view: View, ended: bool, failure: str | None, now: float) -> View:
    """The view with what the folder says besides its events: whether anybody works on it."""
    status, why = "stopped", ""
    owner = _owner(path)
    if ended:
        status = "finished"
    elif owner is True:  # one that failed may be tried again
        status = "running"
    elif failure is not None:
        status, why = "failed", failure
    elif _dropped(path):
        status = "dropped"
    elif owner is False:
        why = "its process is gone; the same command goes on"
    elif now - max(view.seen, _changed_at(path / "config.json", 0.0)) < QUIET:
        status = "running"
    if status == "finished":
        view = dataclasses.replace(view, alive=None, began=None)
    return dataclasses.replace(view, status=status, why=why)


def _owner(path: Path) -> bool | None:
    """Whether the process that holds a folder lives; None: nobody says, or it is on another host."""
    try:
        owner = read_json(path / OWNER)
        host, process = owner["host"], int(owner["process"])
    except (RunError, ValueError, KeyError, TypeError):
        return None
    if host != socket.gethostname() or process < 1:
        return None
    try:
        os.kill(process, 0)  # asks only
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def _runs(folder: Path) -> list[Path]:
    """The folders of runs, at or below a folder, by name; links are not followed."""
    found: list[Path] = []
    level = [folder]
    for _ in range(DEEPEST):
        below = []
        for path in level:
            try:
                with os.scandir(path) as entries:
                    there = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
            except OSError:  # it vanished, or is nobody's business
                continue
            if "sweep.json" in there:
                below.append(path / "trials")
            elif {"config.json", "events.jsonl", OWNER} & set(there):
                found.append(path)
            else:
                below += [path / name for name, is_folder in there.items() if is_folder and name[0] != "."]
        level = below[: MOST_RUNS - len(found)]
    return sorted(found)


def _failures(folder: Path) -> dict[str, str]:
    """Trial of a sweep -> why it failed."""
    found = {}
    try:
        files = sorted((folder / "failed").glob("*.json"))[:MOST_RUNS]
    except OSError:
        return {}
    for file in files:
        try:
            found[file.stem] = str(read_json(file)["error"])
        except (RunError, KeyError, TypeError):
            found[file.stem] = "failed"
    return found


def _dropped(path: Path) -> bool:
    """Whether the run is a trial of a sweep that was dropped early, one that is no longer asked for among them."""
    whole = path.absolute()  # one that is given as 'run' or '.' has no folder above it to go by
    scores = whole.parent.parent / "scores"
    try:
        files = [folder / f"{whole.name}.json" for folder in (scores, scores / "left_out")]
        return any(file.exists() and read_json(file)["dropped"] is not None for file in files)
    except (RunError, KeyError, TypeError):
        return False


def _waiting(folder: Path, begun: set[str]) -> int:
    """Trials in a sweep's manifest that no run was begun of."""
    try:
        names = {str(trial["name"]) for trial in read_json(folder / "sweep.json")["trials"]}
    except (RunError, KeyError, TypeError):  # no sweep, or half of it
        return 0
    return len(names - begun)


def _age(path: Path) -> float:
    """Seconds from a run's beginning to its end."""
    ended = _changed_at(path / "result.json", 0.0)
    return ended - _changed_at(path / "config.json", ended)


def _changed_at(path: Path, missing: float) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return missing
