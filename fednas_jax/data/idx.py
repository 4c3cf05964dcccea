"""The idx file format of the MNIST family, plain or gzipped, read strictly.

Format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8: unsigned bytes), the
number of dimensions, each dimension as a big-endian 32-bit number, then the values, last dimension fastest.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fednas_jax.data.bounds import check_expansion
from fednas_jax.errors import DataError

_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK = 1 << 20  # bytes read at once


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads a file of unsigned bytes.

    Args:
      path: an idx file; gzip is recognised by its content, not its name.
      dimensions: how many the file must have.

    Returns:
      uint8 array with the file's `dimensions` dimensions.

    Raises:
      DataError: one line that names the file, what was got and what was wanted: an unreadable file, broken
        gzip, a wrong magic number, or more or fewer values than the header says.
    """
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    length = 4 + 4 * dimensions
    with _opened(path) as file:
        header = file.read(length)
        if header[:4] != magic:
            raise DataError(f"{path}: got magic number 0x{header[:4].hex()}, want 0x{magic.hex()}")
        if len(header) < length:
            raise DataError(f"{path}: got a header of {len(header)} bytes, want {length}")
        shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, length, 4))
        want, text = math.prod(shape), "x".join(map(str, shape))
        check_expansion(path, want)
        content = _read(file, want + 1)  # one more, to see whether it ends there
    if len(content) != want:
        got = f"{len(content)} bytes" if len(content) < want else "more bytes"
        raise DataError(f"{path}: got {got} after the header, want {want} as it says ({text})")
    return np.frombuffer(content, np.uint8).reshape(shape)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file's content, unpacked where it is gzip; it is read as far as is asked for, and no further."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            yield gzip.GzipFile(fileobj=file) if packed else file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: got broken or truncated gzip ({error}), want a whole file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), want an idx file") from error


def _read(file: BinaryIO | gzip.GzipFile, most: int) -> bytes:
    """At most so many bytes, block by block: a header that promises more than there is takes no memory."""
    blocks = []
    while most > 0 and (block := file.read(min(most, _BLOCK))):
        blocks.append(block)
        most -= len(block)
    return b"".join(blocks)
