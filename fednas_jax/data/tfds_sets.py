"""Image classification sets of TensorFlow Datasets: read without TensorFlow, decoded once into columns.

The columns lie in the prepared set's own folder, one folder for each choice of size and features, so that they go when
it goes. Importing this file imports no TFDS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.columns import read_columns
from fednas_jax.data.examples import Dataset, Examples
from fednas_jax.data.images import Raw, form_of, read_images
from fednas_jax.data.labels import LARGEST, short
from fednas_jax.data.listing import Listing, write_listing
from fednas_jax.data.root import cache_root, data_root
from fednas_jax.data.split import TEST_SHARE
from fednas_jax.data.tfds_temporary import tidied
from fednas_jax.errors import DataError

PREFIX = "tfds:"
"""Before the name of a TFDS set that is not in the list of sources."""
IN_MEMORY_BYTES = 1 << 30
"""Images that take no more than this are read into memory; larger ones stay on disk, memory-mapped."""

# From this many examples on, decoding takes so long that it says what it is doing.
_SLOW = 100_000
# Records parsed at once where only a label or a client is wanted.
_BLOCK = 4096
# Packages of the extra `tf`, by the names they are imported by.
_EXTRA = ("tensorflow", "importlib_resources")
_INFO = "dataset_info.json"  # of a prepared version
_VERSION = re.compile(r"\d+\.\d+\.\d+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TfdsSet:
    """What is to be known of a set beyond what TFDS itself says. Features within features are joined by '/'."""

    name: str
    """Of TFDS, with its config where it has several: NAME or NAME/CONFIG."""
    label: str = "label"
    """The feature with the label."""
    client: str = ""
    """The feature that names clients, taken where the prepared version has it."""
    test: str = ""
    """The split for testing; none: test, else validation, else a share of train."""


def tfds_folder(name: str, root: Path | None) -> Path | None:
    """The newest prepared version of a set; None where there is none.

    Args:
      name: of the set, with its config.
      root: folder of prepared data sets, as in `data_root`.
    """
    # TFDS writes into a folder of another name and renames it when all is done: if it is here, it is whole.
    found = [
        info.parent for info in (data_root(root) / name).glob(f"*/{_INFO}") if _VERSION.fullmatch(info.parent.name)
    ]
    return max(found, key=lambda folder: [int(part) for part in folder.name.split(".")], default=None)


def prepare_tfds(name: str, source_dir: Path | None, root: Path | None) -> Path:
    """Downloads and prepares a set with TFDS, in the file format that is read without TensorFlow.

    Args:
      name: of the set, with its config.
      source_dir: folder of files that TFDS cannot download itself (`manual_dir`); None where there are none.
      root: folder of prepared data sets, as in `data_root`.

    Returns:
      The folder of the prepared set.

    Raises:
      DataError: an unknown set, a package that is missing (TFDS encodes images of many sets with TensorFlow), or
        whatever keeps TFDS from preparing it.
    """
    import tensorflow_datasets as tfds

    settings = {} if source_dir is None else {"manual_dir": str(source_dir.resolve())}
    try:
        # TFDS speaks on stdout, which belongs to our caller.
        with tidied(), contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(data_root(root)), file_format="array_record")
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**settings))
    except tfds.core.DatasetNotFoundError as error:
        raise DataError(f"data prepare {name}: TFDS has no set of this name, want one of its catalogue") from error
    except Exception as error:
        # Every builder may fail in ways of its own.
        if missing := _missing_package(error):
            package = "'fednas_jax[tf]'" if missing in _EXTRA else missing
            raise DataError(
                f"data prepare {name}: got no package {missing}, which TFDS needs to prepare this set (not to read "
                f"it): want pip install {package}"
            ) from error
        raise DataError(f"data prepare {name}: TFDS failed ({type(error).__name__}: {_one_line(error)})") from error
    return Path(str(builder.data_dir))


def load_tfds(config: DataConfig, known: TfdsSet) -> Dataset:
    """A prepared set, decoded into columns beside it the first time. TensorFlow is not needed.

    Args:
      config: the source's name, root, and which features, split and size to take.
      known: the set.

    Returns:
      Images in memory up to `IN_MEMORY_BYTES`, larger ones memory-mapped; clients where a feature names them.

    Raises:
      DataError: a set that is not prepared (the message says how to) or prepared in a format that needs TensorFlow,
        features that it does not have or that are no image or label, images of differing shapes, damaged files.
    """
    prepared = tfds_folder(known.name, config.root)
    if prepared is None:
        deeper = (data_root(config.root) / known.name).glob(f"*/*/{_INFO}")
        below = sorted({info.parents[1].name for info in deeper})
        others = f" (of its configs there are {', '.join(below)})" if below else ""
        raise DataError(
            f"data.source: {config.source} is not prepared in {data_root(config.root)}{others}: run "
            f"`fednas data prepare {config.source}` (--from DIR for archives that TFDS does not download); to encode "
            "images TFDS needs pip install 'fednas_jax[tf]'"
        )
    columns = _columns_folder(prepared, config, known)
    if not columns.is_dir():
        try:
            _decode(prepared, columns, config, known)
        except DataError:
            if not columns.is_dir():  # else another process was quicker
                raise
    data = read_columns(columns)
    if data.train.inputs.nbytes + data.test.inputs.nbytes > IN_MEMORY_BYTES:
        return data
    train, test = (Examples(*(np.array(column) for column in split)) for split in (data.train, data.test))
    return dataclasses.replace(data, train=train, test=test)


def _columns_folder(prepared: Path, config: DataConfig, known: TfdsSet) -> Path:
    """Where the columns of this choice are: in the prepared set, or in the user's cache if that cannot be written.

    What lies in the cache does not go when the set goes: it belongs to the set that was prepared there at that time.
    """
    choice = [config.source, config.image_feature, *dataclasses.astuple(_chosen(config, known))]
    key = hashlib.sha256(json.dumps(choice).encode()).hexdigest()[:8]
    name = f"columns-{config.image_size or 'own'}-{key}"
    if (prepared / name).is_dir() or os.access(prepared, os.W_OK):
        return prepared / name
    about = f"{prepared.resolve()} {(prepared / _INFO).stat().st_mtime_ns}"
    return cache_root() / "fednas_jax" / "columns" / hashlib.sha256(about.encode()).hexdigest()[:8] / name


def _chosen(config: DataConfig, known: TfdsSet) -> TfdsSet:
    """The set with what the user chose instead."""
    return TfdsSet(
        known.name,
        config.label_feature or known.label,
        config.client_feature or known.client,
        config.test_split or known.test,
    )


def _decode(prepared: Path, columns: Path, config: DataConfig, known: TfdsSet) -> None:
    """Writes a prepared set's columns."""
    import tensorflow_datasets as tfds

    chosen = _chosen(config, known)
    with _reading(prepared):
        builder = tfds.builder_from_directory(str(prepared))
        features = _leaves(builder.info.features)
        splits = sorted(name for name, split in builder.info.splits.items() if split.num_examples)
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{prepared}: got {builder.info.file_format.value} files, want array_record, which is read without "
            f"TensorFlow: delete it and run `fednas data prepare {config.source}`"
        )
    _check_features(features, config, chosen, tfds)
    train_name, test_name = _splits(config, chosen, splits)
    label = features[chosen.label]
    classes = 2 if label.np_dtype == np.bool_ else getattr(label, "num_classes", None)
    # A version that names no clients is no mistake, unless the user asked for them.
    client = chosen.client if chosen.client in features else ""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        reader = _Reader(config.image_feature, chosen.label, client, features, config.image_size, threads, prepared)
        train = _listing(reader, builder, train_name)
        test = None if test_name is None else _listing(reader, builder, test_name)
        if train.examples >= _SLOW:
            _log.warning("%s: decoding %d images, once, into %s", config.source, train.examples, columns)
        write_listing(columns, config.source, train, test, classes, TEST_SHARE)


@contextlib.contextmanager
def _reading(prepared: Path) -> Iterator[None]:
    """What TFDS raises of damaged files becomes one line."""
    try:
        yield
    except Exception as error:
        # TFDS, array_record and protobuf each have errors of their own for a damaged file, without a common base.
        raise DataError(
            f"{prepared}: got damaged data ({_one_line(error)}), want it deleted and prepared again"
        ) from error


@dataclass(frozen=True)
class _Reader:
    """How records of a set become examples."""

    image: str
    label: str
    client: str  # "" where no feature names clients
    features: dict[str, Any]  # every feature of TFDS by name
    size: int
    threads: Executor
    prepared: Path

    def raw(self, fields: Any) -> Raw:
        """The image in a record: encoded, or pixels [H, W, C]."""
        values = fields[self.image]
        shape = self.features[self.image].shape
        if not hasattr(self.features[self.image], "encoding_format"):
            flat = values.int64_list.value or np.frombuffer(b"".join(values.bytes_list.value), np.uint8)
            pixels = np.asarray(flat, np.uint8).reshape(shape)
            return pixels if pixels.ndim == 3 else pixels[..., None]
        return bytes(values.bytes_list.value[0])

    def channels(self) -> int:
        """Of the images, as TFDS says; 0 where it does not."""
        shape = self.features[self.image].shape
        return int(shape[2] or 0) if len(shape) == 3 else 1


def _listing(reader: _Reader, builder: Any, split: str) -> Listing:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    # Records are taken raw and parsed here: TFDS decodes all features of an example, of which celeb_a has 54, and
    # takes three times as long for two.
    with _reading(reader.prepared):
        source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        total = len(source)

    def parsed(rows: np.ndarray) -> list[Any]:
        with _reading(reader.prepared):
            records = source.__getitems__(rows.tolist())
            return [tf_example_pb2.Example.FromString(record).features.feature for record in records]

    def read(rows: np.ndarray) -> Examples:
        records = parsed(rows)
        names = [f"{reader.prepared} {split} record {row}" for row in rows]
        images = read_images([reader.raw(fields) for fields in records], names, form, reader.threads)
        labels = np.array([fields[reader.label].int64_list.value[0] for fields in records], np.int64)
        low, high = labels.min(), labels.max()
        if low < 0 or high > LARGEST:
            got = f"{reader.label!r}, of which {split} has {short(low)} to {short(high)}"
            raise DataError(f"data.label_feature: got {got}, want class numbers from 0")
        return Examples(images, labels.astype(np.int32))

    def column(feature: str) -> np.ndarray:
        values: list[Any] = []
        for start in range(0, total, _BLOCK):
            for fields in parsed(np.arange(start, min(start + _BLOCK, total))):
                held = fields[feature]
                texts = (text.decode(errors="backslashreplace") for text in held.bytes_list.value)
                values += held.int64_list.value or texts
        return np.array(values)

    first = reader.raw(parsed(np.zeros(1, np.int64))[0])
    form = form_of(first, f"{reader.prepared} {split} record 0", reader.size, reader.channels())
    clients = (lambda: column(reader.client)) if reader.client else None
    return Listing(total, form.shape, read, lambda: column(reader.label), clients)


def _leaves(features: Any, above: str = "") -> dict[str, Any]:
    """Every feature by its name; those within features by names joined with '/', as records have them."""
    found: dict[str, Any] = {}
    for name, feature in features.items():
        path = f"{above}{name}"
        found |= _leaves(feature, f"{path}/") if hasattr(feature, "items") else {path: feature}
    return found


def _check_features(features: dict[str, Any], config: DataConfig, chosen: TfdsSet, tfds: Any) -> None:
    wanted = {"image": config.image_feature, "label": chosen.label, "client": config.client_feature}
    for kind, name in wanted.items():
        if name not in features and (name or kind != "client"):
            known = ", ".join(sorted(features))  # records keep no order of features
            raise DataError(f"data.{kind}_feature: got {name!r}, want one of {known}: data.source is {config.source}")

    def refuse(kind: str, want: str) -> None:
        got = f"{features[wanted[kind]].shape} {np.dtype(features[wanted[kind]].np_dtype)}"
        raise DataError(f"data.{kind}_feature: got {wanted[kind]!r}, which is {got}, want {want}")

    image, label = features[wanted["image"]], features[wanted["label"]]
    fixed = isinstance(image, tfds.features.Tensor) and len(image.shape) in (2, 3) and None not in image.shape
    if image.np_dtype != np.uint8 or not (isinstance(image, tfds.features.Image) or fixed):
        refuse("image", "an image of 8 bits")
    if label.shape != () or np.dtype(label.np_dtype).kind not in "iub":
        refuse("label", "one whole number or truth value")
    client = features.get(config.client_feature)
    if client and (client.shape != () or np.dtype(client.np_dtype).kind not in "iuOSU"):
        refuse("client", "one whole number or text")


def _splits(config: DataConfig, chosen: TfdsSet, splits: list[str]) -> tuple[str, str | None]:
    """The training split and the test split; None where a share of the former is to be held out."""
    if "train" not in splits:
        raise DataError(f"{config.source}: got the splits {', '.join(splits)}, want one called train")
    if chosen.test and chosen.test not in splits:
        raise DataError(f"data.test_split: got {chosen.test!r}, want one of {', '.join(splits)}")
    return "train", chosen.test or next((name for name in ("test", "validation") if name in splits), None)


def _missing_package(error: BaseException | None) -> str:
    """The package whose absence lies behind an error; "" where that is not it."""
    while error is not None:
        if isinstance(error, ImportError):
            return (error.name or "tensorflow").partition(".")[0]
        error = error.__cause__ or error.__context__
    return ""


def _one_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]
