"""Records that come one after the other, in any order of clients, become columns with little in memory.

Images are decoded as they come into a hidden file beside the folder, and copied from there client after client: for a
while the disk holds them twice. In memory are a block of images, and a label and a client for each example.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.data.columns import Column, writing
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import Damaged, Form, Raw, form_of, read_image
from fednas_jax.data.labels import check_range
from fednas_jax.data.listing import Listing, write_listing
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation
from fednas_jax.errors import DataError
from fednas_jax.files import temporary_folder

Named = int | str
"""A label or a client, as a file has it."""

# What is decoded at once: so many images, fewer where they are large, encoded or decoded.
_BLOCK, _BLOCK_BYTES = 256, 1 << 25
# A whole number, also as a column of floats has it.
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,17}))(?:\.0*)?")


class Record(NamedTuple):
    """One example of a file."""

    name: str
    """Where it stands, for messages."""
    image: Raw | None
    """An image, or a row of features [F] float32; None where the file has none, which counts as damaged."""
    label: Named
    """Class number or name."""
    client: Named | None
    """Whom it came from; None where the file names no clients."""


def named(where: str, value: Any) -> Named:
    """A label or a client of a file that has types; floats that are whole numbers are whole numbers.

    Args:
      where: it stands, for messages.
      value: as it was read.

    Raises:
      DataError: it is neither a whole number nor a text.
    """
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if not isinstance(value, int | str) or value == "":
        got = "nothing" if value in (None, "") else str(value)[:40]
        raise DataError(f"{where}: got {got}, want a whole number or a text")
    return value


def with_validation(
    where: Path, splits: Mapping[str, Iterable[Record]], options: ImportOptions
) -> dict[str, Iterable[Record]]:
    """The splits train and test, where the options say what a validation split is for.

    Raises:
      DataError: they do not.
    """
    found: dict[str, Iterable[Record]] = dict(splits)
    if "val" in found:
        check_validation(where, options, "test" in found)
        val = found.pop("val")
        found["test" if options.validation == "test" else "train"] = (
            val if options.validation == "test" else itertools.chain(found["train"], val)
        )
    return found


def write_records(
    folder: Path,
    name: str,
    splits: dict[str, Iterable[Record]],
    options: ImportOptions,
    seen: Seen,
    class_names: Sequence[str] = (),
) -> Skipped:
    """Writes records as columns.

    Args:
      folder: of the columns; must not exist yet.
      name: of the data set.
      splits: train and perhaps test -> records in any order.
      options: how.
      seen: is told how many examples were read.
      class_names: of the classes, where labels are their numbers.

    Raises:
      DataError: one line that names the record: an image that cannot be decoded or of another form, labels of two
        kinds, a client missing among others.
    """
    labels, clients = _Names(), _Names()
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            spool = stack.enter_context(temporary_folder(f".{folder.name}.records.", folder.parent))
        threads = stack.enter_context(ThreadPoolExecutor(os.cpu_count()))
        held: dict[str, _Spooled] = {}
        form: Form | None = None
        for split, records in splits.items():
            held[split] = _Spooled(spool / f"{split}.npy", options, threads, form, folder)
            held[split].take(records, labels, clients, seen)
            form = held[split].form
            if not held[split].labels:
                raise DataError(f"{name}: got no examples for {'training' if split == 'train' else split}, want some")
        numbers, texts = labels.numbers(f"{name} labels", options.remap), labels.are_texts
        names = labels.texts() if texts else list(class_names)
        found = {split: _listing(one, numbers, clients.ranks()) for split, one in held.items()}
        write_listing(
            folder,
            name,
            found["train"],
            found.get("test"),
            options.classes or len(names) or None,
            options.test_share,
            class_names=names,
            remap=options.remap and not texts,
        )
        return Skipped(damaged=sum(one.damaged for one in held.values()))


class _Names:
    """Labels or clients as they came, each once; texts that are all whole numbers are whole numbers."""

    def __init__(self) -> None:
        self._codes: dict[Named, int] = {}

    def code(self, where: str, value: Named) -> int:
        """The number of a value, in the order in which values came first."""
        found = self._codes.setdefault(value, len(self._codes))
        if found == len(self._codes) - 1 and type(value) is not type(next(iter(self._codes))):
            raise DataError(f"{where}: got {str(value)[:40]!r}, want all whole numbers or all texts, as those before")
        return found

    @property
    def are_texts(self) -> bool:
        """Whether they are texts, and not all of them whole numbers."""
        return any(isinstance(value, str) and not _WHOLE.fullmatch(value) for value in self._codes)

    def numbers(self, name: str, remap: bool) -> np.ndarray:
        """[codes] int64: the number itself, or a text's place in the alphabet.

        Args:
          name: of the labels, for messages.
          remap: they are to be numbered anew.

        Raises:
          DataError: a number that is no class number: a quantity is no class.
        """
        if self.are_texts:
            fraction = next((str(value) for value in self._codes if _is_fraction(value)), None)
            if fraction is not None and not remap and all(map(_is_number, self._codes)):
                want = "want class numbers from 0, or names, or --labels remap to take each number for a class"
                raise DataError(f"{name}: got {fraction[:40]}, {want}")
            return self.ranks()
        values = [_whole(value) for value in self._codes]
        check_range(name, min(values), max(values), remap)
        return np.array(values, np.int64)

    def ranks(self) -> np.ndarray:
        """[codes] int64: place in the order of numbers, or in the alphabet."""
        values: list[Any] = list(self._codes) if self.are_texts else [_whole(value) for value in self._codes]
        places = {value: place for place, value in enumerate(sorted(set(values)))}  # 1 and 1.0 are one
        return np.array([places[value] for value in values], np.int64)

    def texts(self) -> list[str]:
        """All of them in the order of the alphabet."""
        return sorted(map(str, self._codes))


def _whole(value: Named) -> int:
    """The number that a value is, or that its text says."""
    said = _WHOLE.fullmatch(value) if isinstance(value, str) else None
    return int(said[1] if said else value)


def _is_number(value: Named) -> bool:
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _is_fraction(value: Named) -> bool:
    return _is_number(value) and not float(value).is_integer()


class _Spooled:
    """The records of one split, of which images are on disk."""

    def __init__(self, path: Path, options: ImportOptions, threads: Executor, form: Form | None, folder: Path):
        self.path, self.form, self.damaged = path, form, 0
        self.labels, self.clients = array("q"), array("q")  # codes
        self._options, self._threads, self._folder = options, threads, folder

    def take(self, records: Iterable[Record], labels: _Names, clients: _Names, seen: Seen) -> None:
        """Decodes records, and remembers labels and clients."""
        column: Column | None = None
        has_clients: bool | None = None
        try:
            for block in self._blocks(records):
                whole = self._decoded(block)
                if whole and column is None:
                    with writing(self._folder):
                        column = Column(self.path, whole[0][1].dtype.type, whole[0][1].shape)
                for record, _ in whole:
                    self.labels.append(labels.code(f"{record.name} label", record.label))
                    has_clients = record.client is not None if has_clients is None else has_clients
                    if has_clients != (record.client is not None):
                        want = "one as the others have" if has_clients else "none as the others"
                        raise DataError(f"{record.name} client: got {record.client!r}, want {want}")
                    if record.client is not None:
                        self.clients.append(clients.code(f"{record.name} client", record.client))
                if column is not None and whole:
                    with writing(self._folder):
                        column.append(np.stack([image for _, image in whole]))
                seen(len(block))
            if column is not None:
                with writing(self._folder):
                    column.finish()
        finally:
            if column is not None:
                column.__exit__(None, None, None)

    def _blocks(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        block: list[Record] = []
        encoded = 0
        for record in records:
            block.append(record)
            encoded += len(record.image) if isinstance(record.image, bytes) else 0
            # The first image alone, which says how large all of them are.
            if _is_row(record):
                most = _BLOCK
            else:
                most = 1 if self.form is None else min(_BLOCK, max(1, _BLOCK_BYTES // math.prod(self.form.shape)))
            if len(block) >= most or encoded >= _BLOCK_BYTES:
                yield block
                block, encoded = [], 0
        if block:
            yield block

    def _decoded(self, block: list[Record]) -> list[tuple[Record, np.ndarray]]:
        """Records with their images; without those that are damaged, where that is asked for."""
        options = self._options
        if _is_row(block[0]):
            return [(record, record.image) for record in block if isinstance(record.image, np.ndarray)]
        for record in block:
            if self.form is None:
                try:
                    self.form = form_of(_image(record), record.name, options.image_size, options.channels)
                except Damaged:
                    if not options.skip_damaged:
                        raise
        form = self.form
        if form is None:  # all are damaged
            self.damaged += len(block)
            return []

        def read(record: Record) -> np.ndarray | None:
            try:
                return read_image(_image(record), record.name, form)
            except Damaged:
                if not options.skip_damaged:
                    raise
                return None

        images = list(self._threads.map(read, block))
        found = [(record, image) for record, image in zip(block, images, strict=True) if image is not None]
        self.damaged += len(block) - len(found)
        return found


def _is_row(record: Record) -> bool:
    return isinstance(record.image, np.ndarray) and record.image.ndim == 1


def _image(record: Record) -> Raw:
    if record.image is None:
        raise Damaged(f"{record.name}: got no image, want one")
    return record.image


def _listing(held: _Spooled, numbers: np.ndarray, ranks: np.ndarray) -> Listing:
    """What is on disk, to be read by number."""
    images = np.load(held.path, mmap_mode="r")
    codes = np.frombuffer(held.labels, np.int64)
    labels = numbers[codes].astype(np.int32)
    owners = ranks[np.frombuffer(held.clients, np.int64)] if held.clients else None
    return Listing(
        len(labels),
        images.shape[1:],
        lambda rows: Examples(np.asarray(images[rows]), labels[rows]),
        lambda: labels,
        None if owners is None else lambda: owners,
    )
