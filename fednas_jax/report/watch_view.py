"""What `watching` saw of runs, shown: as a table that fits a terminal, or in lines where there is none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from fednas_jax.report import draw
from fednas_jax.report.watching import MOST_MESSAGES, STATUSES, Seen, View, left_of

HEADER = ("run", "status", "stage", "round", "done", "alive", "best", "clients' s", "left", "warnings")
SPARED = ("warnings", "clients' s", "alive", "round", "left", "done", "best")  # so left out where it is narrow
NARROWEST = 20  # columns of the terminal for a run's name, before others are left out
BESIDE = 3  # blanks between two columns of the table


def line_of(view: View, now: float) -> str:
    """A run in a line."""
    said = [f"{view.name}: {view.status}"]
    if view.stage:
        said.append(f"{view.part}, round {view.round}/{view.rounds}, {100 * view.done:.0f} % of the stage")
    if view.alive is not None and view.status == "running":
        said.append(f"{view.alive} alive")
    if math.isfinite(view.best):
        said.append(f"best {view.best:.3f}")
    said.append(f"all clients' seconds {view.client_seconds:,.0f}")
    left = view.left(now)
    if left is not None:
        said.append(f"about {_duration(left)} of the stage left")
    troubles = view.troubles
    if troubles:
        said.append(f"{troubles} warning{'s' * (troubles != 1)}")
    return ", ".join(said) + (f": {view.why}" if view.why else "")


def summary(seen: Seen) -> str:
    """All runs of a folder in a line."""
    count = Counter(view.status for view in seen.views.values())
    count["waiting"] += seen.waiting
    said = [f"{count[status]:,} {status}" for status in STATUSES if count[status]]
    best = [v.best for v in seen.views.values() if v.status == "finished" and math.isfinite(v.best)]
    seconds = sum(view.client_seconds for view in seen.views.values())
    said.append(f"all clients' seconds {seconds:,.0f}")
    if best:
        said.append(f"best last network {max(best):.3f}")
    left = left_of(seen)
    if left is not None:
        said.append(f"about {_duration(left)} left")
    many = len(seen.views) + seen.waiting
    return f"{many:,} run{'s' * (many != 1)}: {', '.join(said)}"


def shown(seen: Seen, now: float, most: int, width: int) -> Group:
    """The folder as a table, most urgent first, with a line for all and what is wrong.

    Args:
      seen: of the folder.
      now: when.
      most: rows of the table.
      width: columns of the terminal.
    """
    order = {status: n for n, status in enumerate(("running", "failed", "stopped", "waiting", "dropped", "finished"))}
    views = sorted(seen.views.values(), key=lambda v: (order[v.status], -v.seen, v.name))
    header, rows = _fitting([_cells(view, now) for view in views[:most]], width)
    parts: list[Any] = [draw.table(str(seen.folder), header, rows, 3)]
    if len(views) > most:
        parts.append(_text(f"{len(views) - most:,} more"))
    parts += [_text(message) for message in messages(views)[:MOST_MESSAGES]]
    return Group(*parts, _text(summary(seen)))


def messages(views: Sequence[View]) -> list[str]:
    """What is wrong with runs, a line each."""
    found = [f"{view.name}: {view.why}" for view in views if view.why]
    found += [f"{view.name}: {warning}" for view in views for warning in view.warnings]
    found += [f"{v.name}: {v.diverged} members diverged in fine-tuning" for v in views if v.diverged]
    return found + [f"{v.name}: {v.damaged} lines of events.jsonl are no events" for v in views if v.damaged]


class Plain:
    """Says what changes, in lines, where there is no terminal."""

    def __init__(self, console: Console):
        self._console = console
        self._said: dict[Path, tuple[Any, ...]] = {}
        self._summary = ""

    def show(self, seen: Seen, now: float) -> None:
        """Says of each run that is in another stage or iteration than it was, or has other troubles, a line."""
        for path, view in seen.views.items():
            key = (view.status, view.stage, view.iteration, view.bucket, view.why, view.warnings, view.diverged)
            if self._said.get(path) != key:
                self._said[path] = key
                draw.say(self._console, line_of(view, now))
        line = summary(seen)
        counts = line.partition(", all clients' seconds")[0]
        if seen.views.keys() != {seen.folder} and counts != self._summary:
            self._summary = counts
            draw.say(self._console, line)


def _cells(view: View, now: float) -> list[str]:
    left = view.left(now)
    return [
        view.name,
        view.status,
        view.part,
        f"{view.round}/{view.rounds}" if view.rounds else "",
        f"{100 * view.done:.0f} %" if view.stage else "",
        "" if view.alive is None else str(view.alive),
        f"{view.best:.3f}" if math.isfinite(view.best) else "",
        f"{view.client_seconds:,.0f}",
        "" if left is None else _duration(left),
        str(view.troubles or ""),
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _text(line: str) -> Text:
    return Text(draw.plain(line))


def _fitting(rows: Sequence[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The header and rows without columns that say nothing or that there is no room for; names end as they did."""
    sizes = {n: max(cell_len(row[i]) for row in rows) for i, n in enumerate(HEADER) if any(row[i] for row in rows)}
    sizes = {name: BESIDE + max(size, cell_len(name)) for name, size in sizes.items()}
    name_size = sizes.pop(HEADER[0], 0)
    for spared in SPARED:
        if sum(sizes.values()) + min(name_size, BESIDE + NARROWEST) < width:
            break
        sizes.pop(spared, None)
    room = max(1, width - 1 - sum(sizes.values()) - BESIDE)
    kept = [i for i, name in enumerate(HEADER) if i == 0 or name in sizes]
    cut = [[_end_of(row[0], room), *row[1:]] for row in rows]
    return [HEADER[i] for i in kept], [[row[i] for i in kept] for row in cut]


def _end_of(name: str, room: int) -> str:
    """A name in so many columns: its end, which tells trials apart."""
    while cell_len(name) > room:
        name = "…" + name.removeprefix("…")[1:]
    return name
