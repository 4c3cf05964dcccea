"""Small idx files of the form that Fashion-MNIST comes in, written by the tests themselves."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

WriteIdx = Callable[[Path, np.ndarray], None]


def idx_bytes(array: np.ndarray) -> bytes:
    """The array as a plain idx file; written independently of the reader under test."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_idx() -> WriteIdx:
    """Writes an idx file, gzipped where its name ends in .gz."""

    def write(path: Path, array: np.ndarray) -> None:
        content = idx_bytes(array)
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def idx_arrays() -> dict[str, np.ndarray]:
    """Seventy training and thirty test images of random bytes, by the names of the four files."""
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (70, 28, 28)),
        "train-labels-idx1-ubyte": rng.permutation(70) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28)),
        "t10k-labels-idx1-ubyte": rng.permutation(30) % 10,
    }


@pytest.fixture
def idx_folder(tmp_path: Path, write_idx: WriteIdx, idx_arrays: dict[str, np.ndarray]) -> Path:
    """A folder with the four files, two of them gzipped."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, array in idx_arrays.items():
        write_idx(folder / (f"{name}.gz" if "images" in name else name), array)
    return folder
