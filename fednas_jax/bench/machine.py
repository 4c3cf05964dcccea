"""The machine that is measured: what it is, what its matrix products and copies reach, and its peak memory."""

from __future__ import annotations

import functools
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.schema import TrainConfig
from fednas_jax.errors import ConfigError
from fednas_jax.runtime import cores

# Rows of the square matrices: large enough that a product is bound by arithmetic, and over in well under a second.
SIDE = {"cpu": 2048}
SIDE_OF_ACCELERATORS = 8192
# Bytes of the array that is copied: larger than any cache, and a copy is over in well under a second.
COPIED = {"cpu": 2**27}
COPIED_ON_ACCELERATORS = 2**30
_REPEATS = 10  # products and copies measured; the best counts


def some_devices(number: int) -> list[jax.Device]:
    """The first local devices; 0 for all.

    Raises:
      ConfigError: there are not so many.
    """
    there = jax.local_devices()
    if number > len(there):
        raise ConfigError(f"devices: got {number}, want at most {len(there)}: so many {there[0].platform} devices")
    return there[: number or None]


def describe(devices: Sequence[jax.Device]) -> dict[str, Any]:
    """Versions, processor and devices, as JSON values."""
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": cores.number(),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
    }


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def product_limit(devices: Sequence[jax.Device], train: TrainConfig) -> float:
    """FLOP/s of large square matrix products on all devices at once, the best of several.

    In the precision in which networks compute; float32 at jax's default is TF32 on recent NVIDIA hardware.
    """
    side = SIDE.get(devices[0].platform, SIDE_OF_ACCELERATORS)
    matrix = np.random.default_rng(0).standard_normal((side, side), np.float32).astype(jnp.dtype(train.precision))
    there = [jax.device_put(matrix, device) for device in devices]
    product = jax.jit(functools.partial(jnp.matmul, precision=train.matmul_precision))
    return 2 * side**3 * len(devices) / _best_seconds(lambda: [product(a, a) for a in there])


def copy_limit(devices: Sequence[jax.Device]) -> float:
    """Bytes/s of copies of a large array on all devices at once, each read and written; the best of several."""
    size = COPIED.get(devices[0].platform, COPIED_ON_ACCELERATORS)
    array = np.zeros(size // 4, np.float32)
    there = [jax.device_put(array, device) for device in devices]
    copy = jax.jit(jnp.negative)  # a copy alone might be left out, or be the allocator's business
    return 2 * array.nbytes * len(devices) / _best_seconds(lambda: [copy(a) for a in there])


def _best_seconds(work: Callable[[], Any]) -> float:
    """The fewest seconds that it took of several times, compilation apart."""
    jax.block_until_ready(work())
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(work())
        best = min(best, time.perf_counter() - began)
    return best


def peak_host_mib() -> float:
    """Peak resident memory of this process so far, in MiB (2^20 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def peak_device_mib(devices: Sequence[jax.Device]) -> float | None:
    """Peak memory of the fullest device so far, in MiB; None where the backend does not count it."""
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) / 2**20 if peaks else None
