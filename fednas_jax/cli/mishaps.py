"""The last line of defence: what went wrong that no module foresaw, in words, or as a bug of ours.

A machine that ran out of something, or a file that cannot be read, is one line; anything else is a bug, whose traceback
is written to a file.
"""

from __future__ import annotations

import errno
import importlib.metadata
import itertools
import platform
import shlex
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc", "Unable to allocate")
_LONGEST = 300  # characters of a library's message that are shown
_KEPT = "what was saved is kept, and the same command goes on"


def explained(error: BaseException) -> str | None:
    """What an error that is no bug says to the user, in one line; None for a bug.

    Args:
      error: as it was raised; one that was raised from another may be explained by that.
    """
    for one in _chain(error):
        if (isinstance(one, OSError) and one.errno in _NO_ROOM) or _says(one, _ROOM_WORDS):
            at = f" for {_short(one.filename)}" if isinstance(one, OSError) and one.filename else ""
            return f"disk: there is no room left{at}: {_KEPT} once there is room"
        if isinstance(one, MemoryError) or (not isinstance(one, OSError) and _says(one, _MEMORY_WORDS)):
            wants = "want smaller net.widths, train.batch_size, engine.eval_batch, engine.lanes or engine.data_share"
            return f"memory: there is not enough of it, {wants}; {_KEPT}: {_short(one) or 'nothing more is known'}"
    if isinstance(error, OSError):
        said = error.strerror or _short(error) or type(error).__name__
        return f"{_short(error.filename)}: {said}" if error.filename else said
    if isinstance(error, UnicodeError):
        return f"text: cannot be read or written, want UTF-8: {_short(error)}"
    if isinstance(error, RecursionError):
        return f"input: nested too deeply: {_short(error)}"
    return None


def bug_report(error: BaseException, args: Sequence[str]) -> str:
    """Three lines about a bug, whose traceback is written to a file: in the run's folder, or a temporary one.

    Args:
      error: that was raised.
      args: of the command line.
    """
    said = f"fednas: this is a bug of fednas: {type(error).__name__}: {_short(error)}"
    command = f"fednas {shlex.join(args)}"
    about = f"{command}\npython {platform.python_version()}, {platform.platform()}\n{_versions()}\n\n"
    text = about + "".join(traceback.format_exception(error))
    for folder in (_run_folder(args), None):
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix="fednas-bug-", suffix=".txt", dir=folder, delete=False, encoding="utf-8", errors="replace"
            ) as file:
                file.write(text)
        except OSError:
            continue
        wants = "please open an issue of fednas-jax with that file"
        return f"{said}\nfednas: its traceback is in {file.name}\nfednas: {wants}; what was saved is kept"
    return f"{said}\nfednas: its traceback cannot be written; --debug shows it\nfednas: please open an issue with it"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from or in the midst of."""
    seen: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and not any(one is other for other in seen):
        seen.append(one)
        yield one
        one = one.__cause__ or one.__context__


def _says(error: BaseException, words: Sequence[str]) -> bool:
    return any(word in str(error) for word in words)


def _short(said: object) -> str:
    """One line, not without end."""
    text = " ".join(str(said).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _run_folder(args: Sequence[str]) -> Path | None:
    """The folder of the run that a command goes on with; None where there is none yet."""
    joined = [arg.removeprefix("--out=") for arg in args if arg.startswith("--out=")]
    after = [value for option, value in itertools.pairwise(args) if option == "--out"]
    folder = Path([*joined, *after, ""][0])
    try:
        return folder if (folder / "config.json").is_file() else None
    except OSError:
        return None


def _versions() -> str:
    found = []
    for name in ("fednas-jax", "jax", "numpy", "optax", "orbax-checkpoint", "pyarrow"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)
