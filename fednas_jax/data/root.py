"""Where prepared data sets are."""

from __future__ import annotations

import os
from pathlib import Path


def data_root(root: Path | None) -> Path:
    """The folder of prepared data sets.

    Args:
      root: as the user gave it; None takes $TFDS_DATA_DIR, else ~/tensorflow_datasets, as TFDS does.
    """
    return Path(root or os.environ.get("TFDS_DATA_DIR") or Path("~", "tensorflow_datasets")).expanduser()
