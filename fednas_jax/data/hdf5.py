"""HDF5 files as TensorFlow Federated writes its sets: a group examples/CLIENT for each client.

It holds pixels and label, or (Stack Overflow) tokens: sentences whose words blanks divide, to predict each next word.
Read client by client; where words are counted, twice. Needs h5py (the extra `hdf5`).
Source: https://www.tensorflow.org/federated/api_docs/python/tff/simulation/datasets, emnist and stackoverflow.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.data.arrays import as_images
from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.damage import reading
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import resized
from fednas_jax.data.labels import whole_numbers
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, refuse, unheard
from fednas_jax.data.split import by_split, no_split, stratified_split
from fednas_jax.data.vocabulary import BOUNDARY, FIRST, LONGEST, Vocabulary, WordCounts, sentences
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

_WANT = "a whole HDF5 file"
_EXAMPLES = "examples"
_IMAGES, _LABELS, _TOKENS = ("pixels", "image"), ("label",), ("tokens",)
_SENTENCE_LENGTH = 20  # words, as TensorFlow Federated's tasks take them
_LINES = 1024  # sentences read at once


class _Client(NamedTuple):
    """A client's group in a file, and which of its n examples are for what."""

    path: Path
    name: str
    group: Any
    train: np.ndarray | None
    """Numbers of those for training; None in files for testing."""
    test: np.ndarray
    """Numbers of those for testing."""

    @property
    def where(self) -> str:
        """It stands, for messages."""
        return f"{self.path} {_EXAMPLES}/{self.name[:80]}"


def import_hdf5(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes TensorFlow Federated's HDF5 files as columns whose clients are the files' groups.

    Args:
      source: a file, or a folder of such whose names say train and test. Without one for testing, a share of every
        client's examples makes the test split.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file and the client; or h5py is missing.
    """
    files = [source] if source.is_file() else sorted([*source.rglob("*.h5"), *source.rglob("*.hdf5")])
    if not files:
        raise DataError(f"{source}: got no .h5 or .hdf5 files, want TensorFlow Federated's")
    splits = by_split(source, files)
    if "val" in splits:
        check_validation(source, options, "test" in splits)
        # Clients who stand in two files for training are refused below; TFF's held-out clients are others.
        to = "test" if options.validation == "test" else "train"
        splits[to] = [*splits.get(to, []), *splits.pop("val")]
    read, vocabulary = _reader(splits, options)
    classes = len(vocabulary) - FIRST if vocabulary else options.classes
    sizes: dict[str, int] = {}
    writing = ColumnsWriter(folder, source.stem, classes, remap=options.remap, vocabulary=vocabulary)
    with writing as writer:
        for client in _clients(splits, options):
            examples = read(client)
            seen(len(examples.labels))
            writer.add_test(Examples(*(column[client.test] for column in examples)))
            if client.train is None:
                continue
            if client.name in sizes:
                raise DataError(f"{client.where}: got a client who came before, want every client once")
            sizes[client.name] = len(examples.labels)
            writer.add(Examples(*(column[client.train] for column in examples)), np.array([len(client.train)]))
        if sizes and not writer.test_examples and "test" not in splits:
            raise no_split(options.test_share, np.array(list(sizes.values())), writer.examples, 0)
        writer.finish()
    return Skipped()


def _reader(
    splits: dict[str, list[Path]], options: ImportOptions
) -> tuple[Callable[[_Client], Examples], tuple[str, ...]]:
    """How a client's group is read, by what the first one holds, and the vocabulary where it holds tokens."""
    clients = _clients(splits, options)  # its file is open as long as it is there
    first = next(clients).group
    if _TOKENS[0] not in first or any(name in first for name in _IMAGES):
        refuse(options, ("length", "vocabulary"), "the files hold images")
        return lambda client: _pictures(client, options), ()
    refuse(options, ("image_size", "classes", "labels", "label_column"), "the files hold sentences")
    counts = WordCounts()
    for client in itertools.takewhile(lambda client: client.train is not None, _clients(splits, options)):
        words = _words(client, options)
        for row in client.train if client.train is not None else ():
            counts.add(words[row])
    vocabulary = Vocabulary([BOUNDARY, *counts.most_frequent(options.vocabulary)])
    length = options.length or _SENTENCE_LENGTH
    return lambda client: Examples(*sentences(vocabulary, _words(client, options), length)), vocabulary.tokens


def _clients(splits: dict[str, list[Path]], options: ImportOptions) -> Iterator[_Client]:
    """Every client's group, those for training first, and always the same examples for testing."""
    try:
        import h5py
    except ImportError:
        raise DataError("data import hdf5: got no package h5py, want pip install 'fednas_jax[hdf5]'") from None

    rng = generator(0, Purpose.TEST_SPLIT)
    for split, path in ((name, file) for name in ("train", "test") for file in splits.get(name, [])):
        with reading(path, _WANT), h5py.File(path, "r") as file:
            groups = _inside(file, _EXAMPLES, h5py.Group)
            if groups is None or not len(groups):
                raise DataError(
                    f"{path}: got no group {_EXAMPLES} of clients, want it as TensorFlow Federated writes it"
                )
            for name in groups:
                where = f"{path} {_EXAMPLES}/{name[:80]}"
                group = _inside(groups, name, h5py.Group)
                if group is None:
                    raise DataError(f"{where}: got no group of its own, want one")
                number = _length(where, group, options)
                train, test = np.arange(number), np.arange(0)
                if split == "test":
                    yield _Client(path, name, group, None, train)
                    continue
                if "test" not in splits:
                    train, test = stratified_split(np.zeros(number), options.test_share, rng)
                yield _Client(path, name, group, train, test)


def _pictures(client: _Client, options: ImportOptions) -> Examples:
    """A client's images and labels."""
    where, group = client.where, client.group
    with reading(client.path, _WANT):
        images = as_images(f"{where} pixels", _numbers(where, group, _IMAGES, options))
        labels = whole_numbers(f"{where} label", _numbers(where, group, _labels(options), options), options.remap)
    if len(images) != len(labels):
        raise DataError(f"{where}: got {len(images)} images and {len(labels)} labels, want as many of each")
    side = options.image_size
    if side and images.shape[1:3] != (side, side):
        images = np.stack([resized(image, side, side) for image in images])
    return Examples(images, labels)


def _words(client: _Client, options: ImportOptions) -> list[list[str]]:
    """A client's sentences, each as its words."""
    where = client.where
    found: list[list[str]] = []
    size = 0
    with reading(client.path, _WANT):
        held = _array(where, client.group, _TOKENS)
        if not (_is_text(held) and (held.ndim == 1 or held.shape[1:] == (1,))):
            raise DataError(f"{where} {_TOKENS[0]}: got {list(held.shape)} {held.dtype}, want [N] texts")
        for start in range(0, len(held), _LINES):
            lines = [line.decode("utf-8", "replace") for line in held[start : start + _LINES].reshape(-1)]
            size += sum(map(len, lines))
            check_expansion(where, size, options.most_gigabytes)
            found += [[word[:LONGEST] for word in line.split()] for line in lines]
    return found


def _length(where: str, group: Any, options: ImportOptions) -> int:
    """How many examples a group says that it holds."""
    shape = _array(where, group, _TOKENS if _TOKENS[0] in group else _labels(options)).shape
    return int(shape[0]) if shape else 0


def _labels(options: ImportOptions) -> tuple[str, ...]:
    """Names that the array of labels may have."""
    return (options.label_column,) if options.label_column else _LABELS


def _numbers(where: str, group: Any, names: tuple[str, ...], options: ImportOptions) -> np.ndarray:
    """The first of a group's arrays that has one of these names, read into memory."""
    held = _array(where, group, names)
    if held.dtype.kind not in "iufb":
        raise DataError(f"{where} {names[0]}: got {held.dtype}, want numbers")
    check_expansion(where, math.prod(held.shape) * held.dtype.itemsize, options.most_gigabytes)
    return np.asarray(held[()])


def _array(where: str, group: Any, names: tuple[str, ...]) -> Any:
    """The first of a group's arrays that has one of these names, nothing of it read."""
    import h5py

    for name in names:
        held = _inside(group, name, h5py.Dataset)
        if held is not None:
            break
    else:
        near = difflib.get_close_matches(names[0], list(group), 1)
        has = f"want {near[0]!r} by --label-column" if near and names[0] not in _IMAGES else f"has {', '.join(group)}"
        raise DataError(f"{where} {names[0]}: got none, {has[:200]}")
    if held.external or held.is_virtual:
        raise DataError(f"{where} {names[0]}: got values of another file, want them in this one")
    if held.shape is None:
        raise DataError(f"{where} {names[0]}: got nothing, want an array")
    return held


def _is_text(held: Any) -> bool:
    import h5py

    return h5py.check_string_dtype(held.dtype) is not None


def _inside(group: Any, name: str, kind: Any) -> Any:
    """What a group holds itself under a name, not by a link that may lead to another file; None if it holds nothing."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    held = group[name]
    return held if isinstance(held, kind) else None
