"""LEAF's JSON files, imported into columns user by user: no more than one user's examples are held in memory.

A file is an object of `users`, `num_samples` and `user_data`, which maps a user to its `x` and `y`; `leaf_forms` says
what these may be. Where words are counted, the files are read twice.
Source: Caldas et al. 2018, arXiv 1812.01097, and https://github.com/TalwalkarLab/leaf (data/utils/split_data.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ijson
import numpy as np

from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.examples import Examples
from fednas_jax.data.leaf_forms import Characters, Held, reader_of
from fednas_jax.data.options import ImportOptions, Seen, Skipped, unheard
from fednas_jax.data.source_files import files_of
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
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file and the user: no JSON of this form, pixels outside 0 to 1, images of
        differing sizes, labels out of range, a user who comes twice.
    """
    check_share(options.test_share)
    train_files, test_files = _files(source)
    sizes: dict[str, int] = {}  # of every user with examples for training
    tested: set[str] = set()  # users of files for testing
    unlabelled = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        reader = reader_of(_held(train_files, test_files, options.test_share), options, threads)
        if reader is None:
            raise DataError(f"{source}: got no examples of any user, want some")
        classes = options.classes or (None if options.remap else reader.classes)
        writing = ColumnsWriter(
            folder, source.resolve().stem, classes, remap=options.remap, vocabulary=reader.vocabulary
        )
        with writing as writer:
            for held in _held(train_files, test_files, options.test_share):
                if held.user in (tested if held.file in test_files else sizes):
                    raise DataError(f"{held.where}: got a user who came before, want every user once")
                examples = reader(held.where, held.x, held.y)
                seen(len(held.x))
                known = np.ones(len(held.x), bool)
                if isinstance(reader, Characters) and examples.labels.ndim == 1:
                    known = examples.labels >= 0
                    unlabelled += int(np.count_nonzero(~known))
                train, test = (rows[known[rows]] for rows in (held.train, held.test))
                writer.add_test(Examples(*(column[test] for column in examples)))
                if held.file in test_files:
                    tested.add(held.user)
                    continue
                sizes[held.user] = len(train) + len(test)
                writer.add(Examples(*(column[train] for column in examples)), np.array([len(train)]))
            if not writer.test_examples:
                if test_files:
                    where = test_files[0].parent
                    raise DataError(
                        f"{where}: got no examples of any user, want some, or no such folder and --test-share"
                    )
                raise no_split(options.test_share, np.array(list(sizes.values())), writer.examples, 0)
            writer.finish()
    return Skipped(unlabelled=unlabelled)


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    """LEAF's files with training examples and, where it has divided them, those with test examples."""
    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder, want LEAF's .json files")
    apart = (source / "train").is_dir()
    train = files_of(source / "train" if apart else source, ".json", deep=False)
    if not train:
        raise DataError(f"{source}: got no .json files, want LEAF's, or its folders train and test")
    if not apart or not (source / "test").is_dir():
        return train, []
    test = files_of(source / "test", ".json", deep=False)
    if not test:
        raise DataError(f"{source / 'test'}: got no .json files, want LEAF's, or no such folder and --test-share")
    return train, test


def _held(train_files: list[Path], test_files: list[Path], share: float) -> Iterator[Held]:
    """Every user who has examples, file by file, and always the same rows for testing."""
    rng = generator(0, Purpose.TEST_SPLIT)
    for file in train_files + test_files:
        for user, x, y in _users(file):
            if len(x) != len(y):
                raise DataError(f"{file} user {user}: got {len(x)} x and {len(y)} y, want as many of each")
            if not x:
                continue
            train, test = np.arange(len(x)), np.arange(0)
            if file in test_files:
                train, test = test, train
            elif not test_files:
                train, test = stratified_split(np.zeros(len(x)), share, rng)
            yield Held(file, user, x, y, train, test)


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
                want = counts.pop(user, len(held["y"]))
                if want != len(held["y"]):
                    raise DataError(f"{file} user {user}: got {len(held['y'])} y, want {want}, as num_samples says")
                yield user, held["x"], held["y"]
        if not found:
            raise DataError(f"{file} user_data: got none, want {form}")
        for user, want in counts.items():
            if want:
                raise DataError(f"{file} user {user}: got none in user_data, want {want} examples, as num_samples says")
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
