"""One command imports your own files into columns: the registry of their kinds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.columns import read_columns
from fednas_jax.data.damage import printable
from fednas_jax.data.examples import Examples, described
from fednas_jax.data.labels import untrained, unused
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_options
from fednas_jax.data.progress import shown
from fednas_jax.errors import DataError
from fednas_jax.registry import attribute

_MOST_NAMES = 20  # of features that are told
_LABELS = 1 << 14  # examples whose labels are looked at at once


@dataclass(frozen=True)
class Kind:
    """How files of one kind are imported."""

    description: str
    """One line."""
    run: Callable[[Path, Path, ImportOptions, Seen], Skipped]
    """(files, folder of the columns, options, who is told how many examples were read) -> what was left out."""
    takes: tuple[str, ...]
    """Options that it takes, beside those of all."""


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
    check_options(kind, options, KINDS[kind].takes)
    if folder.exists():
        raise DataError(f"{folder}: is there already, want a new folder for columns")
    try:
        with shown(f"importing {source.name}") as seen:
            skipped = KINDS[kind].run(source, folder, options, seen)
    except DataError as error:
        raise DataError(printable(str(error))) from error
    return _said(folder, skipped)


def _said(folder: Path, skipped: Skipped) -> str:
    data = read_columns(folder)
    numbers = f"{len(data.train.labels)} training and {len(data.test.labels)} test {described(data)}"
    clients = "which name no clients"
    if data.natural is not None:
        sizes, least = np.diff(data.natural), DataConfig.min_examples
        clients = f"{len(sizes)} clients of {sizes.min()} to {sizes.max()}"
        if few := np.count_nonzero(sizes < least):
            clients += f" (runs leave out those below data.min_examples: {few} by its default, {least})"
    said = f"{folder}: {numbers}, {data.classes} classes, {clients}"
    train, test = (_labels_of(split) for split in (data.train, data.test))
    for empty in (unused(np.union1d(train, test), data.classes), untrained(train, test)):
        said += f"; {empty}" * bool(empty)
    if skipped.features:
        some = ", ".join(skipped.features[:_MOST_NAMES]) + ", ..." * (len(skipped.features) > _MOST_NAMES)
        said += f"; features: {some}"
    if skipped.unlabelled:
        said += f"; {skipped.unlabelled} without a next character of the vocabulary left out"
    if skipped.files:
        said += f"; {skipped.files} file{'s' * (skipped.files > 1)} that are no images left out"
    if skipped.damaged:
        said += f"; {skipped.damaged} damaged image{'s' * (skipped.damaged > 1)} left out"
    return said


def _labels_of(examples: Examples) -> np.ndarray:
    """The different labels that there are, found some thousand examples at a time."""
    found = np.zeros(0, np.int32)
    for start in range(0, len(examples.labels), _LABELS):
        found = np.union1d(found, examples.labels[start : start + _LABELS])
    return found


def _lazily(home: str) -> Callable[[Path, Path, ImportOptions, Seen], Skipped]:
    """The import that MODULE:FUNCTION of `data` names, loaded when called: other commands need no JSON parser."""

    def run(source: Path, folder: Path, options: ImportOptions, seen: Seen) -> Skipped:
        skipped: Skipped = attribute(f"fednas_jax.data.{home}")(source, folder, options, seen)
        return skipped

    return run


# Options of all whose records come one by one.
_OF_RECORDS = (
    *("channels", "classes", "labels", "validation", "skip_damaged"),
    *("most_gigabytes", "image_column", "label_column", "client_column"),
)

KINDS: dict[str, Kind] = {
    "leaf": Kind(
        "LEAF's JSON files (femnist, celeba, shakespeare, sent140), whose users become clients",
        _lazily("leaf:import_leaf"),
        ("channels", "classes", "labels", "images", "length", "vocabulary", "targets"),
    ),
    "folder": Kind(
        "images as CLASS/IMAGE or CLIENT/CLASS/IMAGE, perhaps below train, val and test",
        _lazily("folders:import_folder"),
        ("channels", "validation", "skip_damaged"),
    ),
    "npz": Kind(
        "a numpy file with x, y and perhaps client_ids, x_test, y_test, or as Keras or MedMNIST name them",
        _lazily("arrays:import_npz"),
        ("classes", "labels", "validation", "layout", "most_gigabytes", "inputs"),
    ),
    "hdf5": Kind(
        "HDF5 files of TensorFlow Federated: examples/CLIENT/pixels and label, or tokens (needs fednas_jax[hdf5])",
        _lazily("hdf5:import_hdf5"),
        ("classes", "labels", "validation", "most_gigabytes", "label_column", "length", "vocabulary"),
    ),
    "sqlite": Kind(
        "an SQLite file as TensorFlow Federated downloads its sets, unpacked: pixels and label, or tokens",
        _lazily("sqlite:import_sqlite"),
        ("classes", "labels", "validation", "most_gigabytes", "label_column", "length", "vocabulary"),
    ),
    "table": Kind(
        "Parquet or CSV files with columns of images (encoded, or paths) or features, labels and perhaps clients",
        _lazily("tables:import_table"),
        (*_OF_RECORDS, "images", "inputs", "feature_columns"),
    ),
    "huggingface": Kind(
        "a folder that Hugging Face's save_to_disk wrote",
        _lazily("tables:import_huggingface"),
        (*_OF_RECORDS, "inputs", "feature_columns"),
    ),
    "webdataset": Kind(
        "WebDataset's tar shards: KEY.jpg with KEY.cls or KEY.json",
        _lazily("tar_shards:import_webdataset"),
        _OF_RECORDS,
    ),
}
"""Name -> how it is imported. A package of yours may add its own."""
