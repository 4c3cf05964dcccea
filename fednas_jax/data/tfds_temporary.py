"""A temporary folder that goes when TFDS has gone: it makes one for every builder of a new set, and leaves it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from fednas_jax.files import temporary_folder


@contextlib.contextmanager
def tidied() -> Iterator[None]:
    """Whatever this process puts among temporary files within it is removed at its end.

    Source: TFDS 4.9.10, `DatasetInfo.initialize_from_bucket`, calls `mkdtemp` and forgets the folder.
    """
    before = tempfile.tempdir
    with temporary_folder("fednas-tfds-") as folder:
        tempfile.tempdir = str(folder)
        try:
            yield
        finally:
            tempfile.tempdir = before
