"""The idx file format of the MNIST family, plain or gzipped, read strictly.

Format (Y. LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8: unsigned bytes), the
number of dimensions, each dimension as a big-endian 32-bit number, then the values, last dimension fastest.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fednas_jax.errors import DataError

_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"


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
    content = _content(path)
    magic = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    header = 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(f"{path}: got magic number 0x{content[:4].hex()}, want 0x{magic.hex()}")
    if len(content) < header:
        raise DataError(f"{path}: got a header of {len(content)} bytes, want {header}")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    got, want = len(content) - header, math.prod(shape)
    if got != want:
        text = "x".join(map(str, shape))
        raise DataError(f"{path}: got {got} bytes after the header, want {want} as it says ({text})")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), want an idx file") from error
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: got broken or truncated gzip ({error}), want a whole file") from error
