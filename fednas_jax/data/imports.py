"""One command imports your own files into columns: the registry of their kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.columns import read_columns
from fednas_jax.data.split import TEST_SHARE, check_share
from fednas_jax.errors import DataError


@dataclass(frozen=True)
class ImportOptions:
    """What an import may be told."""

    image_size: int = 0
    """Side in pixels that all images are resized to; 0 keeps their size, which must then be one."""
    channels: int = 0
    """Channels of the images: 1 (grey), 3 (colour) or 4; 0 takes the first image's. Not for npz."""
    classes: int | None = None
    """Number of classes, to refuse labels beyond them (default: the largest label + 1). Not for folder."""
    images: Path | None = None
    """Folder of the image files that LEAF's celeba names. Only for leaf."""
    test_share: float = TEST_SHARE
    """Share of each client's (else each class's) examples that is for testing, where the files have no test split."""


@dataclass(frozen=True)
class Kind:
    """How files of one kind are imported."""

    description: str
    """One line."""
    run: Callable[[Path, Path, ImportOptions], None]
    """(files, folder of the columns, options)."""
    takes: tuple[str, ...]
    """Options that it takes, beside image_size and test_share."""


def import_data(kind: str, source: Path, folder: Path, options: ImportOptions) -> str:
    """Imports files into a folder of columns, whole or not at all.

    Args:
      kind: a name in `KINDS`.
      source: the files.
      folder: of the columns; must not exist yet. It is then read with `data.source=columns`, `data.folder`.
      options: how.

    Returns:
      One line that says what was imported, and how many clients hold too few examples for a run.

    Raises:
      DataError: one line; no folder is left.
    """
    if kind not in KINDS:
        raise DataError(f"data import: got {kind!r}, want one of {', '.join(KINDS)}")
    default = ImportOptions()
    for option in ("channels", "classes", "images"):
        value = getattr(options, option)
        if value != getattr(default, option) and option not in KINDS[kind].takes:
            raise DataError(f"data import {option}: got {value}, want none: {kind} does not take it")
    if options.image_size < 0:
        raise DataError(f"data import image_size: got {options.image_size}, want at least 0")
    if options.channels not in (0, 1, 3, 4):
        raise DataError(f"data import channels: got {options.channels}, want 0 (the first image's), 1, 3 or 4")
    if options.classes is not None and options.classes < 1:
        raise DataError(f"data import classes: got {options.classes}, want at least 1")
    check_share(options.test_share)
    if folder.exists():
        raise DataError(f"{folder}: is there already, want a new folder for columns")
    KINDS[kind].run(source, folder, options)
    return _said(folder)


def _said(folder: Path) -> str:
    data = read_columns(folder)
    shape = "x".join(map(str, data.train.images.shape[1:]))
    numbers = f"{len(data.train.labels)} training and {len(data.test.labels)} test images of {shape}"
    clients = "which name no clients"
    if data.natural is not None:
        sizes, least = np.diff(data.natural), DataConfig.min_examples
        clients = f"{len(sizes)} clients of {sizes.min()} to {sizes.max()}"
        if few := np.count_nonzero(sizes < least):
            clients += f" (runs leave out those below data.min_examples: {few} by its default, {least})"
    return f"{folder}: {numbers}, {data.classes} classes, {clients}"


def _leaf(source: Path, folder: Path, options: ImportOptions) -> None:
    # Imported here, as the others: other commands need no JSON parser.
    from fednas_jax.data.leaf import import_leaf

    import_leaf(
        source,
        folder,
        options.images,
        options.image_size,
        options.channels,
        options.classes,
        options.test_share,
    )


def _folder(source: Path, folder: Path, options: ImportOptions) -> None:
    from fednas_jax.data.folders import import_folder

    import_folder(source, folder, options.image_size, options.channels, options.test_share)


def _npz(source: Path, folder: Path, options: ImportOptions) -> None:
    from fednas_jax.data.arrays import import_npz

    import_npz(source, folder, options.image_size, options.classes, options.test_share)


KINDS: dict[str, Kind] = {
    "leaf": Kind(
        "LEAF's JSON files (femnist, celeba), whose users become clients", _leaf, ("channels", "classes", "images")
    ),
    "folder": Kind("images as CLASS/IMAGE or CLIENT/CLASS/IMAGE, perhaps below train and test", _folder, ("channels",)),
    "npz": Kind("a numpy file with x, y and perhaps client_ids, x_test, y_test", _npz, ("classes",)),
}
"""Name -> how it is imported. A package of yours may add its own."""
