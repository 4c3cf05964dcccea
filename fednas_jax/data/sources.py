"""The registry of sources: which data sets there are, how each is loaded and, where needed, prepared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fednas_jax.config.schema import SYNTHETIC, DataConfig
from fednas_jax.data.columns import read_columns
from fednas_jax.data.digits import load_digits
from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.data.fashion_mnist import (
    is_prepared,
    load_fashion_mnist,
    prepare_fashion_mnist,
    prepared_folder,
)
from fednas_jax.data.offers import call
from fednas_jax.data.root import data_root
from fednas_jax.data.synthetic import load_synthetic
from fednas_jax.data.synthetic_texts import load_synthetic_tags, load_synthetic_texts
from fednas_jax.data.tfds_sets import PREFIX, TfdsSet, load_tfds, prepare_tfds, tfds_folder
from fednas_jax.errors import ConfigError, DataError
from fednas_jax.registry import Registry


@dataclass(frozen=True)
class Source:
    """How one data set is had. Those that are always there leave what is about preparing open."""

    description: str
    """One line."""
    load: Callable[[DataConfig, int], Dataset]
    """(config, seed of the run) -> the data set."""
    prepare: Callable[[Path | None, Path | None], Path] | None = None
    """(folder of original files, root of prepared data sets) -> folder of the prepared one."""
    prepared: Callable[[Path | None], bool] | None = None
    """Whether it is prepared under a root."""
    folder: Callable[[Path | None], Path] | None = None
    """Where it is prepared under a root."""
    fields: tuple[str, ...] = ()
    """Fields of the config, of those in `_OWN_FIELDS`, that it takes."""


class SourceStatus(NamedTuple):
    """One line of `fednas data`."""

    description: str
    """One line."""
    prepared: bool
    """Whether `load` works now."""


# Fields of the config that only some sources take; given to another, they are refused.
_OWN_FIELDS = ("image_size", "image_feature", "label_feature", "client_feature", "test_split")


def _tfds(known: TfdsSet, description: str) -> Source:
    """A source that TFDS prepares."""
    return Source(
        description,
        lambda config, seed: load_tfds(config, known),
        prepare=lambda source_dir, root: prepare_tfds(known.name, source_dir, root),
        prepared=lambda root: tfds_folder(known.name, root) is not None,
        folder=lambda root: tfds_folder(known.name, root) or data_root(root) / known.name,
        fields=_OWN_FIELDS,
    )


def _tfds_sources() -> dict[str, Source]:
    # Numbers of examples are those of TFDS's catalogue, https://www.tensorflow.org/datasets/catalog.
    found = {
        "mnist": _tfds(TfdsSet("mnist"), "70,000 handwritten digits of 28x28x1, 10 classes"),
        "kmnist": _tfds(TfdsSet("kmnist"), "70,000 handwritten Japanese characters of 28x28x1, 10 classes"),
        "cifar10": _tfds(TfdsSet("cifar10"), "60,000 photographs of 32x32x3, 10 classes"),
        "cifar100": _tfds(TfdsSet("cifar100"), "60,000 photographs of 32x32x3, 100 classes"),
        "svhn_cropped": _tfds(TfdsSet("svhn_cropped"), "99,289 house-number digits of 32x32x3, 10 classes"),
        "celeb_a": _tfds(
            TfdsSet("celeb_a", label="attributes/Smiling", client="identity/Identity_No"),
            "202,599 faces of 218x178x3, smiling or not (data.label_feature), clients by identity",
        ),
        "imagenet2012": _tfds(
            TfdsSet("imagenet2012", test="validation"),
            "1,331,167 photographs of any size (data.image_size), 1,000 classes; its archives are to be given (--from)",
        ),
    }
    for side in (32, 64):
        name = f"imagenet_resized/{side}x{side}"
        found[name] = _tfds(TfdsSet(name), f"1,331,167 photographs of {side}x{side}x3, 1,000 classes")
    for config in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist"):
        name = f"emnist/{config}"
        found[name] = _tfds(TfdsSet(name), f"handwritten characters of 28x28x1, EMNIST's division {config}")
    return found


SOURCES: dict[str, Source] = {
    "digits": Source(
        "1,797 handwritten digits of 8x8x1, 10 classes, from scikit-learn: works offline",
        lambda config, seed: load_digits(),
    ),
    "fashion_mnist": Source(
        "70,000 pieces of clothing of 28x28x1, 10 classes, prepared once from local idx files",
        lambda config, seed: load_fashion_mnist(config.root),
        prepare=lambda source_dir, root: _prepare_fashion_mnist(source_dir, root),
        prepared=is_prepared,
        folder=prepared_folder,
    ),
    "synthetic": Source(
        "noisy shifted templates of any shape, number and number of classes, made from the run's seed",
        load_synthetic,
    ),
    "synthetic_texts": Source(
        "texts of any length, number and number of classes, made from the run's seed, one class each",
        load_synthetic_texts,
    ),
    "synthetic_tags": Source(
        "such texts, every position's class that of the token which follows",
        load_synthetic_tags,
    ),
    "columns": Source(
        "your own .npy columns in the folder data.folder, memory-mapped: may be larger than memory, may name clients",
        lambda config, seed: _load_columns(config),
    ),
    **_tfds_sources(),
}
"""Name -> source, of the project's own."""

OWN: Registry[Callable[..., Dataset]] = Registry("data.source", "data source", {})
"""What users registered, and their `MODULE:FUNCTION`."""

_DESCRIPTIONS: dict[str, str] = {}

GIVEN = "dataset:"
"""Begins the source of a run on data that is given in Python; a checksum of the data follows."""

ANY_TFDS = f"{PREFIX}NAME"
"""How any other set of TFDS is named."""


def register_source(name: str, make: Callable[..., Dataset], description: str = "your own") -> None:
    """Makes a data set known by name in this process, for `data.source`.

    A function that stands in a file needs no registration: `data.source` takes its `MODULE:FUNCTION`.

    Args:
      name: that no other source has.
      make: (seed of the run) -> `from_arrays(...)`. It may have more arguments, which the config gives in parentheses,
        as in `mine(examples=500)`; one called `config` gets the `DataConfig`.
      description: one line for `fednas data list`.

    Raises:
      ConfigError: the name is taken or none.
    """
    if name in SOURCES:
        raise ConfigError(f"data.source: got {name!r}, which is registered already, want another name")
    OWN.register(name, make)
    _DESCRIPTIONS[name] = description


def load(config: DataConfig, seed: int) -> Dataset:
    """Loads the data set `config.source`.

    Args:
      config: the source's name or the user's function, the root of prepared data sets, the folder of columns and the
        synthetic data's sizes.
      seed: of the run; of the project's own only synthetic data depends on it.

    Raises:
      FednasError: an unknown source (the message lists those known), one not prepared or damaged, a field that it does
        not take, or a function of the user's own that fails or returns no data set.
    """
    source, default = _source(config.source), DataConfig()
    for name in _OWN_FIELDS:
        got, want = getattr(config, name), getattr(default, name)
        if got != want and name not in source.fields:
            raise DataError(f"data.{name}: got {got!r}, want {want!r}: data.source {config.source} does not take it")
    return source.load(config, seed)


def list_sources(root: Path | None = None) -> dict[str, SourceStatus]:
    """Every source by name, and whether it can be loaded now.

    Args:
      root: folder of prepared data sets; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    return {name: SourceStatus(source.description, _is_prepared(source, root)) for name, source in SOURCES.items()} | {
        name: SourceStatus(_DESCRIPTIONS[name], True) for name in OWN
    }


def prepare(name: str, source_dir: Path | None, root: Path | None = None) -> str:
    """Prepares a data set once, so that `load` finds it.

    Args:
      name: of the source.
      source_dir: folder of the original files; None where there is none to give.
      root: folder of prepared data sets; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Returns:
      One line that says what was done: prepared in which folder, already prepared in which (nothing changes),
      or nothing to do.

    Raises:
      DataError: an unknown source, no folder given where one is needed, or files that are missing or broken.
    """
    source = _source(name)
    if source.prepare is None or source.prepared is None or source.folder is None:
        return f"{name}: needs no preparation"
    if source.prepared(root):
        return f"{name}: already prepared in {source.folder(root)}"
    return f"{name}: prepared in {source.prepare(source_dir, root)}"


def _is_prepared(source: Source, root: Path | None) -> bool:
    if source.prepared is None:
        return True
    try:
        return source.prepared(root)
    except DataError:  # there is no home directory in which it could be
        return False


def source_checksum(name: str) -> str | None:
    """SHA-256 of the code of a source that is the user's own, as `Registry.checksum`; None for the project's own.

    Data that is given has no code; its name holds a checksum of the data.
    """
    return None if name in SOURCES or name.startswith((PREFIX, GIVEN)) else OWN.checksum(name)


def seeded(name: str) -> bool:
    """Whether a source's data may be other data for another seed: it is made up, or by code of the user's own."""
    return name in SYNTHETIC or not (name in SOURCES or name.startswith((PREFIX, GIVEN)))


def _load_columns(config: DataConfig) -> Dataset:
    if config.folder is None:
        raise DataError("data.folder: got none, want the folder with the columns: data.source is columns")
    return read_columns(config.folder)


def _prepare_fashion_mnist(source_dir: Path | None, root: Path | None) -> Path:
    if source_dir is None:
        raise DataError("data prepare fashion_mnist: got no folder, want --from DIR with its original files")
    return prepare_fashion_mnist(source_dir, root)


def _source(name: str) -> Source:
    if name.startswith(PREFIX):
        return _tfds(TfdsSet(_tfds_name(name)), "a set of TFDS")
    if name in SOURCES:
        return SOURCES[name]
    if ":" not in name and name.partition("(")[0].strip() not in OWN:
        known = ", ".join((*SOURCES, *OWN))
        raise DataError(f"data.source: got {name!r}, want one of {known}, {ANY_TFDS}, or MODULE:FUNCTION for your own")
    return Source("your own", lambda config, seed: _load_own(name, config, seed))


def _load_own(name: str, config: DataConfig, seed: int) -> Dataset:
    """What the user's function makes, checked as every data set is, since she may have built the record by herself."""
    data = call(OWN.get(name), seed, config=config)
    if not isinstance(data, Dataset):
        raise DataError(f"data.source: {name}: got {type(data).__name__}, want a Dataset, as fn.from_arrays makes it")
    return dataset(
        data.name,
        Examples(*data.train),
        Examples(*data.test),
        data.classes,
        (data.mean, data.std),
        data.natural,
        data.class_names,
        data.tokens,
        data.vocabulary,
    )


def _tfds_name(name: str) -> str:
    """What stands after the prefix, if it is a name: it becomes part of a path."""
    bare = name.removeprefix(PREFIX)
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", bare):
        raise DataError(f"data.source: got {name!r}, want {ANY_TFDS} or {ANY_TFDS}/CONFIG")
    return bare
