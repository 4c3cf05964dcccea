"""What lies in a run's folder, with sizes and checksums; verified before anybody believes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import RunError
from fednas_jax.files import checksum


class Entry(NamedTuple):
    """A file of the run's folder."""

    path: str  # within the folder, with '/' between its parts
    bytes: int  # of it that count: a file that grows is listed up to here
    sha256: str  # of those bytes


def entries(run: Path, path: Path) -> tuple[Entry, ...]:
    """A file, or all files below a folder, as they are now, in the order of their paths."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return tuple(Entry(p.relative_to(run).as_posix(), p.stat().st_size, checksum(p)) for p in files)


def verify(run: Path, listed: Iterable[Entry]) -> None:
    """Compares files with what was listed of them.

    Raises:
      RunError: one is missing, shorter, or of another content; names it.
    """
    for entry in listed:
        path = run / entry.path
        if not path.resolve().is_relative_to(run.resolve()):
            raise RunError(f"{run}: lists {entry.path}, want files of its own folder")
        try:
            size = path.stat().st_size
            if size < entry.bytes:
                raise RunError(f"{path}: is damaged: got {size:,} bytes, want {entry.bytes:,}")
            found = _checksum(path, entry.bytes)
        except OSError as error:
            raise RunError(f"{path}: is missing or cannot be read: {error.strerror}") from None
        if found != entry.sha256:
            raise RunError(f"{path}: is damaged: it is not what this run wrote")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values with a checksum of themselves, which `check_seal` verifies."""
    plain = {name: inner for name, inner in value.items() if name != "checksum"}
    return plain | {"checksum": hashlib.sha256(_canonical(plain)).hexdigest()}


def check_seal(path: Path, value: Mapping[str, Any]) -> None:
    """Verifies values that were sealed; those of an older version have no seal.

    Raises:
      RunError: they are not what was written.
    """
    if "checksum" in value and sealed(value)["checksum"] != value["checksum"]:
        raise RunError(f"{path}: is damaged: it is not what this run wrote")


def _canonical(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _checksum(path: Path, size: int) -> str:
    """SHA-256 of a file's first bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while size and (block := file.read(min(size, 1 << 20))):
            found.update(block)
            size -= len(block)
    return found.hexdigest()
