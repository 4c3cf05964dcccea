"""Arrays in memory, and .npz files of them, as a data set. Letters: N examples, H x W pixels, C channels."""

from __future__ import annotations

import difflib
import logging
import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.damage import reading
from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.data.features import Inputs, as_labels, as_rows, as_series, as_tokens, told
from fednas_jax.data.images import resized
from fednas_jax.data.labels import HALF_LEVEL, class_count, short, untrained, unused
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, refuse, unheard
from fednas_jax.data.split import TEST_SHARE, held_out
from fednas_jax.errors import DataError

NAME = "arrays"
"""The source's name of data that was given as arrays."""

# What an array of an .npz file is -> names that it may have: the project's own, Keras's, MedMNIST's.
_KEYS = {
    "x": ("x", "x_train", "train_images", "images"),
    "y": ("y", "y_train", "train_labels", "labels"),
    "client_ids": ("client_ids",),
    "x_val": ("x_val", "val_images"),
    "y_val": ("y_val", "val_labels"),
    "x_test": ("x_test", "test_images"),
    "y_test": ("y_test", "test_labels"),
}
_IS = {key: what for what, keys in _KEYS.items() for key in keys}
_CHANNELS = (1, 3, 4)  # that images usually have
_BLOCK = 4096  # images converted at once

_log = logging.getLogger(__name__)


def from_arrays(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    client_ids: npt.ArrayLike | None = None,
    test: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    *,
    classes: int | None = None,
    name: str = NAME,
    test_share: float = TEST_SHARE,
    labels: Literal["keep", "remap"] = "keep",
    layout: Literal["NHWC", "NCHW"] | None = None,
    inputs: Inputs | None = None,
) -> Dataset:
    """A data set of your own arrays, for `run_search(config, out, dataset=...)`.

    Args:
      x: [N, H, W, C] or [N, H, W] images: uint8, or floats from 0 to 1, which are rounded to 256 levels; or as `inputs`
        says: rows [N, F] or series [N, T, F] of numbers, or tokens [N, T] from 0.
      y: [N] or [N, 1] class numbers from 0, of any integer type; of series and tokens also [N, T], a class for every
        position, -1 for none.
      client_ids: [N] whole numbers or texts: whom each example came from, for `data.partition=natural`. Clients are
        numbered in the order of their ids. A client with fewer examples than `data.min_examples` stays in the data set
        and is left out of runs.
      test: x and y of the test split; None holds out `test_share` of every client's (else every class's) examples.
      classes: number of classes; None is one more than the largest label.
      name: of the data set.
      test_share: between 0 and 1.
      labels: "remap" numbers them anew, from 0 in their order, and keeps them as names of the classes.
      layout: "NCHW" for channels first; None refuses what looks like it.
      inputs: what x holds; None takes [N, F] floats as rows and all else as images.

    Raises:
      DataError: one line that names the array: of a wrong type, shape or length, NaN or other values that are no
        pixels, labels out of range.
    """
    choices: dict[str, tuple[object, tuple[object, ...]]] = {
        "labels": (labels, ("keep", "remap")),
        "layout": (layout, (None, "NHWC", "NCHW")),
        "inputs": (inputs, (None, "images", "rows", "series", "tokens")),
    }
    for argument, (value, known) in choices.items():
        if value not in known:
            raise DataError(f"{argument}: got {value!r}, want one of {', '.join(map(str, known))}")
    remap = labels == "remap"
    form = inputs or told(x)
    if layout is not None and form != "images":
        raise DataError(f"layout: got {layout!r}, want none: x holds {form}")

    def examples(split: str, x: npt.ArrayLike, y: npt.ArrayLike) -> Examples:
        found = _as_inputs(f"x{split}", x, form, layout)
        numbers = as_labels(f"y{split}", y, found, remap)
        _same_length(f"x{split}", found, f"y{split}", numbers)
        return Examples(found, numbers)

    given = examples("", x, y)
    clients = None if client_ids is None else _clients(client_ids, given.inputs)
    if test is None:
        alike = given.labels if given.labels.ndim == 1 else np.zeros(len(given.labels), int)
        train, tested = held_out(alike if clients is None else clients, test_share)
        tests = Examples(*(column[tested] for column in given))
    else:
        train, tests = np.arange(len(given.labels)), examples("_test", *test)
    natural = None
    if clients is not None:
        train = train[np.argsort(clients[train], kind="stable")]
        sizes = np.bincount(clients[train], minlength=int(clients.max()) + 1)
        natural = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    different = np.unique(np.concatenate([given.labels.reshape(-1), tests.labels.reshape(-1)]))
    if given.labels.ndim > 1:  # -1 is no class
        different = different[different >= 0]
    if not len(different):
        raise DataError("y: got no labels but -1, want some")
    names: tuple[str, ...] = ()
    if remap:
        given, tests = (
            split._replace(labels=np.searchsorted(different, split.labels).astype(np.int32)) for split in (given, tests)
        )
        names = tuple(map(str, different.tolist()))
    if classes is None:
        number = given.labels.size + tests.labels.size
        classes = len(names) or class_count(name, int(different[-1]), len(different), number)
        if empty := unused(different, classes) if not remap else "":
            _log.warning("%s: %s (labels='remap' leaves them out)", name, empty)
    names = names if len(names) == classes else ()
    trains = Examples(*(column[train] for column in given))
    if alone := untrained(trains.labels, tests.labels):
        _log.warning("%s: %s", name, alone)
    return dataset(name, trains, tests, classes, natural=natural, class_names=names)


def _clients(client_ids: npt.ArrayLike, inputs: np.ndarray) -> np.ndarray:
    """[N] numbers of the clients, in the order of their ids."""
    ids = np.asarray(client_ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise DataError(f"client_ids: got {_kind(ids)}, want [N] whole numbers or texts")
    _same_length("x", inputs, "client_ids", ids)
    return np.unique(ids, return_inverse=True)[1]


def import_npz(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes the arrays of an .npz file as columns.

    Args:
      source: a file with x and y (or as Keras or MedMNIST name them), perhaps client_ids, perhaps x_test and y_test,
        x_val and y_val, as `from_arrays` takes them.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file: it cannot be read, would expand beyond bounds, lacks an array or has one
        that is not known, or as `from_arrays`.
    """
    arrays = _load(source, options.most_gigabytes)
    try:
        arrays = _with_validation(arrays, options)
        data = from_arrays(
            arrays["x"],
            arrays["y"],
            arrays.get("client_ids"),
            (arrays["x_test"], arrays["y_test"]) if "x_test" in arrays else None,
            classes=options.classes,
            name=source.stem,
            test_share=options.test_share,
            labels=options.labels,
            layout=options.layout,
            inputs=options.inputs,
        )
    except DataError as error:
        raise DataError(f"{source} {error}") from error
    if data.train.inputs.dtype != np.uint8:
        refuse(options, ("image_size",), f"{source} holds no images")
    with ColumnsWriter(folder, data.name, data.classes, class_names=data.class_names, tokens=data.tokens) as writer:
        writer.add(_sized(data.train, options.image_size), None if data.natural is None else np.diff(data.natural))
        writer.add_test(_sized(data.test, options.image_size))
        seen(writer.examples + writer.test_examples)
        writer.finish()
    return Skipped()


def _load(source: Path, gigabytes: float | None) -> dict[str, np.ndarray]:
    """What each known array is -> the array."""
    with reading(source, "an .npz file without objects"), zipfile.ZipFile(source) as archive:
        members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            key = member.filename.removesuffix(".npy")
            what = _known(source, key)
            if what in members:
                other = members[what].filename.removesuffix(".npy")
                raise DataError(f"{source}: got both {other} and {key}, want one of them")
            members[what] = member
        check_expansion(source, sum(member.file_size for member in members.values()), gigabytes)
        arrays = {what: _array(archive, member) for what, member in members.items()}
    wanted = ["x", "y"]
    for split in ("test", "val"):
        wanted += [f"x_{split}", f"y_{split}"] if {f"x_{split}", f"y_{split}"} & set(arrays) else []
    for key in wanted:
        if key not in arrays:
            raise DataError(f"{source} {key}: got none, want {', '.join(wanted)}")
    return arrays


def _known(source: Path, key: str) -> str:
    """What an array of this name is."""
    if key in _IS:
        return _IS[key]
    near = difflib.get_close_matches(key.lower(), _IS, 1)
    want = f"want it called {near[0]}" if near else f"want only arrays called {', '.join(_KEYS)}"
    raise DataError(f"{source} {key[:80]}: got an array of a name that is not known, {want}")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive; no more is read than the archive says that there is, nor taken than is there."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} holds Python objects")
        want, got = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if want != got or min(shape, default=1) < 0:
            raise ValueError(f"{member.filename} holds {got} bytes, its header says {short(want)}")
        array = np.frombuffer(file.read(want), dtype) if want else np.zeros(0, dtype)
    return array.reshape(shape, order="F" if by_columns else "C")


def _with_validation(arrays: dict[str, np.ndarray], options: ImportOptions) -> dict[str, np.ndarray]:
    """The arrays without x_val and y_val, which went where the options say."""
    if "x_val" not in arrays:
        return arrays
    check_validation("x_val", options, "x_test" in arrays)
    found = dict(arrays)
    x, y = found.pop("x_val"), found.pop("y_val")
    if options.validation == "test":
        return {**found, "x_test": x, "y_test": y}
    if "client_ids" in found:
        raise DataError("x_val: got --validation train with client_ids, want them to name validation images' clients")
    for name, one, other in (("x_val", x, found["x"]), ("y_val", y, found["y"])):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise DataError(f"{name}: got {_kind(one)}, want {_kind(other)} but for the number, as for training")
    return {**found, "x": np.concatenate([found["x"], x]), "y": np.concatenate([found["y"], y])}


def _as_inputs(name: str, given: npt.ArrayLike, form: Inputs, layout: str | None) -> np.ndarray:
    """An array in the form that is asked for."""
    if form == "images":
        return as_images(name, given, layout)
    return {"rows": as_rows, "series": as_series, "tokens": as_tokens}[form](name, given)


def _sized(examples: Examples, size: int) -> Examples:
    if not size or examples.inputs.shape[1:3] == (size, size):
        return examples
    return Examples(np.stack([resized(image, size, size) for image in examples.inputs]), examples.labels)


def as_images(name: str, given: npt.ArrayLike, layout: str | None = None) -> np.ndarray:
    """Images [N, H, W, C] uint8.

    Args:
      name: of the array, for messages.
      given: as `from_arrays` takes them.
      layout: "NCHW" for channels first; None refuses what looks like it.

    Raises:
      DataError: one line that names the array.
    """
    try:
        images = np.asarray(given)
    except ValueError:
        raise DataError(f"{name}: got images of differing shapes, want one shape for all") from None
    if images.dtype == object and images.ndim == 1:
        raise DataError(f"{name}: got objects, perhaps images of differing shapes, want one array of all")
    if images.ndim not in (3, 4) or not images.size:
        other = " (or --inputs rows, series or tokens)" if images.ndim == 2 else ""
        raise DataError(f"{name}: got {_kind(images)}, want [N, H, W, C] or [N, H, W] with at least one image{other}")
    if layout == "NCHW" and images.ndim == 4:
        images = np.moveaxis(images, 1, -1)
    elif layout is None and images.ndim == 4 and images.shape[1] in _CHANNELS and images.shape[3] > max(_CHANNELS):
        want = f"want np.moveaxis({name}, 1, -1) or --layout NCHW (NHWC if channels are last indeed)"
        raise DataError(f"{name}: got {_kind(images)}, which looks like channels first, {want}")
    if images.dtype.kind == "f":
        low, high = float(images.min()), float(images.max())
        other = ", or --inputs series if they are no images" if images.ndim == 3 else ""
        if not (low >= -HALF_LEVEL and high <= 1 + HALF_LEVEL):
            raise DataError(f"{name}: got floats from {low:.9g} to {high:.9g}, want 0 to 1 (or uint8, 0 to 255){other}")
        images = _levels(images)
    if images.dtype != np.uint8:
        raise DataError(f"{name}: got {_kind(images)}, want uint8 (0 to 255) or floats (0 to 1)")
    return images if images.ndim == 4 else images[..., None]


def _levels(images: np.ndarray) -> np.ndarray:
    """Floats from 0 to 1 as 256 levels; rounding errors beyond are clipped."""
    found = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), _BLOCK):
        some = images[start : start + _BLOCK]
        found[start : start + _BLOCK] = np.clip(np.rint(some * 255), 0, 255)
    return found


def _same_length(one: str, a: np.ndarray, other: str, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise DataError(f"{other}: got {len(b)}, want {len(a)}, as many as {one}")


def _kind(array: Any) -> str:
    return f"{list(array.shape)} {array.dtype}"
