"""A line on the terminal that says how far an import is, once it takes long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from fednas_jax.data.options import Seen

PATIENCE_SECONDS = 2.0
"""An import that takes no longer shows nothing."""


@contextlib.contextmanager
def shown(what: str) -> Iterator[Seen]:
    """Shows on stderr how many examples were read, if it is a terminal; nothing is left of it at the end.

    Args:
      what: is imported.
    """
    # Imported here: other commands need no display.
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True)
    begun, total = time.monotonic(), 0
    bar: Progress | None = None
    with contextlib.ExitStack() as stack:

        def seen(examples: int) -> None:
            nonlocal bar, total
            total += examples
            if bar is None and console.is_terminal and time.monotonic() - begun >= PATIENCE_SECONDS:
                columns = (
                    SpinnerColumn(),
                    TextColumn("{task.description} {task.completed:,} examples"),
                    TimeElapsedColumn(),
                )
                bar = stack.enter_context(Progress(*columns, console=console, transient=True))
                bar.add_task(Text(what).markup, total=None)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=total)

        yield seen
