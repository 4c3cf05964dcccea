"""Columns on disk: a folder of .npy files that are memory-mapped, for data larger than memory.

The folder holds columns.json (schema, name, classes, examples, test_examples, clients, shape, mean, std, and perhaps
class_names) and

- images.npy [N, H, W, C] uint8 and labels.npy [N] int32, client after client,
- offsets.npy [clients + 1] int64: rows offsets[c]:offsets[c + 1] are client c's; not there where clients is 0, for
  data that names none,
- test_images.npy [T, H, W, C] uint8 and test_labels.npy [T] int32.

Of other inputs the schema is 2: columns.json says `dtype` as well, where every position has a label `label_shape`, and
of tokens `tokens`, perhaps `vocabulary`; and instead of the images are inputs.npy and test_inputs.npy.

Plain numpy files, so that `np.load` opens them anywhere, and any program that writes such files can write these.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fednas_jax.data.columns_json import INPUTS_SCHEMA, SCHEMA, About, read_about, text_of
from fednas_jax.data.examples import (
    Dataset,
    Examples,
    Statistics,
    channel_counts,
    check,
    dataset,
    input_statistics,
    statistics_of,
)
from fednas_jax.data.labels import LARGEST, class_count
from fednas_jax.errors import DataError
from fednas_jax.files import temporary_folder

_CHANGED = 1 << 16  # rows changed at once


def write_columns(
    folder: Path, name: str, blocks: Iterable[tuple[Examples, np.ndarray]], test: Examples, classes: int
) -> None:
    """Writes a data set whose examples belong to clients, block by block: no more than one is held in memory.

    A write that fails or is killed leaves no `folder`, as `ColumnsWriter` says.

    Args:
      folder: must not exist yet; its parents are made.
      name: of the data set.
      blocks: pairs (examples, sizes [clients] of whole numbers): the examples of some whole clients, client after
        client, and how many each holds, which may be none. A block may be one client or many thousands.
      test: the test split.
      classes: number of classes; labels are 0 to classes - 1.

    Raises:
      DataError: examples that are not as `Examples` says, sizes that do not add up, no examples at all, or a
        folder that is there already or cannot be written.
    """
    check(f"{name} test", test, classes)
    with ColumnsWriter(folder, name, classes) as writer:
        writer.add_test(test)
        for examples, sizes in blocks:
            writer.add(examples, sizes)
        writer.finish()


class ColumnsWriter:
    """Columns that are being written, both splits block by block: no more than a block is held in memory.

    All is written beside the folder, under a hidden name, and renamed by `finish`: a write that fails or is killed
    leaves no folder that could be read.

        with ColumnsWriter(folder, name) as writer:
            writer.add(examples, sizes)  # as often as there are blocks
            writer.add_test(examples)
            writer.finish()
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        classes: int | None = None,
        class_names: Sequence[str] = (),
        remap: bool = False,
        tokens: int = 0,
        vocabulary: Sequence[str] = (),
    ):
        """Takes what `write_columns` does, and how classes are numbered.

        Args:
          folder: must not exist yet.
          name: of the data set.
          classes: number of classes; None is one more than the largest label that comes.
          class_names: of every class, where they have names.
          remap: classes are numbered anew, from 0 in the order of their labels, which become their names.
          tokens: number of token ids, where inputs are such; 0 is one more than the largest that comes.
          vocabulary: text of every token id, where they have texts.

        Raises:
          DataError: a folder that is there already or cannot be written.
        """
        if folder.exists():
            raise DataError(f"{folder}: is there already, want a new folder for columns")
        self.folder, self.name, self.classes = folder, name, classes
        self._class_names, self._remap = list(class_names), remap
        self._tokens, self._vocabulary = tokens or len(vocabulary), list(vocabulary)
        self._largest = 0  # token that came
        self._different: set[int] = set()  # labels that came
        self._stack = contextlib.ExitStack()
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, since a rename cannot cross file systems.
            hidden = self._stack.enter_context(temporary_folder(f".{folder.name}.", folder.parent))
            self._unfinished = hidden / "columns"
            self._unfinished.mkdir()
        self._columns: dict[str, Column] = {}
        self._counts = np.zeros((0, 256), np.int64)
        self._blocks = 0

    def __enter__(self) -> ColumnsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def examples(self) -> int:
        """Training examples written so far."""
        return self._columns["labels"].rows if "labels" in self._columns else 0

    @property
    def test_examples(self) -> int:
        """Test examples written so far."""
        return self._columns["test_labels"].rows if "test_labels" in self._columns else 0

    def add(self, examples: Examples, sizes: np.ndarray | None = None) -> None:
        """Adds training examples.

        Args:
          examples: of some whole clients, client after client.
          sizes: [clients] whole numbers: how many each of them holds; None for data that names no clients, then in
            every block.

        Raises:
          DataError: as `write_columns`.
        """
        where = f"{self.name} block {self._blocks}"
        self._check(where, examples)
        if self._blocks and (sizes is None) == ("offsets" in self._columns):
            raise DataError(f"{where} sizes: got {'none' if sizes is None else 'some'}, want as in the blocks before")
        if sizes is not None:
            sizes = np.asarray(sizes)
            _check_sizes(where, sizes, len(examples.labels))
        if examples.inputs.dtype == np.uint8:
            if not len(self._counts):
                self._counts = np.zeros((examples.inputs.shape[-1], 256), np.int64)
            self._counts += channel_counts(examples.inputs)
        with writing(self.folder):
            if sizes is not None:
                if "offsets" not in self._columns:
                    self._column("offsets", np.int64).append(np.zeros(1, np.int64))
                self._columns["offsets"].append(self.examples + np.cumsum(sizes, dtype=np.int64))
            self._append("", examples)
        self._blocks += 1

    def add_test(self, examples: Examples) -> None:
        """Adds examples to the test split.

        Raises:
          DataError: as `write_columns`.
        """
        self._check(f"{self.name} test", examples)
        with writing(self.folder):
            self._append("test_", examples)

    def finish(self) -> None:
        """Completes the files and gives the folder its name.

        Raises:
          DataError: no examples at all in a split, or a folder that cannot be written.
        """
        if not self.examples:
            raise DataError(f"{self.name}: got no training examples, want at least one")
        if not self.test_examples:
            raise DataError(f"{self.name}: got no test examples, want at least one")
        inputs = self._columns["inputs"]
        with writing(self.folder):
            classes = self._numbered()
            for column in self._columns.values():
                column.finish()
            mean, std = self._statistics(inputs)
        about = About(
            schema=SCHEMA if inputs.dtype == np.uint8 else INPUTS_SCHEMA,
            name=self.name,
            classes=classes,
            examples=self.examples,
            test_examples=self.test_examples,
            clients=self._columns["offsets"].rows - 1 if "offsets" in self._columns else 0,
            shape=list(inputs.shape),
            mean=list(mean),
            std=list(std),
            class_names=self._class_names if len(self._class_names) == classes else [],
            dtype=str(inputs.dtype),
            label_shape=list(self._columns["labels"].shape),
            tokens=(self._tokens or self._largest + 1) if inputs.dtype == np.int32 else 0,
            vocabulary=self._vocabulary,
        )
        with writing(self.folder):
            (self._unfinished / "columns.json").write_text(text_of(about))
            self._unfinished.rename(self.folder)

    def _statistics(self, inputs: Column) -> Statistics:
        """Of the training inputs; those that are no images are read once more, from the disk."""
        if inputs.dtype == np.uint8:
            return statistics_of(self._counts)
        return input_statistics(np.load(inputs.path, mmap_mode="r"))

    def _numbered(self) -> int:
        """The number of classes, after they were numbered anew where that is asked for."""
        different = np.array(sorted(self._different), np.int32)
        if not len(different):
            raise DataError(f"{self.name} labels: got none but -1, want some")
        if not self._remap:
            total = self.examples + self.test_examples
            return self.classes or class_count(self.name, int(different[-1]), len(different), total)
        self._class_names = list(map(str, different.tolist()))
        if self.classes is not None and len(different) > self.classes:
            raise DataError(f"{self.name} labels: got {len(different)} different ones, want at most {self.classes}")
        for name in ("labels", "test_labels"):
            self._columns[name].change(lambda labels: np.searchsorted(different, labels))
        return self.classes or len(different)

    def _column(self, name: str, dtype: np.dtype[Any] | type[np.generic], shape: tuple[int, ...] = ()) -> Column:
        """The column of this name, made for the shape and type of the first rows that come."""
        if name not in self._columns:
            file = name.replace("inputs", "images") if dtype == np.uint8 else name
            column = Column(self._unfinished / f"{file}.npy", dtype, shape)
            self._columns[name] = self._stack.enter_context(column)
        return self._columns[name]

    def _append(self, split: str, examples: Examples) -> None:
        for name, rows in (("inputs", examples.inputs), ("labels", examples.labels)):
            self._column(f"{split}{name}", rows.dtype, rows.shape[1:]).append(rows)

    def _check(self, where: str, examples: Examples) -> None:
        # Clients who hold nothing are no mistake, and `check` takes no empty split.
        if len(examples.inputs) or len(examples.labels):
            if self._remap and examples.labels.ndim > 1:
                raise DataError(f"{where} labels: got one for every position, which cannot be numbered anew")
            # Labels that are numbered anew may be any number.
            labels = np.zeros_like(examples.labels) if self._remap else examples.labels
            check(where, Examples(examples.inputs, labels), self.classes or LARGEST, self._tokens or LARGEST)
            self._different.update(np.unique(examples.labels).tolist())
            if examples.labels.ndim > 1:
                self._different.discard(-1)  # which is no class
            if examples.inputs.dtype == np.int32:
                self._largest = max(self._largest, int(examples.inputs.max()))
        for name, rows in (("inputs", examples.inputs), ("labels", examples.labels)):
            for column in (self._columns.get(name), self._columns.get(f"test_{name}")):
                if column is not None and (rows.shape[1:], rows.dtype) != (column.shape, column.dtype):
                    what = "images" if column.dtype == np.uint8 else name
                    got, want = ([*shape] if shape else "one" for shape in (rows.shape[1:], column.shape))
                    kinds = f" {rows.dtype}", f" {column.dtype}"
                    got, want = (f"{got}{kinds[0]}", f"{want}{kinds[1]}") if kinds[0] != kinds[1] else (got, want)
                    raise DataError(f"{where}: got {what} of {got}, want {want}, the first {what}' shape")


def read_columns(folder: Path) -> Dataset:
    """A data set in columns: images and labels are memory-mapped, and nothing of the images is read here.

    Args:
      folder: one that `write_columns` wrote, or another program in the same form.

    Raises:
      DataError: one line that names the folder or file, what was got and what was wanted: a folder or file that is
        missing, of another schema, damaged or truncated, or files that do not agree.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, want one with columns")
    about = read_about(folder / "columns.json")
    kind, labelled = np.dtype(about.dtype), tuple(about.label_shape)
    inputs = "images" if about.schema == SCHEMA else "inputs"

    def split(prefix: str, number: int) -> Examples:
        return Examples(
            _mapped(folder / f"{prefix}{inputs}.npy", kind, (number, *about.shape)),
            _mapped(folder / f"{prefix}labels.npy", np.dtype(np.int32), (number, *labelled)),
        )

    train, test = split("", about.examples), split("test_", about.test_examples)
    clients = (about.clients + 1,)
    offsets = folder / "offsets.npy"
    natural = np.asarray(_mapped(offsets, np.dtype(np.int64), clients)) if about.clients else None
    try:
        return dataset(
            about.name,
            train,
            test,
            about.classes,
            (tuple(about.mean), tuple(about.std)),
            natural,
            tuple(about.class_names),
            about.tokens,
            tuple(about.vocabulary),
        )
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


class Column:
    """An .npy file that grows row by row; how many rows there are stands in its header once it is finished."""

    def __init__(self, path: Path, dtype: np.dtype[Any] | type[np.generic], shape: tuple[int, ...] = ()):
        self.rows = 0
        self.path, self.dtype, self.shape = path, np.dtype(dtype), shape
        self._file = path.open("wb+")
        self._begin = self._header()

    def __enter__(self) -> Column:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # After a failure the file goes anyway, and what is still to be written out may fail as the rest did.
        with contextlib.suppress(OSError):
            self._file.close()

    def append(self, rows: np.ndarray) -> None:
        """Adds rows [n, ...] of the column's type."""
        self._file.write(np.ascontiguousarray(rows, self.dtype).data)
        self.rows += len(rows)

    def change(self, by: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replaces rows by others of the same shape, some thousands at a time."""
        self._file.flush()
        step = _CHANGED * max(1, math.prod(self.shape))
        for start in range(0, self.rows * math.prod(self.shape), step):
            self._file.seek(self._begin + start * self.dtype.itemsize)
            rows = np.frombuffer(self._file.read(step * self.dtype.itemsize), self.dtype).reshape(-1, *self.shape)
            self._file.seek(self._begin + start * self.dtype.itemsize)
            self._file.write(np.ascontiguousarray(by(rows), self.dtype).data)
        self._file.seek(0, os.SEEK_END)

    def finish(self) -> None:
        """Writes the final header, and all that is not written yet."""
        self._file.seek(0)
        assert self._header() == self._begin, "numpy leaves room in a header for the number of rows to grow"
        self._file.close()

    def _header(self) -> int:
        """Writes the header and returns where it ends."""
        about = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.rows, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self._file, about)
        return self._file.tell()


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What keeps a folder from being written, a full disk say, becomes one line."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _check_sizes(where: str, sizes: np.ndarray, examples: int) -> None:
    if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (len(sizes) and sizes.min() < 0):
        raise DataError(f"{where} sizes: got {list(sizes.shape)} {sizes.dtype}, want [clients] whole numbers from 0")
    if sizes.sum() != examples:
        raise DataError(f"{where} sizes: got {sizes.sum()} in all, want {examples}, the number of examples")


def _mapped(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    want = f"{list(shape)} {dtype}"
    try:
        column = np.lib.format.open_memmap(path, mode="r")
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, want {want}") from None
    except Exception as error:
        # numpy parses the header as Python: a damaged one raises ValueError, SyntaxError, tokenize's error and more.
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: got a damaged or truncated file ({reason}), want {want}") from error
    if column.shape != shape or column.dtype != dtype:
        raise DataError(f"{path}: got {list(column.shape)} {column.dtype}, want {want}, as columns.json says")
    if size != column.offset + column.nbytes:
        raise DataError(f"{path}: got {size} bytes, want {column.offset + column.nbytes} for {want}")
    return column
