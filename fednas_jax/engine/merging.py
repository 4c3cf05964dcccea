"""Several runs' tasks as one list, and the answers taken apart again. Host code, numpy only.

What a run asks for keeps the order that it has alone: its tasks stay on the devices that it would deal them to, and
follow each other as they would. So with one lane a run's sums do not depend on its company. Letters: K slots of a
run's stack, T tasks, D devices, P parts (program calls).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fednas_jax.data import PackedClients
from fednas_jax.engine.lane_plan import SEGMENTS
from fednas_jax.engine.tasks import Tasks


class Union(NamedTuple):
    """The clients of several runs, those of runs that share a partition once."""

    data: PackedClients
    malicious: np.ndarray
    """[C] bool."""
    client_ids: np.ndarray
    """[C]: the number that each has in its run."""
    first: tuple[int, ...]
    """Of each run: where its client 0 is."""


def union(datas: Sequence[PackedClients], malicious: Sequence[np.ndarray]) -> Union:
    """The clients of several runs side by side.

    Args:
      datas: of each run, in memory.
      malicious: [C] bool of each.
    """
    places: dict[bytes, int] = {}
    different: list[int] = []
    first, clients = [], 0
    for number, (data, attacks) in enumerate(zip(datas, malicious, strict=True)):
        name = _fingerprint(data, attacks)
        if name not in places:
            places[name] = clients
            different.append(number)
            clients += data.clients
        first.append(places[name])
    some = [datas[n] for n in different]
    rows = np.cumsum([0, *(int(data.offsets[-1]) for data in some)])
    offsets = [data.offsets[:-1] + begin for data, begin in zip(some, rows[:-1], strict=True)]
    whole = PackedClients(
        np.concatenate([np.asarray(data.inputs) for data in some]),
        np.concatenate([np.asarray(data.labels) for data in some]),
        np.concatenate([*offsets, rows[-1:]]).astype(np.int64),
        np.concatenate([data.train_count for data in some]),
    )
    ids = np.concatenate([np.arange(data.clients) for data in some])
    return Union(whole, np.concatenate([malicious[n] for n in different]), ids, tuple(first))


def _fingerprint(data: PackedClients, malicious: np.ndarray) -> bytes:
    found = hashlib.sha256()
    for column in (data.offsets, data.train_count, malicious, data.labels, data.inputs):
        found.update(np.ascontiguousarray(column).data)
    return found.digest()


class Merged(NamedTuple):
    """Several task lists as one."""

    tasks: Tasks
    """Candidates are slots of the merged stack, clients those of the union."""
    slots: tuple[np.ndarray, ...]
    """[n] of each list: the slots of its own stack that have tasks, in ascending order."""
    first_slot: tuple[int, ...]
    """Of each list: where they begin in the merged stack."""
    first_task: tuple[int, ...]
    """Of each list, and behind the last."""

    @property
    def number(self) -> int:
        """Slots of the merged stack that are needed."""
        return sum(map(len, self.slots))


def merged(tasks: Sequence[Tasks], first_client: Sequence[int]) -> Merged:
    """Task lists one after another.

    Args:
      tasks: of each run.
      first_client: where each run's clients begin in the union.
    """
    slots = tuple(np.unique(own.candidate) for own in tasks)
    first_slot = np.cumsum([0, *map(len, slots)])
    candidates = [np.searchsorted(s, own.candidate) + n for own, s, n in zip(tasks, slots, first_slot, strict=False)]
    clients = [own.client + n for own, n in zip(tasks, first_client, strict=True)]
    whole = Tasks(np.concatenate(candidates).astype(np.int32), np.concatenate(clients).astype(np.int32))
    first_task = np.cumsum([0, *(len(own.client) for own in tasks)])
    return Merged(whole, slots, tuple(first_slot[:-1].tolist()), tuple(first_task.tolist()))


def merged_cut(cuts: Sequence[list[list[np.ndarray]]], first_task: Sequence[int], lanes: int) -> list[list[np.ndarray]]:
    """The program calls of several lists as few calls.

    Args:
      cuts: [P][D] of task numbers [n] of each list, at least one list.
      first_task: where each list begins in the merged one.
      lanes: of a device; a table has room for SEGMENTS x lanes tasks of each.

    Returns:
      [P][D] of numbers in the merged list. Each list's tasks are on the devices, and in the order, of its own cut.
    """
    found: list[list[list[np.ndarray]]] = []
    held: list[np.ndarray] = []  # [D] tasks of each call
    for cut, begin in zip(cuts, first_task, strict=False):
        least = 0  # a list's parts stay apart, in their order
        for part in cut:
            size = np.array([len(own) for own in part])
            fits = (n for n in range(least, len(found)) if np.all(held[n] + size <= SEGMENTS * lanes))
            call = next(fits, len(found))
            if call == len(found):
                found.append([[] for _ in part])
                held.append(np.zeros(len(part), int))
            for mine, own in zip(found[call], part, strict=True):
                mine.append(own + begin)
            held[call], least = held[call] + size, call + 1
    return [[np.concatenate(device) for device in call] for call in found]


def picked(trees: Sequence[Any], slots: Sequence[np.ndarray], size: int) -> Any:
    """Slots of several stacks as one stack [size, ...] on the host; the first fills it up.

    Args:
      trees: stacks of one form, [K, ...] each.
      slots: [n] of each.
      size: at least as many as there are slots.
    """

    def leaf(*leaves: Any) -> np.ndarray:
        chosen = [np.asarray(a)[s] for a, s in zip(leaves, slots, strict=True)]
        missing = size - sum(map(len, chosen))
        return np.concatenate([*chosen, np.repeat(chosen[0][:1], missing, 0)])

    return jax.tree.map(leaf, *trees)


def put_back(tree: Any, slots: np.ndarray, whole: Any, first: int) -> Any:
    """A run's stack with what became of its slots, on the host.

    Args:
      tree: [K, ...] as it was.
      slots: [n] of it.
      whole: the merged stack.
      first: where the slots begin in it.
    """

    def leaf(old: Any, new: Any) -> np.ndarray:
        changed = np.array(old)
        changed[slots] = np.asarray(new)[first : first + len(slots)]
        return changed

    return jax.tree.map(leaf, tree, whole)
