"""What libraries raise of damaged files becomes one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fednas_jax.errors import DataError

_MOST = 160  # letters of a library's reason
_LONGEST = 900  # letters of a message


@contextlib.contextmanager
def reading(path: Path, want: str) -> Iterator[None]:
    """Reads a file of a stranger: whatever is raised is a `DataError`.

    Readers of archives and tables raise a dozen kinds of errors for damaged files, without a common base.

    Args:
      path: of the file.
      want: what it should be.

    Raises:
      DataError: one line that names the file and the reason.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}), want {want}") from error


def reason(error: Exception) -> str:
    """Why a library cannot read a file, in few words."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(said).split())[:_MOST]


def printable(text: str) -> str:
    """A message in one line, of which nothing reaches the terminal but letters: files have names of anything."""
    found = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}..."
