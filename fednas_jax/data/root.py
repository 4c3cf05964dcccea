"""Where prepared data sets are."""

from __future__ import annotations

import os
from pathlib import Path

from fednas_jax.errors import DataError


def data_root(root: Path | None) -> Path:
    """The folder of prepared data sets.

    Args:
      root: as the user gave it; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.

    Raises:
      DataError: the user has no home directory, and nothing else is given.
    """
    given = Path(root or os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets"))
    try:
        return given.expanduser()
    except RuntimeError:
        raise DataError(f"data.root: {given} has no home directory to be in, want a folder or $TFDS_DATA_DIR") from None


def cache_root() -> Path:
    """The folder of the user's caches: $XDG_CACHE_HOME, else ~/.cache.

    Raises:
      DataError: the user has no home directory, and none is given.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise DataError("XDG_CACHE_HOME: got none and there is no home directory, want a folder for caches") from None
