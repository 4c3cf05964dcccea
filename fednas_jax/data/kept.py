"""Data sets, and their clients, that outlive a run, for processes that do one run after another (`runtime.shelf`).

Only what a config says in full is kept: nothing that code of the user's own makes. Files are told by their sizes and
times, so that data which changes between two runs is read again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable
from pathlib import Path

import numpy as np

from fednas_jax.config import needs, registries
from fednas_jax.config.schema import SYNTHETIC, DataConfig
from fednas_jax.data.examples import Dataset
from fednas_jax.data.packed import PackedClients, pack
from fednas_jax.data.partitions import partition
from fednas_jax.data.skew import feature_skew
from fednas_jax.data.sources import SOURCES, load
from fednas_jax.runtime.shelf import Shelf, keeping

SHARE = 1 / 8  # of the memory, that data may take in order to be kept
MOST_FILES = 1000  # of a data set that are looked at

_DATASETS: Shelf[Dataset] = Shelf(most=1)
_CLIENTS: Shelf[PackedClients] = Shelf(most=2)


def load_kept(config: DataConfig, seed: int) -> Dataset:
    """`load`, or what it returned before."""
    return _DATASETS.get(_key(config, seed), lambda: load(config, seed))[0]


def clients_of(dataset: Dataset, config: DataConfig, seed: int, given: bool) -> PackedClients:
    """The clients of a run, divided and packed, or those that were before.

    Args:
      dataset: whose training examples they hold.
      config: how they are divided.
      seed: of the run.
      given: whether the data set is the caller's own.
    """

    def make() -> PackedClients:
        divided = partition(dataset.train.labels, config, seed, dataset.natural)
        skew = feature_skew(config, len(divided.offsets) - 1, seed)
        return pack(dataset.train, divided, config.validation, seed, skew)

    whole = None if given else _key(config, seed)
    own = registries.PARTITIONS.checksum(config.partition) is not None
    small = isinstance(dataset.train.inputs, np.memmap) or _fits(dataset.train.inputs.nbytes)
    return _CLIENTS.get((whole, config, seed) if whole and small and not own else None, make)[0]


def _key(config: DataConfig, seed: int) -> Hashable | None:
    """All that a data set depends on; None where that cannot be told, or nothing is kept: it looks at files."""
    if not keeping() or config.source not in SOURCES:
        return None
    source = SOURCES[config.source]
    folder = config.folder if config.source == "columns" else source.folder and source.folder(config.root)
    stamps = () if folder is None else _stamps(Path(folder))
    if stamps is None:
        return None
    # How examples are divided is no part of it; whatever else a config may get is.
    divided = {"clients", "partition", "alpha", "shards_per_client", "classes_per_client", "validation", "min_examples"}
    divided |= {"size_sigma", "size_power", "brightness_sigma", "rotation_degrees"}
    fields = [f.name for f in dataclasses.fields(config) if f.name not in divided]
    values = tuple((name, getattr(config, name)) for name in fields)
    # What is made up depends on the seed, and comes from clients only where they are asked for.
    made = (seed, config.partition == "natural") if config.source in SYNTHETIC else None
    return values, made, stamps


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...] | None:
    """Name, size and time of every file below a folder; None where there are too many, or it takes too much memory."""
    found = []
    for home, _, names in os.walk(folder):
        for name in names:
            path = Path(home) / name
            try:
                about = path.stat()
            except OSError:
                return None
            found.append((str(path), about.st_size, about.st_mtime_ns))
            if len(found) > MOST_FILES:
                return None
    return tuple(sorted(found)) if _fits(sum(size for _, size, _ in found)) else None


def _fits(size: int) -> bool:
    most = needs.memory()
    return most is None or size <= SHARE * most
