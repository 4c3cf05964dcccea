"""Folders of images, imported into columns: CLASS/IMAGE, or CLIENT/CLASS/IMAGE, perhaps below train and test."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fednas_jax.data.examples import Examples
from fednas_jax.data.images import form_of, read_images
from fednas_jax.data.listing import Listing, write_listing
from fednas_jax.data.split import TEST_SHARE
from fednas_jax.errors import DataError

# Names of folders that hold the splits, where there are such.
_TRAIN, _TEST = "train", "test"


def import_folder(
    source: Path, folder: Path, image_size: int = 0, channels: int = 0, test_share: float = TEST_SHARE
) -> None:
    """Writes a folder of images as columns.

    Images lie two folders deep, CLASS/IMAGE, or three, CLIENT/CLASS/IMAGE; below train and test, if there is a folder
    train. Names that begin with a dot are passed over. Classes and clients are numbered in the order of their names.

    Args:
      source: the folder of images.
      folder: of the columns; must not exist yet.
      image_size: side in pixels that images are resized to; 0 keeps their size, which must be one.
      channels: 1, 3 or 4; 0 takes the first image's, grey or colour.
      test_share: share of every client's (else every class's) images that is for testing, without a folder test.

    Raises:
      DataError: one line that names the folder or file: none there, of other depths, or an image that cannot be read.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder, want one with images")
    apart = (source / _TRAIN).is_dir()
    train_folder, test_folder = (source / _TRAIN, source / _TEST) if apart else (source, None)
    train_files = _images(train_folder)
    test_files = _images(test_folder) if test_folder and test_folder.is_dir() else []
    depths = _depth(train_folder, train_files), _depth(source / _TEST, test_files)
    classes = sorted({path.parent.name for path in [*train_files, *test_files]})
    numbers = {name: number for number, name in enumerate(classes)}
    form = form_of(train_files[0], str(train_files[0]), image_size, channels)
    with ThreadPoolExecutor(os.cpu_count()) as threads:

        def listed(files: list[Path], depth: int) -> Listing:
            labels = np.array([numbers[path.parent.name] for path in files], np.int32)

            def read(rows: np.ndarray) -> Examples:
                some = [files[row] for row in rows]
                return Examples(read_images(some, [str(path) for path in some], form, threads), labels[rows])

            clients = (lambda: np.array([path.parents[1].name for path in files])) if depth == 3 else None
            return Listing(len(files), form.shape, read, lambda: labels, clients)

        train = listed(train_files, depths[0])
        test = listed(test_files, depths[1]) if test_files else None
        write_listing(folder, source.resolve().name, train, test, len(numbers), test_share)


def _images(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their paths."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(where, name) for name in sorted(files) if not name.startswith(".")]
    if not found:
        raise DataError(f"{folder}: got no files, want images as CLASS/IMAGE or CLIENT/CLASS/IMAGE")
    return found


def _depth(folder: Path, files: list[Path]) -> int:
    """How deep all files lie in a folder, 2 or 3; 0 where there are none."""
    depths = [len(path.relative_to(folder).parts) for path in files]
    for path, depth in zip(files, depths, strict=True):
        if depth not in (2, 3) or depth != depths[0]:
            raise DataError(
                f"{path}: got a file {depth} deep in {folder}, want all as CLASS/IMAGE or all as CLIENT/CLASS/IMAGE"
            )
    return depths[0] if depths else 0
