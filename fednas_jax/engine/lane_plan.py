"""When each lane works on which task: a round's task list as tables that one compiled program steps through.

Host code, numpy only. A lane takes one task after another. The lanes of a device step together; between two steps there
may be a *boundary*, where lanes that are done hand in their updates and take their next task. A boundary costs time of
its own, a lane that waits for one costs lane-steps: the plan weighs the two. Letters: T tasks, L lanes of one device, D
devices, S segments (what lies between two boundaries), P parts (program calls).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SEGMENTS = 256  # rows of a part's table
TASKS_PER_LANE = 64  # in one part: long enough that lanes end nearly together
# What a boundary costs, in steps of all lanes: a low guess, with which about 3 % of lane-steps are idle at 8 tasks a
# lane (lognormal clients of 1 to 25 steps) and 1 % from 16 on.
BOUNDARY = 0.1
MOST_IDLE = 0.05  # share of lane-steps without work beyond which boundaries are taken to cost nothing


class Segments(NamedTuple):
    """What one device does in one part; rows beyond `number` are empty."""

    number: int
    length: np.ndarray
    """[S] int32: steps until the next boundary."""
    task: np.ndarray
    """[S, L] int32: the task in each lane, -1 in one without work."""
    begun: np.ndarray
    """[S, L] int32: steps of it done before; 0 where the lane takes it up."""


def segments(steps: np.ndarray, lanes: int, boundary: float = BOUNDARY) -> Segments:
    """Plans one device's lanes.

    Longest tasks are taken first, so that tasks that run side by side are about equally long and the short ones fill
    the end. A segment is as long as makes the lane-steps with work the largest share of what it and its boundary cost.

    Args:
      steps: [n] steps of each task, at least 1; at most SEGMENTS x L tasks.
      lanes: L.
      boundary: cost of a boundary in steps.

    Returns:
      The plan, in which every task's steps are run once, in order, in one lane.
    """
    plan = _greedy(steps, lanes, boundary)
    if _idle(plan, steps) > MOST_IDLE:  # rare, and mostly because tasks are few
        eager = _greedy(steps, lanes, 0)
        plan = eager if _idle(eager, steps) < _idle(plan, steps) else plan
    while plan.number > SEGMENTS:
        boundary = 2 * boundary + 1  # in the end every boundary waits for all lanes
        plan = _greedy(steps, lanes, boundary)
    return plan


def _idle(plan: Segments, steps: np.ndarray) -> float:
    """Share of the lane-steps that have no work."""
    return 1 - steps.sum() / max(1, plan.length.sum() * plan.task.shape[1])


def _greedy(steps: np.ndarray, lanes: int, boundary: float) -> Segments:
    order = np.argsort(-steps, kind="stable")
    task, left = np.full(lanes, -1), np.zeros(lanes, np.int64)
    length, tasks, begun, taken = [], [], [], 0
    while True:
        idle = np.flatnonzero(left == 0)
        new = order[taken : taken + len(idle)]
        taken += len(new)
        task[idle] = -1
        task[idle[: len(new)]], left[idle[: len(new)]] = new, steps[new]
        busy = task >= 0
        if not busy.any():
            break
        run = int(left.max())
        if taken < len(order):
            waits = np.sort(left[busy])
            useful = np.cumsum(waits) + waits * np.arange(len(waits) - 1, -1, -1)
            run = int(waits[np.argmax(useful / (waits + boundary))])
        length.append(run)
        tasks.append(task.copy())
        begun.append(np.where(busy, steps[task] - left, 0))
        left = np.maximum(left - run, 0)
    rows = max(SEGMENTS, len(length))
    plan = Segments(
        len(length),
        np.zeros(rows, np.int32),
        np.full((rows, lanes), -1, np.int32),
        np.zeros((rows, lanes), np.int32),
    )
    if length:
        plan.length[: len(length)], plan.task[: len(length)], plan.begun[: len(length)] = length, tasks, begun
    return plan


def deal(weights: np.ndarray, hands: int) -> np.ndarray:
    """Deals items to hands as cards: the heaviest first, to and fro, so that hands weigh about the same.

    Args:
      weights: [n].
      hands: number of hands H.

    Returns:
      [n] int32: the hand of each item.
    """
    order = np.argsort(-weights, kind="stable")
    place = np.arange(len(order)) % (2 * hands)
    hand = np.empty(len(order), np.int32)
    hand[order] = np.minimum(place, 2 * hands - 1 - place)
    return hand


def parts(
    steps: np.ndarray,
    client: np.ndarray,
    rows: np.ndarray,
    owner: np.ndarray,
    hosts: int,
    devices: int,
    lanes: int,
    capacity: int | None = None,
) -> list[list[np.ndarray]]:
    """Cuts a round into program calls, and each call's tasks among the devices.

    A client's tasks stay together in one part, up to TASKS_PER_LANE of them, so that its data is sent to a device once.

    Args:
      steps: [T] steps of each task; tasks of none are left out.
      client: [T] client of each task.
      rows: [C] rows of data that a task of the client reads.
      owner: [C] host that holds the client, whose devices do its tasks.
      hosts: number of hosts; host h has the devices h x devices to (h + 1) x devices - 1.
      devices: of each host.
      lanes: L.
      capacity: rows that a device has room for, at least those of the largest client; None: all lie there already.

    Returns:
      [P][D] of task numbers [n]: about TASKS_PER_LANE x L for each device, or fewer where their rows would not fit.
    """
    live = np.flatnonzero(steps)
    live = live[np.argsort(client[live], kind="stable")]
    bundle = _bundles(client[live])
    first = np.flatnonzero(np.diff(bundle, prepend=-1))
    weight, host = np.bincount(bundle, steps[live]), owner[client[live[first]]]
    widest = max(np.bincount(owner[client[live]], minlength=hosts)) if len(live) else 0
    pieces = -(-int(widest) // (TASKS_PER_LANE * lanes * devices))
    while True:
        piece = np.zeros(len(first), np.int32)
        for h in range(hosts):
            piece[host == h] = deal(weight[host == h], max(1, pieces))
        order = np.argsort(piece[bundle], kind="stable")
        cuts = np.searchsorted(piece[bundle][order], np.arange(1, pieces))
        dealt = [_among(live[some], steps, owner[client[live[some]]], hosts, devices) for some in np.split(order, cuts)]
        heaviest = max((rows[np.unique(client[t])].sum() for part in dealt for t in part), default=0)
        fullest = max((len(t) for part in dealt for t in part), default=0)
        # Bundles differ in their number of tasks, and a part of many full ones may have more than a table has rows.
        excess = max(fullest / (SEGMENTS * lanes), 0 if capacity is None else heaviest / capacity)
        if excess <= 1:
            return dealt[:pieces]
        pieces = max(pieces + 1 + pieces // 16, int(pieces * min(2, excess)))


def places(cut: list[list[np.ndarray]], tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each task's update is kept until a round's end: on its device, tasks in the order of its parts.

    Args:
      cut: [P][D] as `parts` gives it.
      tasks: T.

    Returns:
      [T] device and [T] place on it, -1 for tasks that were left out.
    """
    device, place = np.full(tasks, -1), np.full(tasks, -1)
    for number, own in enumerate(zip(*cut, strict=True)):
        mine = np.concatenate(own)
        device[mine], place[mine] = number, np.arange(len(mine))
    return device, place


def _among(tasks: np.ndarray, steps: np.ndarray, host: np.ndarray, hosts: int, devices: int) -> list[np.ndarray]:
    """One part's tasks among all devices, each host's among its own."""
    dealt = []
    for h in range(hosts):
        own = tasks[host == h]
        hand = deal(steps[own], devices)
        dealt += [own[hand == d] for d in range(devices)]
    return dealt


def _bundles(client: np.ndarray) -> np.ndarray:
    """[n] number of each task's bundle: a client's tasks, in bundles of at most TASKS_PER_LANE; clients are sorted."""
    start = np.diff(client, prepend=-1) != 0
    at = np.arange(len(client))
    rank = at - np.maximum.accumulate(np.where(start, at, 0))
    return np.cumsum(start | (rank % TASKS_PER_LANE == 0)) - 1
