"""LEAF's JSON files, imported into columns user by user: no more than one user's examples are held in memory.

A file is an object of `users`, `num_samples` and `user_data`, which maps a user to its `x` and `y`. An element of x is
an image's pixels from 0 to 1, row after row (femnist), or the name of an image file (celeba).
Source: Caldas et al. 2018, arXiv 1812.01097, and https://github.com/TalwalkarLab/leaf (data/utils/split_data.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ijson
import numpy as np

from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import Form, form_of, inside, read_images, resized
from fednas_jax.data.labels import HALF_LEVEL, check_range, short
from fednas_jax.data.options import ImportOptions, Seen, Skipped, unheard
from fednas_jax.data.split import check_share, no_split, stratified_split
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator


def import_leaf(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes LEAF's files as columns whose clients are LEAF's users, in the files' order.

    Args:
      source: a folder with LEAF's folders train and test, a folder of .json files, or one such file. Without a folder
        test, a share of every user's examples makes the test split.
      folder: of the columns; must not exist yet.
      options: how; `images` is where the image files are, if x has names of files.
      seen: is told how many images were read.

    Raises:
      DataError: one line that names the file and the user: no JSON of this form, pixels outside 0 to 1, images of
        differing sizes, labels out of range, a user who comes twice.
    """
    check_share(options.test_share)
    train_files, test_files = _files(source)
    rng = generator(0, Purpose.TEST_SPLIT)
    sizes: dict[str, int] = {}  # of every user with examples for training
    writing = ColumnsWriter(folder, source.resolve().stem, options.classes, remap=options.remap)
    with writing as writer, ThreadPoolExecutor(os.cpu_count()) as threads:
        for file, user, examples in _examples(train_files + test_files, options, threads):
            seen(len(examples.labels))
            if file in test_files:
                writer.add_test(examples)
                continue
            if user in sizes:
                raise DataError(f"{file} user {user}: got a user who came before, want every user once")
            sizes[user] = len(examples.labels)
            if not test_files:
                train, test = stratified_split(np.zeros(len(examples.labels)), options.test_share, rng)
                writer.add_test(Examples(*(column[test] for column in examples)))
                examples = Examples(*(column[train] for column in examples))
            writer.add(examples, np.array([len(examples.labels)]))
        if sizes and not writer.test_examples:
            if test_files:
                where = test_files[0].parent
                raise DataError(f"{where}: got no examples of any user, want some, or no such folder and --test-share")
            raise no_split(options.test_share, np.array(list(sizes.values())), writer.examples, 0)
        writer.finish()
    return Skipped()


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    """LEAF's files with training examples and, where it has divided them, those with test examples."""
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder, want LEAF's .json files")
    apart = (source / "train").is_dir()
    found = [sorted((source / split).glob("*.json")) if apart else [] for split in ("train", "test")]
    if not apart:
        found[0] = sorted(source.glob("*.json"))
    if not found[0]:
        raise DataError(f"{source}: got no .json files, want LEAF's, or its folders train and test")
    return found[0], found[1]


def _examples(files: list[Path], options: ImportOptions, threads: Executor) -> Iterator[tuple[Path, str, Examples]]:
    """Every user who has examples, with the file that they stand in; all images in the form of the very first."""
    form: Form | None = None
    size, channels, images = options.image_size, options.channels, options.images
    for file, user, x, y in ((path, *user) for path in files for user in _users(path)):
        where = f"{file} user {user}"
        labels = _labels(where, y, options.remap)
        if len(x) != len(labels):
            raise DataError(f"{where}: got {len(x)} x and {len(labels)} y, want as many of each")
        if not x:
            continue
        if isinstance(x[0], str):
            paths = _paths(where, x, images)
            form = form or form_of(paths[0], str(paths[0]), size, channels)
            pixels = read_images(paths, [str(path) for path in paths], form, threads)
        else:
            pixels = _pixels(where, x, channels)
            height, width, depth = pixels.shape[1:]
            form = form or Form((size or height, size or width, depth), size > 0)
            if form.resize and pixels.shape[1:3] != form.shape[:2]:
                pixels = np.stack([resized(image, form.shape[0], form.shape[1]) for image in pixels])
        if pixels.shape[1:] != form.shape:
            raise DataError(f"{where} x: got images of {list(pixels.shape[1:])}, want {list(form.shape)} as the first")
        yield file, user, Examples(pixels, labels)


def _users(file: Path) -> Iterator[tuple[str, list[Any], Any]]:
    """Every user of a file with its x and y."""
    form = "LEAF's object of users, num_samples and user_data"
    try:
        with file.open("rb") as read:
            counts = _counts(read)
        found = False
        with file.open("rb") as read:
            for user, held in ijson.kvitems(read, "user_data", use_float=True):
                found = True
                if not isinstance(held, dict) or not all(isinstance(held.get(part), list) for part in ("x", "y")):
                    raise DataError(f"{file} user {user}: got no lists x and y, want both")
                if counts.get(user, len(held["y"])) != len(held["y"]):
                    got = f"got {len(held['y'])} y"
                    raise DataError(f"{file} user {user}: {got}, want {counts[user]}, as num_samples says")
                yield user, held["x"], held["y"]
        if not found:
            raise DataError(f"{file} user_data: got none, want {form}")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}), want {form}") from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{file}: got damaged or truncated JSON ({reason}), want {form}") from error


def _counts(read: Any) -> dict[str, int]:
    """What the file says of how many examples each user has; nothing where it doesn't say so before its data.

    Only what stands before the data is read: the data itself may be gigabytes.
    """
    said: dict[str, list[Any]] = {"users": [], "num_samples": []}
    for prefix, event, value in ijson.parse(read):
        if (prefix, event) == ("", "map_key") and value == "user_data":
            break
        part = prefix.removesuffix(".item")
        if part in said and prefix.endswith(".item"):
            said[part].append(value)
    if len(said["users"]) != len(said["num_samples"]):
        return {}
    return dict(zip(said["users"], said["num_samples"], strict=True))


def _labels(where: str, y: Any, remap: bool) -> np.ndarray:
    """[n] int32. LEAF's celeba has its labels as floats, 0.0 and 1.0."""
    if not all(_whole(value) for value in y):
        raise DataError(f"{where} y: got {_some(y)}, want whole numbers, class numbers from 0")
    labels = [int(value) for value in y]
    if labels:
        check_range(f"{where} y", min(labels), max(labels), remap)
    return np.array(labels, np.int32)


def _whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value) and value == int(value))


def _paths(where: str, x: list[Any], images: Path | None) -> list[Path]:
    if images is None:
        raise DataError(f"{where} x: got names of images ({x[0]!r}), want the folder they are in as well")
    return [inside(f"{where} x", name, images) for name in x]


def _pixels(where: str, x: list[Any], channels: int) -> np.ndarray:
    """[n, H, W, C] uint8 from n flat lists of values from 0 to 1."""
    try:
        flat = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        flat = np.zeros(0)
    if flat.ndim != 2 or not flat.shape[1]:
        raise DataError(f"{where} x: got {_some(x)}, want one list of pixels for each image, all as long")
    if not (flat.min() >= -HALF_LEVEL and flat.max() <= 1 + HALF_LEVEL):
        got = f"values from {short(flat.min())} to {short(flat.max())}"
        raise DataError(f"{where} x: got {got}, want pixels from 0 to 1")
    for depth in (channels,) if channels else (1, 3):
        side = math.isqrt(flat.shape[1] // depth)
        if side * side * depth == flat.shape[1]:
            # 1 is 255: LEAF divided by 255 what was read from a file, so this gives back that very number.
            return np.clip(np.rint(flat * 255), 0, 255).astype(np.uint8).reshape(len(flat), side, side, depth)
    kinds = f"{channels} channels" if channels else "1 or 3 channels"
    raise DataError(f"{where} x: got {flat.shape[1]} values for an image, want a square image of {kinds}")


def _some(values: Any) -> str:
    """The beginning of a value, for a message."""
    numbers = [short(value) if type(value) in (int, float) else repr(value)[:60] for value in values[:2]]
    text = " ".join(f"[{', '.join(numbers)}]".split())
    return text if len(text) <= 60 else f"{text[:57]}..."
