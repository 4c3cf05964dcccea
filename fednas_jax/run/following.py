"""The events of a run while another process writes them: read on from where one was, never in the way.

A line may be half written, a resume cuts the file and goes on from a checkpoint, and a file may vanish.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import RunError
from fednas_jax.files import opened
from fednas_jax.run import records

MOST_AT_ONCE = 1 << 25  # bytes that are read at a time
TAIL = 256  # bytes before a place that must still be there


class Place(NamedTuple):
    """How far a file was read."""

    file: int = 0  # its inode
    offset: int = 0  # bytes
    tail: bytes = b""  # those before the offset
    line: int = 0  # lines before it


class Told(NamedTuple):
    """What was read."""

    place: Place
    events: tuple[dict[str, Any], ...]
    anew: bool  # the file was cut or replaced: these events are its first, and those before count no more
    damaged: tuple[str, ...]  # lines that are no event, each in words
    more: bool  # there is more to read at once


def read_on(path: Path, place: Place) -> Told:
    """Reads the events that were written since, up to the last whole line; a file that is not there has none.

    Args:
      path: of an events.jsonl.
      place: that an earlier call returned; `Place()` is the beginning.

    Raises:
      RunError: the file cannot be read, though it is there.
    """
    block, found, anew = _block(path, place)
    if anew:
        place = Place()
        block, found, _ = _block(path, place)
    whole = block[: block.rfind(b"\n") + 1]
    if not whole and len(block) > records.MOST_LINE:  # no event is so long: passed over
        return Told(_after(place, found, block), (), anew, (f"{path}: line {place.line + 1}: too long",), True)
    events, damaged = [], []
    for number, line in enumerate(whole.splitlines(), place.line + 1):
        try:
            events.append(records.event_of(line, f"{path}: line {number}"))
        except RunError as error:
            damaged.append(str(error))
    return Told(_after(place, found, whole), tuple(events), anew, tuple(damaged), len(block) == MOST_AT_ONCE)


def _after(place: Place, found: int, read: bytes) -> Place:
    tail = (place.tail + read)[-TAIL:]
    return Place(found, place.offset + len(read), tail, place.line + read.count(b"\n"))


def _block(path: Path, place: Place) -> tuple[bytes, int, bool]:
    """What follows a place, the file's inode, and whether it is another file by now than the one that was read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return b"", 0, place.offset > 0
    try:
        with opened(path) as file:
            inode = os.fstat(file.fileno()).st_ino
            file.seek(place.offset - len(place.tail))
            # In one go, so that nobody cuts the file between the two.
            block = file.read(len(place.tail) + MOST_AT_ONCE)
    except RunError:
        if path.exists():
            raise
        return b"", 0, place.offset > 0  # it vanished just now
    other = place.offset > 0 and (inode != place.file or block[: len(place.tail)] != place.tail)
    return block[len(place.tail) :], inode, other
