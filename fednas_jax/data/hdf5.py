"""HDF5 files as TensorFlow Federated writes its sets: a group examples/CLIENT for each client.

It holds pixels and label, or (Stack Overflow) tokens. Read client by client. Needs h5py (the extra `hdf5`).
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from fednas_jax.data.arrays import as_images
from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.damage import reading
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import resized
from fednas_jax.data.labels import whole_numbers
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, unheard
from fednas_jax.data.source_files import files_of
from fednas_jax.data.split import by_split, stratified_split
from fednas_jax.data.tff import IMAGES, LABELS, TOKENS, Client, Form, split_words, write_clients
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

_WANT = "a whole HDF5 file"
_EXAMPLES = "examples"
_LINES = 1024  # sentences read at once


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
    files = files_of(source, ".h5", ".hdf5")
    if not files:
        raise DataError(f"{source}: got no .h5 or .hdf5 files, want TensorFlow Federated's")
    splits = by_split(source, files)
    if "val" in splits:
        check_validation(source, options, "test" in splits)
        # Clients who stand in two files for training are refused below; TFF's held-out clients are others.
        to = "test" if options.validation == "test" else "train"
        splits[to] = [*splits.get(to, []), *splits.pop("val")]

    def clients() -> Generator[Client, None, None]:
        return _clients(splits, options)

    with contextlib.closing(clients()) as walked:  # which closes the file
        one = next(walked, None)
        if one is None:
            raise DataError(f"{source}: got no examples of any client, want some")
        first = one.held
        texts = TOKENS in first and not any(name in first for name in IMAGES)
    form = (
        Form(words=lambda client: _words(client, options))
        if texts
        else Form(images=lambda client: _pictures(client, options))
    )
    return write_clients(folder, source.stem, clients, form, options, seen)


def _clients(splits: dict[str, list[Path]], options: ImportOptions) -> Generator[Client, None, None]:
    """Every client's group who has examples, those for training first, and always the same for testing."""
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
                if not number and _is_empty(group, options):
                    continue
                train, test = np.arange(number), np.arange(0)
                if split == "test":
                    yield Client(path, where, name, group, None, train)
                    continue
                if "test" not in splits:
                    train, test = stratified_split(np.zeros(number), options.test_share, rng)
                yield Client(path, where, name, group, train, test)


def _pictures(client: Client, options: ImportOptions) -> Examples:
    """A client's images and labels."""
    where, group = client.where, client.held
    with reading(client.path, _WANT):
        images = as_images(f"{where} pixels", _numbers(where, group, IMAGES, options))
        labels = whole_numbers(f"{where} label", _numbers(where, group, _labels(options), options), options.remap)
    if len(images) != len(labels):
        raise DataError(f"{where}: got {len(images)} images and {len(labels)} labels, want as many of each")
    side = options.image_size
    if side and images.shape[1:3] != (side, side):
        images = np.stack([resized(image, side, side) for image in images])
    return Examples(images, labels)


def _words(client: Client, options: ImportOptions) -> list[list[str]]:
    """A client's sentences, each as its words."""
    where = client.where
    found: list[list[str]] = []
    size = 0
    with reading(client.path, _WANT):
        held = _array(where, client.held, (TOKENS,))
        if not (_is_text(held) and (held.ndim == 1 or held.shape[1:] == (1,))):
            raise DataError(f"{where} {TOKENS}: got {list(held.shape)} {held.dtype}, want [N] texts")
        for start in range(0, len(held), _LINES):
            lines = held[start : start + _LINES].reshape(-1)
            size += sum(map(len, lines))
            check_expansion(where, size, options.most_gigabytes)
            found += map(split_words, lines)
    return found


def _length(where: str, group: Any, options: ImportOptions) -> int:
    """How many examples a group says that it holds."""
    shape = _array(where, group, (TOKENS,) if TOKENS in group else _labels(options)).shape
    number = int(shape[0]) if shape else 0
    check_expansion(where, 8 * number, options.most_gigabytes)
    return number


def _is_empty(group: Any, options: ImportOptions) -> bool:
    """Whether all arrays of a group are of no examples."""
    import h5py

    held = [_inside(group, name, h5py.Dataset) for name in (TOKENS, *IMAGES, *_labels(options))]
    return all(array.shape and not array.shape[0] for array in held if array is not None)


def _labels(options: ImportOptions) -> tuple[str, ...]:
    """Names that the array of labels may have."""
    return (options.label_column,) if options.label_column else LABELS


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
        has = f"want {near[0]!r} by --label-column" if near and names[0] not in IMAGES else f"has {', '.join(group)}"
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
