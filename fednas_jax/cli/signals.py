"""Ctrl-C and SIGTERM, heard from the first moment on, without losing anything.

Before a run has begun there is nothing to save: the command ends at once. From then on it stops at a round's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from fednas_jax.files import remove_temporary

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal ends the command here. No Exception: code that deals with errors lets it pass."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class AtOnce:
    """A signal handler that ends the command where it is: the process, or what happens in it by `Stopped`.

    A process of the command's own is left without an exception: one that was raised while jax was imported once came up
    in compiled code, which did not expect it, and the process died of a segmentation fault.
    """

    def __init__(self, process: bool = False) -> None:
        self.process = process
        self.came: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal."""
        self.came.append(number)
        if not self.process:
            raise Stopped(number)
        with contextlib.suppress(Exception):  # the stream may be in the midst of a line
            sys.stdout.flush()
        shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # a progress bar hides the cursor
        with contextlib.suppress(OSError):
            os.write(2, f"{shown}{said(number)}\n".encode())
        remove_temporary()
        os._exit(128 + number)


def said(number: int) -> str:
    """The line that a command ends with after a signal."""
    return f"fednas: stopped by {signal.Signals(number).name}; the same command goes on from what was saved"


class AtRoundsEnd:
    """A signal handler that asks a run to stop where nothing is lost; before the run has begun, it ends it at once."""

    def __init__(self, begun: bool) -> None:
        self.begun = begun
        self.asked: list[int] = []
        self.before = AtOnce()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Takes a signal; a second Ctrl-C is not asked to wait."""
        again = bool(self.asked) and number == signal.SIGINT
        self.asked.append(number)
        if again or not self.begun:
            self.before(number, frame)

    def begin(self) -> None:
        """From now on there is something to save."""
        self.begun = True


@contextlib.contextmanager
def ending(process: bool = False) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end what happens in this context with `Stopped`.

    Args:
      process: end the process instead, with a line and an exit code of 128 and the signal's number.

    Yields:
      The signals that came, a list that grows: some library may have made another error of `Stopped`, or of none.
    """
    handler, hook = AtOnce(process), sys.unraisablehook

    def ignored(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):  # in a destructor: Python would print it and go on
            hook(unraisable)

    sys.unraisablehook = ignored
    try:
        with _handled(handler):
            yield handler.came
    finally:
        sys.unraisablehook = hook


def ignore() -> None:
    """What ends is not to be ended once more: signals are ignored up to the end of the context."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def heard(begun: bool = False) -> Iterator[AtRoundsEnd]:
    """Ctrl-C and SIGTERM ask the run to stop where nothing is lost; a second Ctrl-C stops it at once.

    Args:
      begun: whether it has begun already; otherwise it says so (`begin`), and a signal before ends it with `Stopped`.
    """
    handler = AtRoundsEnd(begun)
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, AtOnce):
        handler.before = outer
        handler.asked += outer.came  # raised where some library made nothing of it
        if handler.asked and not begun:
            raise Stopped(handler.asked[0])
    with _handled(handler):
        yield handler


@contextlib.contextmanager
def _handled(handler: AtOnce | AtRoundsEnd) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
