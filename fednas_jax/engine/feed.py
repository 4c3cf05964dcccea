"""Where the clients' examples lie: on the devices for the whole run, or sent to them part by part.

Numpy and host memory only; the fleet places what it gets here. Letters: C clients, N examples, T tasks, H hosts.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from fednas_jax.data import PackedClients
from fednas_jax.engine.lane_plan import TASKS_PER_LANE, deal

BUFFER_BYTES = 256 << 20  # most that one part's examples take on a device


class Share(NamedTuple):
    """The rows of each client that a kind of task reads."""

    begin: np.ndarray
    """[C] int64 first packed row."""
    size: np.ndarray
    """[C] int32 number of rows."""


class Feed:
    """Knows for each client which host holds it, and gathers its rows.

    Args:
      data: the clients.
      hosts: number of hosts H; each holds its own part of the clients.
      host: this one.
      memory: bytes on a device that the examples may take; data that is larger, or on disk, is streamed.
      lanes: of a device; sizes the streaming buffer.
    """

    def __init__(self, data: PackedClients, hosts: int, host: int, memory: int, lanes: int):
        self._data, self._host = data, host
        sizes = np.diff(data.offsets)
        self.owner = deal(sizes, hosts) if hosts > 1 else np.zeros(len(sizes), np.int32)
        self.train = Share(data.offsets[:-1], data.train_count)
        self.validation = Share(data.offsets[:-1] + data.train_count, data.val_count)
        held = np.bincount(self.owner, sizes, minlength=hosts).astype(np.int64)
        row = max(1, data.nbytes // max(1, len(data.labels)))
        # Row numbers are 32 bits wide on the devices.
        self.resident = not data.on_disk and bool(held.max() * row <= memory and held.max() < 2**31)
        self.capacity: int | None = None
        self._held = int(held.max())
        if not self.resident:
            wanted = 1.25 * TASKS_PER_LANE * lanes * sizes.mean()
            bound = min(BUFFER_BYTES, memory // 3) // row if memory else BUFFER_BYTES // row
            self.capacity = int(max(sizes.max(), min(wanted, bound, sizes.sum())))

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """This host's clients' inputs [N, ...] and labels [N, ...]; the same N on every host. Only where resident."""
        inputs, labels = np.asarray(self._data.inputs), np.asarray(self._data.labels)
        if self._held == len(labels):
            return inputs, labels
        own = np.repeat(self.owner == self._host, np.diff(self._data.offsets))
        missing = self._held - int(own.sum())
        return tuple(np.pad(a[own], ((0, missing), *[(0, 0)] * (a.ndim - 1))) for a in (inputs, labels))  # type: ignore[return-value]

    def first_rows(self, share: Share) -> np.ndarray:
        """[C] where each client's rows of a share begin in its host's columns. Only where resident."""
        return share.begin + self._moved

    @functools.cached_property
    def _moved(self) -> np.ndarray:
        """[C] how far each client's rows lie in its host's columns from where they are packed."""
        sizes = np.diff(self._data.offsets)
        start = np.zeros(len(sizes), np.int64)
        for host in range(int(self.owner.max(initial=0)) + 1):
            own = self.owner == host
            start[own] = np.cumsum(sizes[own]) - sizes[own]
        return start - self._data.offsets[:-1]

    def gather(self, share: Share, client: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One device's buffer for a part: the rows of its tasks' clients, each client's once.

        Args:
          share: which rows.
          client: [T] client of each of the device's tasks.

        Returns:
          Inputs [capacity, ...] and labels [capacity, ...], padded; and where each task's rows begin, [T].
        """
        assert self.capacity is not None, "resident data is not gathered"
        clients, of = np.unique(client, return_inverse=True)
        sizes = share.size[clients].astype(np.int64)
        start = np.cumsum(sizes) - sizes
        rows = np.repeat(share.begin[clients] - start, sizes) + np.arange(sizes.sum())
        inputs = np.zeros((self.capacity, *self._data.inputs.shape[1:]), self._data.inputs.dtype)
        labels = np.zeros((self.capacity, *self._data.labels.shape[1:]), self._data.labels.dtype)
        inputs[: len(rows)], labels[: len(rows)] = self._data.take(rows)
        return inputs, labels, start[of]
