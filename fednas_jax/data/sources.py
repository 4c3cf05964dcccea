"""The registry of sources: which data sets there are, how each is loaded and, where needed, prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fednas_jax.config import DataConfig
from fednas_jax.data.columns import read_columns
from fednas_jax.data.digits import load_digits
from fednas_jax.data.examples import Dataset
from fednas_jax.data.fashion_mnist import (
    is_prepared,
    load_fashion_mnist,
    prepare_fashion_mnist,
    prepared_folder,
)
from fednas_jax.data.synthetic import load_synthetic
from fednas_jax.errors import DataError


@dataclass(frozen=True)
class Source:
    """How one data set is had. Those that are always there leave the last three fields open."""

    description: str
    """One line."""
    load: Callable[[DataConfig, int], Dataset]
    """(config, seed of the run) -> the data set."""
    prepare: Callable[[Path, Path | None], Path] | None = None
    """(folder of original files, root of prepared data sets) -> folder of the prepared one."""
    prepared: Callable[[Path | None], bool] | None = None
    """Whether it is prepared under a root."""
    folder: Callable[[Path | None], Path] | None = None
    """Where it is prepared under a root."""


class SourceStatus(NamedTuple):
    """One line of `fednas data`."""

    description: str
    """One line."""
    prepared: bool
    """Whether `load` works now."""


SOURCES: dict[str, Source] = {
    "digits": Source(
        "1,797 handwritten digits of 8x8x1, 10 classes, from scikit-learn: works offline",
        lambda config, seed: load_digits(),
    ),
    "fashion_mnist": Source(
        "70,000 pieces of clothing of 28x28x1, 10 classes, prepared once from local idx files",
        lambda config, seed: load_fashion_mnist(config.root),
        prepare=prepare_fashion_mnist,
        prepared=is_prepared,
        folder=prepared_folder,
    ),
    "synthetic": Source(
        "noisy shifted templates of any shape, number and number of classes, made from the run's seed",
        load_synthetic,
    ),
    "columns": Source(
        "your own .npy columns in the folder data.folder, memory-mapped: may be larger than memory, may name clients",
        lambda config, seed: _load_columns(config),
    ),
}
"""Name -> source. A package of yours may add its own."""


def load(config: DataConfig, seed: int) -> Dataset:
    """Loads the data set `config.source`.

    Args:
      config: the source's name, the root of prepared data sets, the folder of columns and the synthetic data's
        sizes.
      seed: of the run; only synthetic data depends on it.

    Raises:
      DataError: an unknown source (the message lists those known), or one not prepared or damaged.
    """
    return _source(config.source).load(config, seed)


def list_sources(root: Path | None = None) -> dict[str, SourceStatus]:
    """Every source by name, and whether it can be loaded now.

    Args:
      root: folder of prepared data sets; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """
    return {
        name: SourceStatus(source.description, source.prepared is None or source.prepared(root))
        for name, source in SOURCES.items()
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
    if source_dir is None:
        raise DataError(f"data prepare {name}: got no folder, want --from DIR with its original files")
    return f"{name}: prepared in {source.prepare(source_dir, root)}"


def _load_columns(config: DataConfig) -> Dataset:
    if config.folder is None:
        raise DataError("data.folder: got none, want the folder with the columns: data.source is columns")
    return read_columns(config.folder)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise DataError(f"data.source: got {name!r}, want one of {', '.join(SOURCES)}")
    return SOURCES[name]
