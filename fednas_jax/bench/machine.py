"""The machine that is measured: what it is, what its matrix products reach, and its peak memory."""

from __future__ import annotations

import functools
import platform
import resource
import sys
import time
from collections.abc import Sequence
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
_PRODUCTS = 10  # measured; the best counts


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
    jax.block_until_ready([product(a, a) for a in there])
    best = float("inf")
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        jax.block_until_ready([product(a, a) for a in there])
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 * len(devices) / best


def peak_host_mib() -> float:
    """Peak resident memory of this process so far, in MiB (2^20 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def peak_device_mib(devices: Sequence[jax.Device]) -> float | None:
    """Peak memory of the fullest device so far, in MiB; None where the backend does not count it."""
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return max(peaks) / 2**20 if peaks else None
