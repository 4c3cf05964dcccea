"""Imports as the tests of their kinds try them: what came of one, or that it was refused and left nothing."""

from pathlib import Path
from typing import Any

import pytest

from fednas_jax.data import Dataset, ImportOptions, import_data, read_columns
from fednas_jax.errors import DataError


def imported(kind: str, source: Path, **options: Any) -> tuple[Dataset, str]:
    """The data set, written beside its source, and what was said of it."""
    folder = source.parent / f"columns-{len(list(source.parent.iterdir()))}"
    said = import_data(kind, source, folder, ImportOptions(**{"test_share": 0.25, **options}))
    return read_columns(folder), said


def refused(kind: str, source: Path, message: str, **options: Any) -> None:
    """It is refused in one line that matches, and nothing is left beside its source."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(DataError, match=message) as error:
        import_data(kind, source, source.parent / "refused", ImportOptions(**{"test_share": 0.25, **options}))
    assert "\n" not in str(error.value)
    assert sorted(source.parent.iterdir()) == before
