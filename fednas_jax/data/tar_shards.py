"""WebDataset's shards: tar files in which the files of an example follow each other, KEY.jpg, KEY.cls, KEY.json.

They are read as they come, never unpacked.
Source: https://github.com/webdataset/webdataset (the format's description in its README).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.damage import reading
from fednas_jax.data.images import suffixes
from fednas_jax.data.options import ImportOptions, Seen, Skipped, unheard
from fednas_jax.data.records import Named, Record, named, with_validation, write_records
from fednas_jax.data.source_files import files_of
from fednas_jax.data.split import by_split
from fednas_jax.data.table_columns import NONE
from fednas_jax.errors import DataError

_WANT = "a whole tar file"
_ENDS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_LABELS = ("cls", "label", "class")
_CLIENTS = ("client", "client_id", "user", "user_id", "writer_id")
_MOST = 1 << 28  # bytes of one file of an example


class _Member(tarfile.TarInfo):
    """A member of an archive; a damaged header is an error, which tarfile takes for the archive's end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        """Reads the next header."""
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined, unused-ignore]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from error


def import_webdataset(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes WebDataset's shards as columns.

    An example's label is its file .cls, or the value `label` of its .json; its client, if there are clients, the file
    or value `client`. Options name others.

    Args:
      source: a .tar file (perhaps compressed), or a folder of such, whose names may say train, val and test.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the shard and the example.
    """
    files = files_of(source, *_ENDS)
    if not files:
        raise DataError(f"{source}: got no .tar files, want WebDataset's shards")
    splits = by_split(source, files)
    has_clients = _names_clients(splits["train"][0], options)
    records = {split: _records(some, options, has_clients) for split, some in splits.items()}
    return write_records(folder, source.stem, with_validation(source, records, options), options, seen)


def _names_clients(shard: Path, options: ImportOptions) -> bool:
    """Whether the first example names its client."""
    if options.client_column:
        return options.client_column != NONE
    first = next(_samples(shard, options), None)
    return first is not None and _value(shard, first[1], _CLIENTS) is not None


def _records(shards: list[Path], options: ImportOptions, has_clients: bool) -> Iterator[Record]:
    labels = (options.label_column,) if options.label_column else _LABELS
    clients = (options.client_column,) if options.client_column else _CLIENTS
    for shard in shards:
        found = False
        for key, files in _samples(shard, options):
            where = f"{shard} {key}"
            images = [end for end in files if _is_image(end, options)]
            if len(images) > 1:
                raise DataError(f"{where}: got the images {' and '.join(images)}, want --image-column to say which")
            if not images:
                has = ", ".join(sorted(files)[:8])
                raise DataError(f"{where}: got no image among {has}, want --image-column to say which it is")
            found = True
            label, client = _value(shard, files, labels), _value(shard, files, clients) if has_clients else None
            if label is None:
                raise DataError(f"{where}: got no {labels[0]}, want one, or --label-column to say what it is called")
            if has_clients and client is None:
                raise DataError(f"{where}: got no {clients[0]}, want one as the first example has")
            yield Record(f"{where}.{images[0]}", files[images[0]], label, client)
        if not found:
            raise DataError(f"{shard}: got no examples, want some")


def _samples(shard: Path, options: ImportOptions) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every example's key and files, by the end of their names."""
    key, files, size = "", dict[str, bytes](), 0
    with reading(shard, _WANT), tarfile.open(shard, "r|*", tarinfo=_Member) as archive:
        for member in archive:
            folder, _, base = member.name.rpartition("/")
            stem, dot, end = base.partition(".")
            if not member.isfile() or not dot or not stem:
                continue
            if member.issparse():
                raise DataError(f"{shard} {member.name[:80]}: got a file with holes, want one whole")
            size += member.size
            check_expansion(shard, size, options.most_gigabytes)
            if f"{folder}/{stem}" != key and files:
                yield key.removeprefix("/"), files
                files = {}
            key, end = f"{folder}/{stem}", end.lower()
            if end in files:
                raise DataError(f"{shard} {member.name[:80]}: got a second file of this name, want each once")
            if not _wanted(end, options):
                continue
            if member.size > _MOST:
                raise DataError(f"{shard} {member.name[:80]}: got {member.size:,} bytes, want at most {_MOST:,}")
            held = archive.extractfile(member)
            assert held is not None, "it is a file"
            files[end] = held.read()
            if len(files[end]) != member.size:
                raise tarfile.ReadError("unexpected end of data")
        if files:
            yield key.removeprefix("/"), files


def _is_image(end: str, options: ImportOptions) -> bool:
    return end == options.image_column if options.image_column else f".{end.rpartition('.')[2]}" in suffixes()


def _wanted(end: str, options: ImportOptions) -> bool:
    """Whether a file is read: an example may have others, films say."""
    values = (*_LABELS, *_CLIENTS, options.label_column, options.client_column, "json", "txt")
    return _is_image(end, options) or end in values


def _value(shard: Path, files: dict[str, bytes], names: tuple[str, ...]) -> Named | None:
    """What an example's file, or its JSON, has under the first of these names that is there."""
    said: Any = {}
    for end, content in files.items():
        if end == "json":
            try:
                said = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{shard}: got a damaged .json ({' '.join(str(error).split())[:120]})") from error
    for name in names:
        value = files[name].decode("utf-8", "replace").strip() if name in files else None
        if value is None and isinstance(said, dict):
            value = said.get(name)
        if value is not None:
            return named(f"{shard} {name}", value)
    return None
