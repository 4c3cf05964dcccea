"""HDF5 files as TensorFlow Federated writes its sets: a group examples/CLIENT for each client, with pixels and label.

Read client by client. Needs h5py (the extra `hdf5`).
Source: https://www.tensorflow.org/federated/api_docs/python/tff/simulation/datasets/emnist/load_data.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fednas_jax.data.arrays import as_images
from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.damage import reading
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import resized
from fednas_jax.data.labels import whole_numbers
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, unheard
from fednas_jax.data.split import by_split, no_split, stratified_split
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

_WANT = "a whole HDF5 file"
_EXAMPLES = "examples"
_IMAGES, _LABELS = ("pixels", "image"), ("label",)


def import_hdf5(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes TensorFlow Federated's HDF5 files as columns whose clients are the files' groups.

    Args:
      source: a file, or a folder of such whose names say train and test. Without one for testing, a share of every
        client's examples makes the test split.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many images were read.

    Raises:
      DataError: one line that names the file and the client; or h5py is missing.
    """
    files = [source] if source.is_file() else sorted([*source.rglob("*.h5"), *source.rglob("*.hdf5")])
    if not files:
        raise DataError(f"{source}: got no .h5 or .hdf5 files, want TensorFlow Federated's")
    splits = by_split(source, files)
    if "val" in splits:
        check_validation(source, options, "test" in splits)
        if options.validation == "train":
            raise DataError(f"{source}: got --validation train, want --validation test: clients would come twice")
        splits["test"] = splits.pop("val")
    rng = generator(0, Purpose.TEST_SPLIT)
    sizes: dict[str, int] = {}
    with ColumnsWriter(folder, source.stem, options.classes, remap=options.remap) as writer:
        for where, client, examples in _clients(splits["train"], options):
            if client in sizes:
                raise DataError(f"{where}: got a client who came before, want every client once")
            sizes[client] = len(examples.labels)
            if "test" not in splits:
                train, test = stratified_split(np.zeros(len(examples.labels)), options.test_share, rng)
                writer.add_test(Examples(*(column[test] for column in examples)))
                examples = Examples(*(column[train] for column in examples))
            writer.add(examples, np.array([len(examples.labels)]))
            seen(sizes[client])
        for _, _, examples in _clients(splits.get("test", []), options):
            writer.add_test(examples)
            seen(len(examples.labels))
        if sizes and not writer.test_examples and "test" not in splits:
            raise no_split(options.test_share, np.array(list(sizes.values())), writer.examples, 0)
        writer.finish()
    return Skipped()


def _clients(files: list[Path], options: ImportOptions) -> Iterator[tuple[str, str, Examples]]:
    """Every client who has examples."""
    try:
        import h5py
    except ImportError:
        raise DataError("data import hdf5: got no package h5py, want pip install 'fednas_jax[hdf5]'") from None

    for path in files:
        with reading(path, _WANT), h5py.File(path, "r") as file:
            groups = _inside(file, _EXAMPLES, h5py.Group, h5py)
            if groups is None or not len(groups):
                raise DataError(
                    f"{path}: got no group {_EXAMPLES} of clients, want it as TensorFlow Federated writes it"
                )
            for client in groups:
                where = f"{path} {_EXAMPLES}/{client[:80]}"
                group = _inside(groups, client, h5py.Group, h5py)
                if group is None:
                    raise DataError(f"{where}: got no group of its own, want one")
                images = as_images(f"{where} pixels", _array(where, group, _IMAGES, options, h5py))
                wanted = (options.label_column,) if options.label_column else _LABELS
                labels = whole_numbers(f"{where} label", _array(where, group, wanted, options, h5py), options.remap)
                if len(images) != len(labels):
                    raise DataError(f"{where}: got {len(images)} images and {len(labels)} labels, want as many of each")
                side = options.image_size
                if side and images.shape[1:3] != (side, side):
                    images = np.stack([resized(image, side, side) for image in images])
                yield where, client, Examples(images, labels)


def _array(where: str, group: Any, names: tuple[str, ...], options: ImportOptions, h5py: Any) -> np.ndarray:
    """The first of a group's arrays that has one of these names, read into memory."""
    for name in names:
        held = _inside(group, name, h5py.Dataset, h5py)
        if held is not None:
            break
    else:
        near = difflib.get_close_matches(names[0], list(group), 1)
        has = f"want {near[0]!r} by --label-column" if near and names[0] not in _IMAGES else f"has {', '.join(group)}"
        raise DataError(f"{where} {names[0]}: got none, {has[:200]}")
    if held.external or held.is_virtual:
        raise DataError(f"{where} {names[0]}: got values of another file, want them in this one")
    if held.dtype.kind not in "iufb" or held.shape is None:
        raise DataError(f"{where} {names[0]}: got {held.dtype}, want numbers")
    check_expansion(where, math.prod(held.shape) * held.dtype.itemsize, options.most_gigabytes)
    return np.asarray(held[()])


def _inside(group: Any, name: str, kind: Any, h5py: Any) -> Any:
    """What a group holds itself under a name, not by a link that may lead to another file; None if it holds nothing."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    held = group[name]
    return held if isinstance(held, kind) else None
