"""What an import of files may be told, and what it tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fednas_jax.data.split import TEST_SHARE, check_share
from fednas_jax.errors import DataError

Seen = Callable[[int], None]
"""Told of so many more examples that were read."""


@dataclass(frozen=True)
class ImportOptions:
    """What an import may be told."""

    inputs: Literal["images", "rows", "series", "tokens"] | None = None
    """What an example is: images; rows, a row of numbers each; series, numbers at several times; tokens, whole numbers
    from 0 in order (default: told from the files, and said). Only for npz, table and huggingface."""
    image_size: int = 0
    """Side in pixels that all images are resized to; 0 keeps their size, which must then be one."""
    channels: int = 0
    """Channels of the images: 1 (grey), 3 (colour) or 4; 0 takes the first image's. Not for npz, hdf5 and sqlite."""
    classes: int | None = None
    """Number of classes, to refuse labels beyond them (default: the largest label + 1). Not for folder."""
    labels: Literal["keep", "remap"] = "keep"
    """Class numbers: the labels themselves, or remap: numbered from 0 in their order, with the labels as names. Not for
    folder, whose labels are names."""
    images: Path | None = None
    """Folder of the image files that LEAF's celeba or a table names. Only for leaf and table."""
    test_share: float = TEST_SHARE
    """Share of each client's (else each class's) examples that is for testing, where the files have no test split."""
    validation: Literal["train", "test"] | None = None
    """What becomes of a validation split: train (its examples join the training examples, of which every run holds out
    data.validation for itself) or test (it is the test split). Not for leaf."""
    length: int = 0
    """Tokens of an example; longer texts are cut, shorter ones are padded with 0 (default: 25 of tweets, 20 of
    sentences, all 80 of Shakespeare). Only for leaf, hdf5 and sqlite."""
    vocabulary: int = 10_000
    """Number of words that have ids of their own: the most frequent ones of the training examples. All others are 1.
    Only for leaf, hdf5 and sqlite."""
    targets: Literal["last", "every"] = "last"
    """What is to be predicted of LEAF's Shakespeare: the character after the last one, or after every one. Only for
    leaf."""
    layout: Literal["NHWC", "NCHW"] | None = None
    """Axes of image arrays: channels last or first (default: last; what looks otherwise is refused). Only for npz."""
    skip_damaged: bool = False
    """Leave out, and count, images that cannot be opened. Not for npz, hdf5, sqlite and leaf."""
    most_gigabytes: float | None = None
    """Most that compressed files may expand to (default: half of this machine's memory). Not for folder and leaf."""
    image_column: str = ""
    """Column of the images or their paths (default: by its name or type). Only for table, huggingface, webdataset."""
    label_column: str = ""
    """Column of the labels (default: by its name or type). Only for table, huggingface, webdataset, hdf5 and
    sqlite."""
    client_column: str = ""
    """Column that names clients; none: there are none (default: by its name). Only for table, huggingface,
    webdataset."""

    feature_columns: str = ""
    """Columns of the features, with commas between (default: of a table without images, all others). Only for table
    and huggingface."""

    @property
    def remap(self) -> bool:
        """Whether classes are numbered anew."""
        return self.labels == "remap"


class Skipped(NamedTuple):
    """What an import left out."""

    files: int = 0
    """That are no images: thumbnails' indexes, notes, tables."""
    damaged: int = 0
    """Images that cannot be opened."""
    unlabelled: int = 0
    """Texts whose next character is none of the vocabulary."""
    features: tuple[str, ...] = ()
    """Not left out: names of the columns that were taken as features, which are to be told."""


COMMON = ("image_size", "test_share")
"""Options that every kind of files takes."""


def check_options(kind: str, options: ImportOptions, takes: tuple[str, ...]) -> None:
    """Refuses options that cannot be.

    Args:
      kind: of the files.
      options: as given.
      takes: options that the kind takes beside `COMMON`.

    Raises:
      DataError: one line that names the option.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in (*COMMON, *takes):
            raise DataError(f"data import {field.name}: got {value}, want none: {kind} does not take it")
    if options.image_size < 0:
        raise DataError(f"data import image_size: got {options.image_size}, want at least 0")
    if options.channels not in (0, 1, 3, 4):
        raise DataError(f"data import channels: got {options.channels}, want 0 (the first image's), 1, 3 or 4")
    if options.classes is not None and options.classes < 1:
        raise DataError(f"data import classes: got {options.classes}, want at least 1")
    if options.most_gigabytes is not None and not options.most_gigabytes > 0:
        raise DataError(f"data import most_gigabytes: got {options.most_gigabytes}, want above 0")
    if options.length < 0:
        raise DataError(f"data import length: got {options.length}, want at least 0")
    if options.vocabulary < 1:
        raise DataError(f"data import vocabulary: got {options.vocabulary}, want at least 1")
    choices: dict[str, tuple[str | None, ...]] = {
        "labels": ("keep", "remap"),
        "validation": (None, "train", "test"),
        "layout": (None, "NHWC", "NCHW"),
        "inputs": (None, "images", "rows", "series", "tokens"),
        "targets": ("last", "every"),
    }
    for name, known in choices.items():
        if getattr(options, name) not in known:
            want = ", ".join(str(choice) for choice in known if choice)
            raise DataError(f"data import {name}: got {getattr(options, name)!r}, want one of {want}")
    check_share(options.test_share)


def refuse(options: ImportOptions, names: tuple[str, ...], why: str) -> None:
    """Refuses options that files of a form do not take, rather than to ignore them.

    Args:
      options: as given.
      names: of those that are not taken.
      why: for the message: "the files hold texts".

    Raises:
      DataError: one line that names the option.
    """
    for field in dataclasses.fields(options):
        got = getattr(options, field.name)
        if field.name in names and got != field.default:
            raise DataError(f"data import {field.name}: got {got}, want {field.default or 'none'}: {why}")


def check_validation(where: object, options: ImportOptions, test: bool) -> None:
    """Refuses a validation split of which nobody said what it is for.

    Args:
      where: it is.
      options: of the import.
      test: whether there is a test split as well.

    Raises:
      DataError: it is not said, or there would be two test splits.
    """
    if options.validation is None:
        want = "--validation train (they join the training examples) or --validation test (they are the test split)"
        raise DataError(f"{where}: got examples for validation, want {want}")
    if options.validation == "test" and test:
        raise DataError(f"{where}: got --validation test, want --validation train: there is a test split as well")


def unheard(examples: int) -> None:
    """Nobody is told."""
