"""The devices of all hosts as a mesh, and arrays placed on it. Letters: D devices of all hosts, H hosts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fednas_jax.errors import DeviceError
from fednas_jax.runtime import hosts

HOSTS, DEVICES = "hosts", "devices"
EACH = P((HOSTS, DEVICES))  # an array [D, ...]: every device its own
HOST = P(HOSTS)  # an array [H, ...]: every host its own, all its devices the same
ALL = P()


class Layout(NamedTuple):
    """The mesh, and where in it this process is."""

    mesh: Mesh
    host: int  # row of the mesh with this process's devices

    @property
    def hosts(self) -> int:
        """Number of hosts H."""
        return self.mesh.devices.shape[0]

    @property
    def devices(self) -> int:
        """Number of devices of each host."""
        return self.mesh.devices.shape[1]

    @property
    def local(self) -> range:
        """Numbers of this process's devices among all D."""
        return range(self.host * self.devices, (self.host + 1) * self.devices)


def layout_of(devices: Sequence[jax.Device]) -> Layout:
    """The layout of these devices.

    Raises:
      DeviceError: as `mesh_of`.
    """
    mesh = mesh_of(devices)
    return Layout(mesh, [d.process_index for d in mesh.devices[:, 0]].index(mesh.local_devices[0].process_index))


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Hosts x devices of each, in the order of the processes.

    Raises:
      DeviceError: where hosts have different numbers of devices.
    """
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    found, number = np.unique([d.process_index for d in ordered], return_counts=True)
    if len(set(number.tolist())) > 1:
        raise DeviceError(f"devices: got {number.tolist()} of the hosts {found.tolist()}, want as many of each host")
    return Mesh(np.asarray(ordered).reshape(len(found), -1), (HOSTS, DEVICES))


def memory_of(device: jax.Device) -> int:
    """Bytes of memory that a device has; the fake devices of one CPU share the machine's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // len(jax.local_devices(backend=device.platform))


def least_memory(layout: Layout) -> int:
    """Bytes that a device of every host has: hosts of unequal memory must decide alike, or they would run apart."""
    own = memory_of(layout.mesh.local_devices[0])
    return own if layout.hosts == 1 else min(hosts.allgather(own))


def placed_each(layout: Layout, own: Sequence[np.ndarray]) -> jax.Array:
    """An array [D, ...] of which every device holds its own part; this process gives those of its devices, in order."""
    return _placed(layout, own, EACH, layout.mesh.size, layout.local.start)


def placed_host(layout: Layout, own: np.ndarray) -> jax.Array:
    """An array [H, ...] of which every host holds its own part, the same on all its devices."""
    return _placed(layout, [own], HOST, layout.hosts, layout.host)


def _placed(layout: Layout, own: Sequence[np.ndarray], spec: P, number: int, first: int) -> jax.Array:
    def part(at: Any) -> np.ndarray:
        return np.asarray(own[(at[0].start or 0) - first])[None]

    sharding = NamedSharding(layout.mesh, spec)
    return jax.make_array_from_callback((number, *np.shape(own[0])), sharding, part)


def everywhere(layout: Layout, tree: Any) -> Any:
    """The same tree on every device of every host."""
    sharding = NamedSharding(layout.mesh, ALL)
    if layout.hosts == 1:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])

    return jax.tree.map(place, tree)
