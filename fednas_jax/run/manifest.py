"""What belongs to a run, with sizes and SHA-256: listed when it is written, verified before anybody believes it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from fednas_jax import forms
from fednas_jax.errors import RunError
from fednas_jax.files import opened, write_json
from fednas_jax.forms import Between

FOLDERS = ("ledger", "models", "inputs")  # all files in them belong to the run
NAME, LISTING, SCHEMA = "manifest.json", "files.json", 1
SEAL = "checksum"  # the field that holds one
GROWS = "events.jsonl"  # only its beginning is listed: events may follow
_SHOWN = 3  # files in a message
_BLOCK = 1 << 20


class Entry(TypedDict):
    """A file of a run."""

    path: str  # below the run's folder, with '/' between its parts
    bytes: Annotated[int, Between(0, 2**62)]
    sha256: str


class Manifest(TypedDict):
    """RUN/manifest.json."""

    schema: Literal[1]
    files: list[Entry]
    checksum: str


def files(run: Path, grown: bool = True) -> list[Entry]:
    """The files that a run's folder holds, by path.

    Args:
      run: its folder.
      grown: the events too.

    Raises:
      RunError: one is a link or no plain file, or cannot be read.
    """
    found = [path for folder in FOLDERS for path in _below(run / folder)]
    found += [run / name for name in ("config.json", *([GROWS] * grown)) if (run / name).exists()]
    return [entry(run, path) for path in sorted(found)]


def entry(run: Path, path: Path) -> Entry:
    """A file of a run as it is now; raises as `files`."""
    size, digest = _digest(path, None)
    return {"path": path.relative_to(run).as_posix(), "bytes": size, "sha256": digest}


def write_listing(folder: Path) -> None:
    """Writes a listing of a folder's files into it, so that one entry stands for them all.

    A network is a dozen files: a checkpoint that named each would grow by so many with every iteration.
    """
    found = [entry(folder, path) for path in sorted(_below(folder))]
    write_json(folder / LISTING, sealed({"schema": SCHEMA, "files": found}))


def verify_listing(folder: Path) -> None:
    """Sees whether a folder's files are those of the listing in it; a folder without one is not ours.

    Raises:
      RunError: as `verify_files`.
    """
    if (folder / LISTING).exists():
        verify_files(folder, _listed(folder / LISTING), others=True)


def write(run: Path, listed: Sequence[Entry]) -> None:
    """Writes RUN/manifest.json: the files of a finished run, but for result.json, which seals itself."""
    write_json(run / NAME, sealed({"schema": SCHEMA, "files": list(listed)}))


def read(run: Path) -> list[Entry]:
    """What RUN/manifest.json lists.

    Raises:
      RunError: there is none, or it is damaged.
    """
    return _listed(run / NAME)


def verify_files(run: Path, listed: Sequence[Entry], others: bool = False) -> None:
    """Sees whether a run's folder holds the files that were listed, as they were.

    Args:
      run: its folder.
      listed: from `files` or `entries`, as it was written into the result or a checkpoint.
      others: there may be more, written after a checkpoint: files of the ledger, and events.

    Raises:
      RunError: one line that names what is missing, damaged, or not of this run.
    """
    wrong = [said for each in listed if (said := _wrong(run, each, others))]
    known = {each["path"] for each in listed}
    for path in () if others else _below(run / "ledger"):
        if (name := path.relative_to(run).as_posix()) not in known:
            wrong.append(f"{name} is not of this run")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise RunError(f"{run}: {', '.join(wrong[:_SHOWN])}{more}, want the files as the run left them")


def _wrong(run: Path, listed: Entry, others: bool) -> str:
    """What is wrong with a file, and with those that it lists; nothing: all is as it was."""
    path, name = _inside(run, listed["path"]), listed["path"]
    if not path.exists():
        return f"{name} is missing"
    size, digest = _digest(path, listed["bytes"] if others and name == GROWS else None)
    if (size, digest) != (listed["bytes"], listed["sha256"]):
        return f"{name} is damaged or was changed"
    if path.name != LISTING:
        return ""
    folder = name.removesuffix(LISTING)
    inner = (each | {"path": folder + each["path"]} for each in _listed(path))
    return ", ".join([said for each in inner if (said := _wrong(run, each, others))][:1])


def _listed(path: Path) -> list[Entry]:
    found = forms.read(path, Manifest)
    check_seal(path, found)
    return found["files"]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum of themselves, which `check_seal` verifies."""
    plain = {name: inner for name, inner in value.items() if name != SEAL}
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return plain | {SEAL: hashlib.sha256(text.encode()).hexdigest()}


def check_seal(path: Path, value: Mapping[str, Any]) -> None:
    """Verifies values that were sealed; those of an older version have no seal.

    Args:
      path: of the file, for the message.
      value: what it says.

    Raises:
      RunError: they are not what was written.
    """
    if SEAL in value and sealed(value)[SEAL] != value[SEAL]:
        raise RunError(f"{path}: is damaged or was changed, want it as the run left it")


def _digest(path: Path, most: int | None) -> tuple[int, str]:
    """Bytes and SHA-256 of a file, or of its first `most` bytes."""
    found, size = hashlib.sha256(), 0
    with opened(path) as file:
        while block := file.read(_BLOCK if most is None else min(_BLOCK, most - size)):
            found.update(block)
            size += len(block)
    return size, found.hexdigest()


def _inside(run: Path, name: str) -> Path:
    """The file of a listed path, which leads nowhere but below the run's folder."""
    path = run
    for part in name.split("/"):
        if part in ("", ".", "..") or "\0" in part:
            raise RunError(f"{run}: files: got {name[:100]!a}, want a file below the run's folder")
        path = path / part
        if path.is_symlink():
            raise RunError(f"{path}: is a link, want a file of the run's own")
    return path


def _below(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are not followed."""
    for where, _, names in os.walk(folder):
        yield from (Path(where) / name for name in names)
