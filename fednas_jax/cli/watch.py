"""`fednas watch`: a live view of a run, or of all runs in a folder."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import Annotated

import tyro

from fednas_jax.cli import signals
from fednas_jax.cli.parsing import parse, terminal
from fednas_jax.config import bounds
from fednas_jax.config.bounds import AtLeast, AtMost
from fednas_jax.errors import RunError


@dataclasses.dataclass(frozen=True)
class WatchArgs:
    """Watch a run, or all runs below a folder, such as a sweep's; nothing is written. It ends when all are over."""

    folder: tyro.conf.Positional[Path]
    """Of a run, or with runs in it."""
    once: bool = False
    """Show how it is now, and end."""
    every: Annotated[float, AtLeast(0.05), AtMost(3600)] = 1.0
    """Seconds between two looks."""


def run(args: list[str]) -> int:
    """Runs `fednas watch` with these arguments and returns the exit code."""
    parsed = parse(WatchArgs, args, "fednas watch")
    bounds.check_value("--every", parsed.every, bounds.hints(WatchArgs)["every"])
    from rich.live import Live

    from fednas_jax.report import watch_view, watching

    console = terminal()
    seen = watching.look(watching.begin(parsed.folder), time.time())
    if parsed.once:
        if not seen.views and not seen.waiting:
            raise RunError(f"{parsed.folder}: holds no run, want that of a run, or one with runs in it")
        console.print(watch_view.shown(seen, time.time(), len(seen.views), console.width))
        return 0
    try:
        if not console.is_terminal:
            plain = watch_view.Plain(console)
            plain.show(seen, time.time())
            while not (watching.over(seen) or console.quiet):  # quiet: its reader has gone
                time.sleep(parsed.every)
                seen = watching.look(seen, time.time())
                plain.show(seen, time.time())
            return 0
        with Live(console=console, auto_refresh=False) as live:
            while True:
                rows = max(3, console.height - watching.MOST_MESSAGES - 7)
                live.update(watch_view.shown(seen, time.time(), rows, console.width), refresh=True)
                if watching.over(seen):
                    return 0
                time.sleep(parsed.every)
                seen = watching.look(seen, time.time())
    except (KeyboardInterrupt, signals.Stopped) as stopped:  # how one stops watching; nothing is lost by it
        return 128 + (stopped.number if isinstance(stopped, signals.Stopped) else signal.SIGINT)
