"""What compressed files may expand to: a small archive must not fill the memory of the machine that opens it."""

from __future__ import annotations

from fednas_jax.config import needs
from fednas_jax.errors import DataError

SHARE = 0.5
"""Of the machine's memory, that an archive may take by default."""

_UNKNOWN = 8 << 30  # bytes of memory that a machine is taken to have which does not say


def check_expansion(where: object, size: int, gigabytes: float | None = None) -> None:
    """Refuses an archive that takes more than a share of the memory, or than the user allows.

    Args:
      where: the file, for the message.
      size: in bytes, unpacked, as it says or as was read so far.
      gigabytes: that the user allows; None: `SHARE` of the memory.

    Raises:
      DataError: it takes more.
    """
    most = SHARE * (needs.memory() or _UNKNOWN) if gigabytes is None else gigabytes * 1e9
    if size > most:
        why = "as --most-gigabytes says" if gigabytes is not None else f"{SHARE:.0%} of this machine's memory"
        got = f"{size / 1e9:.3g} GB, unpacked" if size < 1e15 else "a size that no machine holds"
        raise DataError(f"{where}: got {got}, want at most {most / 1e9:.3g} GB ({why})")
