"""The cores of this machine's processor, each a jax device of its own. Nothing here touches accelerators."""

from __future__ import annotations

import os
from typing import Any

# Every device holds its own clients' data and sums, [K, ...]: beyond some, memory is worth more than a device. The
# devices still share all cores among them.
MOST_DEVICES = 8


def number() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> None:
    """Makes the processor one jax device for each core, at most 8; to be called before jax is used.

    XLA shares a large operation among the cores, but much of a small network's step is small or not shared at all:
    two clients on two devices took two cores 10 to 40 % less time than one after another on one device
    (docs/performance.md). Where jax is in use already, or was told how many devices it has (JAX_NUM_CPU_DEVICES,
    XLA_FLAGS), nothing changes. Which device trains a client changes no result but the order of sums.
    """
    import jax

    config: Any = jax.config
    if config.jax_num_cpu_devices >= 0 or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        config.update("jax_num_cpu_devices", min(number(), MOST_DEVICES))
    except RuntimeError:  # in use: its devices are what they are
        return
