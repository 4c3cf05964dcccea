"""What is kept from one run to the next on this machine: compiled programs, and what was measured of the machine.

Nothing here is needed: the folder may be deleted at any time, and a machine without a place for it goes without.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import jax
import jaxlib

LEAST_COMPILE_SECONDS = 0.5  # programs that compile faster are not worth a file

_log = logging.getLogger(__name__)


def folder() -> Path:
    """$XDG_CACHE_HOME/fednas_jax/MACHINE, else ~/.cache/fednas_jax/MACHINE; where neither can be written, one for now.

    MACHINE names jaxlib's version and the processor: code compiled by another jaxlib, or for another processor in a
    home that machines share, has crashed programs that loaded it (jax issue 38445, XLA issue 44565).
    """
    return _root() / "fednas_jax" / f"jaxlib-{jaxlib.version.__version__}-{_processor()}"


def keep_compiled_programs() -> None:
    """Turns jax's persistent compilation cache on, unless the user gave it a folder or turned it off."""
    config: Any = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    config.update("jax_compilation_cache_dir", str(folder() / "programs"))
    config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_SECONDS)


def _root() -> Path:
    """Where caches are; a folder that lasts as long as the process where there is no home or it cannot be written."""
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:  # a user without a home, as in containers
        return _for_now(str(error))
    return root if _writable(root / "fednas_jax") else _for_now(f"{root} cannot be written")


@functools.cache
def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def _for_now(why: str) -> Path:
    """A folder that goes with the process; said once."""
    _log.warning("no cache is kept: %s (XDG_CACHE_HOME names another place)", " ".join(why.split()))
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="fednas-cache-"))
    return Path(_TEMPORARY[-1].name)


_TEMPORARY: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@functools.cache
def _processor() -> str:
    """A short name of this machine's kind of processor: its features decide what compiled code may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        facts = sorted(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))
    except OSError:  # not Linux
        facts = [platform.processor()]
    return hashlib.sha256("\n".join([platform.machine(), *facts]).encode()).hexdigest()[:12]
