"""Labels as files have them become class numbers: [N] or [N, 1], as they are or numbered anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fednas_jax.errors import DataError

LARGEST = np.iinfo(np.int32).max
"""Class numbers are int32."""

HALF_LEVEL = 0.5 / 255
"""Pixels so far outside of 0 to 1 are still rounded to the first or last of 256 levels."""

# A data set may have so many classes without an example each; beyond, there are to be no more classes than examples.
_FREE = 1000


def whole_numbers(name: str, given: npt.ArrayLike, remap: bool = False) -> np.ndarray:
    """Labels [N] int32.

    Args:
      name: of the array, for messages.
      given: [N] or [N, 1] of any integer type, or truth values.
      remap: they are to be numbered anew, so that they may be below 0.

    Raises:
      DataError: of another shape or type, or out of range.
    """
    labels = np.asarray(given)
    if labels.ndim == 2 and labels.shape[1] == 1:  # Keras's and MedMNIST's
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"{name}: got {list(labels.shape)} {labels.dtype}, want [N] whole numbers, class numbers from 0"
        )
    check_range(name, labels.min(initial=0), labels.max(initial=0), remap)
    return labels.astype(np.int32)


def check_range(name: str, low: Any, high: Any, remap: bool = False) -> None:
    """Raises a DataError unless labels from `low` to `high` are class numbers."""
    if int(low) < (-LARGEST if remap else 0) or int(high) > LARGEST:
        hint = "" if remap or int(high) > LARGEST else ", or --labels remap to number them anew"
        raise DataError(f"{name}: got {short(low)} to {short(high)}, want class numbers from 0{hint}")


def class_count(name: str, largest: int, different: int, examples: int) -> int:
    """One more than the largest label, where that can be meant.

    Args:
      name: of the data set, for messages.
      largest: label.
      different: labels that there are.
      examples: with labels.

    Raises:
      DataError: it makes many classes without an example.
    """
    if largest >= max(_FREE, examples):
        got = f"labels up to {short(largest)}, {different} different ones of {examples} examples"
        raise DataError(
            f"{name} labels: got {got}, want --labels remap to number them 0 to {different - 1}, or --classes"
        )
    return largest + 1


def unused(labels: np.ndarray, classes: int) -> str:
    """What is to be said of classes without an example: "" or "2 classes without an example: 0, 7"."""
    return _without("an example", np.setdiff1d(np.arange(classes), labels))


def untrained(train: np.ndarray, test: np.ndarray) -> str:
    """What is to be said of classes that are for testing alone, or "": names that are written in two ways, say.

    Args:
      train: labels; -1 is none.
      test: likewise.
    """
    return _without("a training example", np.setdiff1d(test[test >= 0], train))


def _without(what: str, classes: np.ndarray) -> str:
    if not len(classes):
        return ""
    some = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
    return f"{len(classes)} class{'es' * (len(classes) > 1)} without {what}: {some}"


def short(value: Any) -> str:
    """A number in few digits, for messages."""
    try:
        if abs(value) < 10**10 and value == int(value):
            return str(int(value))
        return f"{float(value):.9g}"
    except OverflowError:  # larger than any float, or infinite
        return f"{value}" if isinstance(value, float) else "a number over 1e308"
