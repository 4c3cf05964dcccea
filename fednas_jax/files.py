"""Files that are read as data, never as code, and written whole or not at all. No jax here.

What lies on a disk may be cut, damaged, or a stranger's: what is read has bounds, and what is written is written beside
its place and renamed, so that a link there is replaced and never followed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fednas_jax.errors import ConfigError, FednasError, RunError

MOST_BYTES = 64 << 20  # of a JSON file
MOST_DEPTH = 32  # of lists and objects inside each other
_NAME = re.compile(r"\w[\w.\- ]{0,99}")
_BLOCK = 1 << 20


def read_json(path: Path, error: type[FednasError] = RunError, most: int = MOST_BYTES) -> Any:
    """What a JSON file says, as plain Python values.

    Args:
      path: of the file.
      error: kind of error to raise.
      most: bytes that the file may have.

    Raises:
      FednasError: of the given kind: the file is missing, too large, no JSON, nested too deeply, or says NaN.
    """

    def refused(value: str) -> Any:
        raise ValueError(f"{value}, which is no number")

    with opened(path, error) as file:
        # Never more is asked for than there is: the room for what is asked for is taken at once.
        text = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
    if len(text) > most:
        raise error(f"{path}: got more than {most:,} bytes, want at most so many")
    try:
        value = json.loads(text, parse_constant=refused)
    except (ValueError, RecursionError) as raised:
        raise error(f"{path}: cannot be read as JSON: {' '.join(str(raised).split())}") from None
    if _deeper(value, MOST_DEPTH):
        raise error(f"{path}: got values nested deeper than {MOST_DEPTH}, want a file that fednas wrote")
    return value


@contextlib.contextmanager
def opened(path: Path, error: type[FednasError] = RunError) -> Iterator[BinaryIO]:
    """A file open to be read: a plain one, since a device or a pipe may never end.

    Args:
      path: of the file.
      error: kind of error to raise.

    Raises:
      FednasError: of the given kind: it is missing, no plain file, or cannot be read.
    """
    try:
        # Opening a pipe waits for who writes into it, unless it is told not to.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as raised:  # ValueError: a name with a zero byte in it
        raise error(f"{path}: cannot be read: {getattr(raised, 'strerror', None) or raised}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{path}: got no plain file, want one")
    try:
        with os.fdopen(descriptor, "rb") as file:
            yield file
    except OSError as raised:
        said = raised.strerror or ascii(" ".join(str(raised).split()))[1:-1]  # a library's, which may quote the file
        raise error(f"{path}: cannot be read: {said}") from None


def text_of(path: Path, field: str) -> str:
    """The text of a file that a field of the config names.

    Args:
      path: of the file.
      field: that named it, for the message.

    Raises:
      ConfigError: it is missing, no plain file, or no text.
    """
    if path.exists() and not path.is_file():  # a device or a pipe may never end
        raise ConfigError(f"{field}: {path} cannot be read: it is no plain file")
    try:
        return path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{field}: {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def csv_rows(path: Path, field: str) -> list[dict[str, Any]]:
    """The rows of a CSV file that a field of the config names, by the names in its first line.

    Raises:
      ConfigError: as `text_of`; or a line cannot be taken apart, or two columns have one name.
    """
    reader = csv.DictReader(text_of(path, field).splitlines())
    try:
        rows = list(reader)
    except csv.Error as error:
        raise ConfigError(f"{field}: {path} cannot be read: {error}") from None
    names = list(reader.fieldnames or ())
    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
        raise ConfigError(f"{field}: {path} got the column {twice[0]!r} twice, want it once")
    return rows


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """Values as the text of a JSON file.

    Raises:
      ValueError: a number is not finite.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to be written, which takes its place when all is written; else nothing changes.

    It is on the disk before it is renamed, so that no crash leaves half of it. A link at `path` is replaced.
    """
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody put there
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def temporary_folder(prefix: str, within: Path | None = None) -> Iterator[Path]:
    """A folder that goes at the end with what is left in it, also where a signal ends the process.

    Args:
      prefix: of its name.
      within: the folder that it is made in; None: where temporary files are.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        _TEMPORARY.add(name)
        try:
            yield Path(name)
        finally:
            _TEMPORARY.discard(name)


def remove_temporary() -> None:
    """Removes the temporary folders that there are: for a process that ends in the midst of what uses them."""
    for name in tuple(_TEMPORARY):
        shutil.rmtree(name, ignore_errors=True)


_TEMPORARY: set[str] = set()


def sync(path: Path) -> None:
    """Makes what was written to a file or folder, and below it, last through a crash of the machine, where it can."""
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        with contextlib.suppress(OSError):  # some network file systems cannot
            handle = os.open(each, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes; raises RunError where it cannot be read."""
    found = hashlib.sha256()
    with opened(path) as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def folder_names(folder: Path, what: str) -> set[str]:
    """Names of what lies in the folder of a `--out`; none where it is still to be made.

    Args:
      folder: as given.
      what: it shall become, for the message.

    Raises:
      RunError: it is a file or lies below one, or no folder can have this name.
    """
    try:
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise RunError(f"--out: {path} is a file, want a folder or a new name")
        os.stat(folder, follow_symlinks=False)  # says what `exists` keeps to itself
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte in it
        why = getattr(error, "strerror", None) or error
        raise RunError(f"--out: {str(folder)[:200]!a} cannot be {what}: {why}") from None


def make_folder(folder: Path, option: str = "--out") -> None:
    """Makes the folder of an option, where there is none yet; raises RunError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a name that is too long, or has a zero byte in it
        why = getattr(error, "strerror", None) or error
        raise RunError(f"{option}: {str(folder)[:200]!a} cannot be made: {why}") from None


def plain_name(name: str, field: str, error: type[FednasError] = RunError) -> str:
    """A name that may become part of a path: it leads nowhere else.

    Args:
      name: as given by a user or a file.
      field: where it stands, for the message.
      error: kind of error to raise.

    Raises:
      FednasError: of the given kind: it has other characters than letters, digits, '.', '-', '_' and spaces, begins
        with none of the first two, or is longer than 100.
    """
    if not _NAME.fullmatch(name):
        raise error(f"{field}: got {name[:120]!r}, want a name of letters, digits, '.', '-' and '_'")
    return name


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects lie deeper inside each other than `most`; without recursion."""
    level = [value]
    for _ in range(most):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return False
    return True


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
