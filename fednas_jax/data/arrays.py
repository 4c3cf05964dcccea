"""Arrays in memory, and .npz files of them, as a data set. Letters: N examples, H x W pixels, C channels."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.data.images import resized
from fednas_jax.data.split import TEST_SHARE, held_out
from fednas_jax.errors import DataError

NAME = "arrays"
"""The source's name of data that was given as arrays."""

# Names in an .npz file -> what they are; the second ones are Keras'.
_KEYS = {
    "x": "x",
    "x_train": "x",
    "y": "y",
    "y_train": "y",
    "client_ids": "client_ids",
    "x_test": "x_test",
    "y_test": "y_test",
}


def from_arrays(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    client_ids: npt.ArrayLike | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    classes: int | None = None,
    name: str = NAME,
    test_share: float = TEST_SHARE,
) -> Dataset:
    """A data set of your own arrays, for `run_search(config, out, dataset=...)`.

    Args:
      x: [N, H, W, C] or [N, H, W] images: uint8, or floats from 0 to 1, which are rounded to 256 levels.
      y: [N] class numbers from 0, of any integer type.
      client_ids: [N] whole numbers or texts: whom each example came from, for `data.partition=natural`. Clients are
        numbered in the order of their ids. A client with fewer examples than `data.min_examples` stays in the data set
        and is left out of runs.
      test: x and y of the test split; None holds out `test_share` of every client's (else every class's) examples.
      classes: number of classes; None is one more than the largest label.
      name: of the data set.
      test_share: between 0 and 1.

    Raises:
      DataError: one line that names the array: of a wrong type, shape or length, NaN or other values that are no
        pixels, labels out of range.
    """
    images, labels = _images("x", x), _labels("y", y)
    _same_length("x", images, "y", labels)
    clients = None
    if client_ids is not None:
        ids = np.asarray(client_ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iuU":
            raise DataError(f"client_ids: got {_kind(ids)}, want [N] whole numbers or texts")
        _same_length("x", images, "client_ids", ids)
        clients = np.unique(ids, return_inverse=True)[1]
    if test is None:
        train, tested = held_out(labels if clients is None else clients, test_share)
        tests = Examples(images[tested], labels[tested])
    else:
        train, tests = np.arange(len(labels)), Examples(_images("x_test", test[0]), _labels("y_test", test[1]))
        _same_length("x_test", tests.images, "y_test", tests.labels)
    natural = None
    if clients is not None:
        train = train[np.argsort(clients[train], kind="stable")]
        sizes = np.bincount(clients[train], minlength=int(clients.max()) + 1)
        natural = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if classes is None:
        classes = 1 + int(max(labels.max(), tests.labels.max(initial=0)))
    return dataset(name, Examples(images[train], labels[train]), tests, classes, natural=natural)


def import_npz(
    source: Path, folder: Path, image_size: int = 0, classes: int | None = None, test_share: float = TEST_SHARE
) -> None:
    """Writes the arrays of an .npz file as columns.

    Args:
      source: a file with x and y (or x_train and y_train), perhaps client_ids, perhaps x_test and y_test, as
        `from_arrays` takes them.
      folder: of the columns; must not exist yet.
      image_size: side in pixels that images are resized to; 0 keeps their size.
      classes: number of classes; None is one more than the largest label.
      test_share: as `from_arrays`.

    Raises:
      DataError: one line that names the file: it cannot be read, lacks an array, or as `from_arrays`.
    """
    arrays = _load(source)
    try:
        test = (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None
        ids = arrays.get("client_ids")
        data = from_arrays(
            arrays["x"], arrays["y"], ids, test, classes=classes, name=source.stem, test_share=test_share
        )
    except DataError as error:
        raise DataError(f"{source} {error}") from error
    with ColumnsWriter(folder, data.name, data.classes) as writer:
        writer.add(_sized(data.train, image_size), None if data.natural is None else np.diff(data.natural))
        writer.add_test(_sized(data.test, image_size))
        writer.finish()


def _load(source: Path) -> dict[str, np.ndarray]:
    try:
        held = np.load(source, allow_pickle=False)
        if not isinstance(held, np.lib.npyio.NpzFile):
            raise ValueError("one array, no .npz")
        with held:
            arrays = {_KEYS[key]: held[key] for key in held.files if key in _KEYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise DataError(f"{source}: cannot be read ({reason}), want an .npz file without objects") from error
    wanted = ["x", "y"] + (["x_test", "y_test"] if {"x_test", "y_test"} & set(arrays) else [])
    for key in wanted:
        if key not in arrays:
            raise DataError(f"{source} {key}: got none, want {', '.join(wanted)}")
    return arrays


def _sized(examples: Examples, size: int) -> Examples:
    if not size or examples.images.shape[1:3] == (size, size):
        return examples
    return Examples(np.stack([resized(image, size, size) for image in examples.images]), examples.labels)


def _images(name: str, given: npt.ArrayLike) -> np.ndarray:
    """[N, H, W, C] uint8."""
    try:
        images = np.asarray(given)
    except ValueError:
        raise DataError(f"{name}: got images of differing shapes, want one shape for all") from None
    if images.dtype == object and images.ndim == 1:
        raise DataError(f"{name}: got objects, perhaps images of differing shapes, want one array of all")
    if images.ndim not in (3, 4) or not images.size:
        raise DataError(f"{name}: got {_kind(images)}, want [N, H, W, C] or [N, H, W] with at least one image")
    if images.dtype.kind == "f":
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            raise DataError(f"{name}: got floats from {low:g} to {high:g}, want 0 to 1 (or uint8, 0 to 255)")
        images = np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise DataError(f"{name}: got {_kind(images)}, want uint8 (0 to 255) or floats (0 to 1)")
    return images if images.ndim == 4 else images[..., None]


def _labels(name: str, given: npt.ArrayLike) -> np.ndarray:
    """[N] int32."""
    labels = np.asarray(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{name}: got {_kind(labels)}, want [N] whole numbers, class numbers from 0")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    if low < 0 or high > np.iinfo(np.int32).max:
        raise DataError(f"{name}: got {low} to {high}, want class numbers from 0")
    return labels.astype(np.int32)


def _same_length(one: str, a: np.ndarray, other: str, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise DataError(f"{other}: got {len(b)}, want {len(a)}, as many as {one}")


def _kind(array: Any) -> str:
    return f"{list(array.shape)} {array.dtype}"
