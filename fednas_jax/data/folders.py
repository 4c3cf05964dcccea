"""Folders of images, imported into columns: CLASS/IMAGE, or CLIENT/CLASS/IMAGE, perhaps below train, val and test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fednas_jax.data.examples import Examples
from fednas_jax.data.images import form_of, is_image, opens, read_images
from fednas_jax.data.listing import Listing, write_listing
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, unheard
from fednas_jax.data.split import SPLITS
from fednas_jax.errors import DataError

_DEEPEST = 3  # CLIENT/CLASS/IMAGE


class _Found(NamedTuple):
    """What lies in a folder."""

    images: list[Path]
    others: int  # files that are no images
    depth: int  # of the first image: 2 as CLASS/IMAGE, 3 as CLIENT/CLASS/IMAGE


def import_folder(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes a folder of images as columns.

    Images lie two folders deep, CLASS/IMAGE, or three, CLIENT/CLASS/IMAGE; below train, test and val (or training,
    testing, validation, in any case), if there is a folder train. Links to folders are followed. Names that begin with
    a dot are passed over, and so are files that are no images, which are counted. Classes and clients are numbered in
    the order of their names.

    Args:
      source: the folder of images.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the folder or file: none there, of other depths, a split that cannot be
        understood, or an image that cannot be read.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder, want one with images")
    splits, damaged = _splits(source, options), 0
    if options.skip_damaged:
        for split, found in splits.items():
            splits[split] = _whole(found)
            damaged += len(found.images) - len(splits[split].images)
    for split, found in splits.items():
        if not found.images:
            got = f"no images for {split}" if len(splits) > 1 else "no images"
            raise DataError(f"{source}: got {got}, want images as CLASS/IMAGE or CLIENT/CLASS/IMAGE")
    files = {split: found.images for split, found in splits.items()}
    names = sorted({path.parent.name for some in files.values() for path in some})
    numbers = {name: number for number, name in enumerate(names)}
    first = files["train"][0]
    form = form_of(first, str(first), options.image_size, options.channels)
    with ThreadPoolExecutor(os.cpu_count()) as threads:

        def listed(files: list[Path], clients: bool) -> Listing:
            labels = np.array([numbers[path.parent.name] for path in files], np.int32)

            def read(rows: np.ndarray) -> Examples:
                some = [files[row] for row in rows]
                examples = Examples(read_images(some, [str(path) for path in some], form, threads), labels[rows])
                seen(len(rows))
                return examples

            owners = (lambda: np.array([path.parents[1].name for path in files])) if clients else None
            return Listing(len(files), form.shape, read, lambda: labels, owners)

        train = listed(files["train"], splits["train"].depth == _DEEPEST)
        test = listed(files["test"], False) if "test" in files else None
        write_listing(
            folder, source.resolve().name, train, test, len(numbers), options.test_share, class_names=tuple(names)
        )
    return Skipped(sum(found.others for found in splits.values()), damaged)


def _splits(source: Path, options: ImportOptions) -> dict[str, _Found]:
    """Split -> what lies in it; all is train where there are no folders of splits."""
    named: dict[str, Path] = {}
    others = []
    for path in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        split = SPLITS.get(path.name.lower())
        if split is None:
            others.append(path)
        elif split in named:
            raise DataError(f"{source}: got the folders {named[split].name} and {path.name}, want one of them")
        else:
            named[split] = path
    found = {split: _walked(path) for split, path in named.items()}
    # A folder of images is a class, whatever its name: photographs of trains, say.
    if all(held.depth < 2 for held in found.values()):
        return {"train": _checked(_walked(source), source)}
    if "train" not in named:
        got = " and ".join(path.name for path in named.values())
        raise DataError(f"{source}: got the folder{'s' * (len(named) > 1)} {got} and none called train, want one")
    for path in others:
        if _walked(path).images:
            got = f"the folders {named['train'].name} and {path.name}"
            raise DataError(f"{source}: got {got}, want train, val and test alone, or folders of classes")
    found = {split: _checked(held, named[split]) for split, held in found.items() if held.images or split == "train"}
    train, val = found["train"], found.pop("val", None)
    if val is not None:
        check_validation(named["val"], options, "test" in found)
        if options.validation == "test":
            found["test"] = val
        elif val.depth != train.depth:
            raise DataError(f"{named['val']}: got images {val.depth} deep, want {train.depth} as in {named['train']}")
        else:
            train = _Found(train.images + val.images, train.others + val.others, train.depth)
    beside = sum(path.is_file() and not path.name.startswith(".") for path in source.iterdir())
    return {**found, "train": train._replace(others=train.others + beside)}


def _whole(found: _Found) -> _Found:
    """Without the images that cannot be opened."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        good = list(threads.map(opens, found.images))
    return found._replace(images=[path for path, whole in zip(found.images, good, strict=True) if whole])


def _walked(folder: Path) -> _Found:
    """All images below a folder, in the order of their paths, and how many other files there are."""
    images, others = [], 0
    for path in _files(folder, ()):
        if is_image(path):
            images.append(path)
        else:
            others += 1
    return _Found(images, others, _depth(images[0], folder) if images else 0)


def _files(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Files below a folder, those of links to folders too; a link to a folder above is not followed."""
    try:
        found = folder.stat()
        with os.scandir(folder) as entries:
            inside = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}), want a folder of images") from error
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    if len(above) > _DEEPEST:
        raise DataError(f"{folder}: got a folder {len(above)} deep, want images as CLASS/IMAGE or CLIENT/CLASS/IMAGE")
    for name, is_folder in inside:
        if is_folder:
            yield from _files(folder / name, (*above, here))
        else:
            yield folder / name


def _checked(found: _Found, folder: Path) -> _Found:
    """Refuses images that lie neither all as CLASS/IMAGE nor all as CLIENT/CLASS/IMAGE."""
    for path in found.images:
        depth = _depth(path, folder)
        if depth not in (2, _DEEPEST) or depth != found.depth:
            want = "want all as CLASS/IMAGE or all as CLIENT/CLASS/IMAGE"
            raise DataError(f"{path}: got a file {depth} deep in {folder}, {want}")
    return found


def _depth(path: Path, folder: Path) -> int:
    return len(path.relative_to(folder).parts)
