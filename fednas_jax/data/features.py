"""Arrays of numbers that are no images: rows, series and tokens. Letters: N examples, T times or tokens, F features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fednas_jax.data.labels import LARGEST, check_range, short, whole_numbers
from fednas_jax.errors import DataError

Inputs = Literal["images", "rows", "series", "tokens"]
"""What an example is: an image, a row of features, features at several times, or token ids in order."""


def told(given: npt.ArrayLike) -> Inputs:
    """What arrays are where nobody says: [N, F] floats are rows, all else has to be images."""
    try:
        array = np.asarray(given)
    except ValueError:  # of differing lengths, which is said later
        return "images"
    return "rows" if array.ndim == 2 and array.dtype.kind == "f" else "images"


def as_rows(name: str, given: npt.ArrayLike, columns: Sequence[str] = ()) -> np.ndarray:
    """Rows [N, F] float32.

    Args:
      name: of the array, for messages.
      given: [N, F] of any numbers.
      columns: names of the features, for messages.

    Raises:
      DataError: another shape or type, or a value that is no finite number: the line names its feature.
    """
    return _finite(name, _numbers(name, given, 2, "[N, F]"), columns)


def as_series(name: str, given: npt.ArrayLike) -> np.ndarray:
    """Series [N, T, F] float32.

    Args:
      name: of the array, for messages.
      given: [N, T, F], or [N, T] of one feature.

    Raises:
      DataError: as `as_rows`.
    """
    array = np.asarray(given)
    return _finite(name, _numbers(name, array[..., None] if array.ndim == 2 else array, 3, "[N, T, F] or [N, T]"))


def as_tokens(name: str, given: npt.ArrayLike) -> np.ndarray:
    """Token ids [N, T] int32.

    Args:
      name: of the array, for messages.
      given: [N, T] whole numbers from 0.

    Raises:
      DataError: another shape or type, or an id out of range.
    """
    array = np.asarray(given)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "iu":
        raise DataError(f"{name}: got {_kind(array)}, want [N, T] whole numbers, token ids from 0")
    low, high = array.min(), array.max()
    if int(low) < 0 or int(high) >= LARGEST:
        raise DataError(f"{name}: got {short(low)} to {short(high)}, want token ids from 0")
    return array.astype(np.int32)


def as_labels(name: str, given: npt.ArrayLike, inputs: np.ndarray, remap: bool = False) -> np.ndarray:
    """Labels [N] int32, or [N, T] int32 where every position of tokens or of a series has its own.

    Args:
      name: of the array, for messages.
      given: as `whole_numbers` takes them, or [N, T] with -1 where a position has no label.
      inputs: what they are labels of.
      remap: they are to be numbered anew.

    Raises:
      DataError: another shape or type, or out of range.
    """
    labels = np.asarray(given)
    series = inputs.dtype != np.uint8 and inputs.ndim == (2 if inputs.dtype == np.int32 else 3)
    if not (series and labels.ndim == 2 and labels.shape[1] == inputs.shape[1] and labels.dtype.kind in "iu"):
        return whole_numbers(name, labels, remap)
    if remap:
        raise DataError(f"{name}: got --labels remap, want --labels keep: every position has a label")
    if labels.size and int(labels.min()) < -1:
        raise DataError(f"{name}: got {short(labels.min())}, want class numbers from 0, or -1 for none")
    check_range(name, 0, labels.max(initial=0))
    return labels.astype(np.int32)


def _numbers(name: str, given: npt.ArrayLike, axes: int, want: str) -> np.ndarray:
    try:
        array = np.asarray(given)
    except ValueError:
        raise DataError(f"{name}: got rows of differing lengths, want {want} numbers") from None
    if array.ndim != axes or not array.size or array.dtype.kind not in "fiub":
        raise DataError(f"{name}: got {_kind(array)}, want {want} numbers, at least one")
    return array


def _finite(name: str, array: np.ndarray, columns: Sequence[str] = ()) -> np.ndarray:
    """float32; in messages the last axis is the features'."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused below
        found = array.astype(np.float32)
    bad = ~np.isfinite(found)
    if bad.any():
        at = tuple(int(place[0]) for place in np.nonzero(bad))
        feature = columns[at[-1]][:40] if columns else f"feature {at[-1]}"
        got = "NaN" if np.isnan(array[at]) else short(array[at])
        raise DataError(f"{name} {feature}: got {got} in example {at[0]}, want finite numbers")
    return found


def _kind(array: Any) -> str:
    return f"{list(array.shape)} {array.dtype}"
