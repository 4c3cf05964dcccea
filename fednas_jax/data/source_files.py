"""The files of a source that is to be imported: the one that was given, or those in a folder."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fednas_jax.data.damage import printable
from fednas_jax.errors import DataError

_SHARD = re.compile(r"(.*)-\d+-of-(\d+)")

_log = logging.getLogger(__name__)


def files_of(source: Path, *ends: str, deep: bool = True) -> list[Path]:
    """The file itself, or a folder's files of some kinds, in the order of their paths.

    Names that begin with a dot are passed over, and all below them: copies that editors and notebooks keep of a file
    (.ipynb_checkpoints), and what macOS puts beside one (._train.csv), are no examples of their own. Where names say
    how many shards there are, those that are missing are told.

    Args:
      source: a file, or a folder.
      ends: of the files' names, in small letters and with their dot; files may have them in any case.
      deep: whether folders within the folder are looked into.

    Raises:
      DataError: there is neither, or two files differ in their ends alone: one is the other, unpacked say.
    """
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found: dict[Path, Path] = {}
    for path in sorted(source.rglob("*") if deep else source.glob("*")):
        end = max((end for end in ends if path.name.lower().endswith(end)), key=len, default="")
        if not end or not _shown(path, source) or not path.is_file():
            continue
        other = found.setdefault(path.with_name(path.name[: -len(end)]), path)
        if other != path:
            raise DataError(f"{path.parent}: got {other.name} and {path.name}, want one of them")
    _tell_missing(found)
    return list(found.values())


def _tell_missing(found: Iterable[Path]) -> None:
    """Warns of missing ones among NAME-00000-of-00005 and the like; some of them may be all that is wanted."""
    shards = ((path.parent, _SHARD.fullmatch(path.name)) for path in found)
    for (folder, name, number), held in Counter((folder, said[1], said[2]) for folder, said in shards if said).items():
        if held < int(number):
            _log.warning("%s", printable(f"{folder}: got {held} of the {int(number)} files {name}-*-of-{number}"))


def _shown(path: Path, source: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(source).parts)
