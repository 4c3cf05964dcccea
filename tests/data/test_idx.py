"""idx files are read exactly, and every way of being broken is told in one line that names the file."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fednas_jax.data.idx import read_idx
from fednas_jax.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + IMAGES.tobytes()


@pytest.mark.parametrize("name", ["images", "images.gz", "misnamed.txt"])
def test_plain_and_gzipped_files_are_read_alike_whatever_their_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(WHOLE if name == "images" else gzip.compress(WHOLE, mtime=0))
    read = read_idx(path, 3)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, IMAGES)


def test_a_file_written_by_numpy_is_read_back(tmp_path: Path, write_idx) -> None:
    labels = np.arange(256)
    write_idx(tmp_path / "labels.gz", labels)
    np.testing.assert_array_equal(read_idx(tmp_path / "labels.gz", 1), labels)


@pytest.mark.parametrize(
    ("content", "got", "want"),
    [
        (b"", "magic number 0x,", "0x00000803"),
        (b"\x00\x00\x08\x01" + WHOLE[4:], "0x00000801", "0x00000803"),
        (b"\x00\x00\x0d\x03" + WHOLE[4:], "0x00000d03", "0x00000803"),
        (WHOLE[:10], "header of 10 bytes", "16"),
        (WHOLE[:-1], "got 23 bytes", "want 24 as it says (2x3x4)"),
        (WHOLE + b"x", "got more bytes", "want 24"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "truncated gzip", "whole file"),
        (gzip.compress(WHOLE, mtime=0)[:12], "truncated gzip", "whole file"),
        (gzip.compress(WHOLE, mtime=0)[:-8] + bytes(8), "broken or truncated gzip", "whole file"),
        (gzip.compress(WHOLE, mtime=0)[:10] + bytes([255] * 20), "broken or truncated gzip", "whole file"),
        (gzip.compress(WHOLE[:-5], mtime=0), "got 19 bytes", "want 24"),
    ],
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, got: str, want: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(path, 3)
    message = str(error.value)
    assert message.startswith(str(path))
    assert got in message
    assert want in message
    assert "\n" not in message


def test_an_unreadable_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent: cannot be read"):
        read_idx(tmp_path / "absent", 1)
