"""Ctrl-C and SIGTERM, heard without losing anything."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def heard() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM ask the run to stop where nothing is lost; a second Ctrl-C stops it at once.

    Yields:
      The signals that came, a list that grows.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
