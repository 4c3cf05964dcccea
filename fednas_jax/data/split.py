"""Splits: those that names say, and a test split for data that comes without one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

TEST_SHARE = 0.1
"""Share of the examples that makes the test split where the data has none: what LEAF's scripts take."""

SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""Names of folders and files that hold splits, in small letters -> the split."""


def by_split(source: Path, files: list[Path]) -> dict[str, list[Path]]:
    """Files by the split that their names say, as in train-0-of-2.parquet or test/0.tar; all are train if none does.

    TensorFlow Federated's held_out is for validation.

    Args:
      source: the folder that they are in, or the one file.
      files: at least one.

    Raises:
      DataError: some say one and some do not, or none says train.
    """
    if source.is_file():
        return {"train": [source]}
    found: dict[str, list[Path]] = {}
    for path in files:
        words = re.split(r"[^a-z]+", str(path.relative_to(source)).lower().replace("held_out", "validation"))
        found.setdefault(next((SPLITS[word] for word in words if word in SPLITS), ""), []).append(path)
    if set(found) == {""}:
        return {"train": found[""]}
    if "" in found:
        raise DataError(f"{found[''][0]}: got a name that says no split, want train, val or test in all or in none")
    if "train" not in found:
        raise DataError(f"{source}: got files for {' and '.join(sorted(found))} and none for train, want some")
    return found


def held_out(groups: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Holds a share of every group's examples out as the test split: the same ones for every run, whatever its seed.

    Args:
      groups: [N] what each example belongs to: its client, or its class where there are no clients.
      share: of every group's examples that is for testing, between 0 and 1; rounded, so small groups give none.

    Returns:
      Ascending example numbers: those for training and those for testing.

    Raises:
      DataError: when the share is not between 0 and 1, or leaves one of the two without examples.
    """
    check_share(share)
    train, test = stratified_split(groups, share, generator(0, Purpose.TEST_SPLIT))
    if not len(train) or not len(test):
        sizes = np.unique(groups, return_counts=True)[1]
        raise no_split(share, sizes, len(train), len(test))
    return train, test


def no_split(share: float, sizes: np.ndarray, train: int, test: int) -> DataError:
    """The error of a share that leaves one split without examples.

    Args:
      share: of every group's examples that is for testing.
      sizes: of the groups.
      train: examples that are left for training.
      test: examples that are left for testing.
    """
    held = f"each of {len(sizes)} clients or classes with {min(sizes)} to {max(sizes)} examples"
    want = "a larger --test-share" if not test else "a smaller --test-share"
    return DataError(
        f"test share: got {share}, which of {held} leaves {train} for training and {test} for testing, want {want}"
    )


def check_share(share: float) -> None:
    """Raises a DataError unless the share is between 0 and 1."""
    if not 0 < share < 1:
        raise DataError(f"test share: got {share}, want between 0 and 1")


def stratified_split(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divides examples so that every class has (nearly) the same share in the second part.

    Args:
      labels: [N] class numbers.
      fraction: share of the second part, between 0 and 1.
      rng: decides which examples of a class go there.

    Returns:
      Two ascending arrays of example numbers, disjoint, which together hold all N.
    """
    second = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        second[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)
