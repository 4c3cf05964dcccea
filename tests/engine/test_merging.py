"""Task lists of several runs become one and come apart again; each keeps its devices and its order."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.data import PackedClients
from fednas_jax.engine import lane_plan, merging
from fednas_jax.engine.tasks import Tasks


@st.composite
def runs(draw):
    """For each run: the slots of its stack, and its tasks, a client of each candidate at most once."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        slots, clients = draw(st.integers(1, 5)), draw(st.integers(1, 6))
        pairs = st.tuples(st.integers(0, slots - 1), st.integers(0, clients - 1))
        own = draw(st.lists(pairs, min_size=1, max_size=12, unique=True))
        found.append((slots, clients, Tasks(*np.array(own, np.int32).T)))
    return found


def firsts(runs):
    return np.cumsum([0, *(clients for _, clients, _ in runs)])[:-1].tolist()


@given(runs())
def test_a_merged_list_has_every_task_of_every_run(runs):
    both = merging.merged([tasks for *_, tasks in runs], firsts(runs))
    for n, ((_, _, own), first) in enumerate(zip(runs, firsts(runs), strict=True)):
        mine = slice(both.first_task[n], both.first_task[n + 1])
        np.testing.assert_array_equal(both.tasks.client[mine] - first, own.client)
        slot = both.tasks.candidate[mine] - both.first_slot[n]
        np.testing.assert_array_equal(both.slots[n][slot], own.candidate)
    assert both.number == len(np.unique(both.tasks.candidate))


@given(runs(), st.integers(0, 9))
def test_stacks_come_apart_as_they_were_put_together(runs, more):
    both = merging.merged([tasks for *_, tasks in runs], firsts(runs))
    stacks = [{"a": np.arange(slots) + 100.0 * n} for n, (slots, *_) in enumerate(runs)]
    whole = merging.picked(stacks, both.slots, both.number + more)
    assert whole["a"].shape == (both.number + more,)
    for stack, slots, first in zip(stacks, both.slots, both.first_slot, strict=True):
        back = merging.put_back(stack, slots, {"a": whole["a"] + 0.5}, first)["a"]
        changed = np.isin(np.arange(len(back)), slots)
        np.testing.assert_array_equal(back, stack["a"] + 0.5 * changed)


@given(runs(), st.integers(1, 3), st.integers(1, 3))
def test_each_list_keeps_its_devices_and_its_order(runs, devices, lanes):
    cuts = []
    for _, clients, tasks in runs:
        owner, rows = np.zeros(clients, int), np.full(clients, 9)
        steps = 1 + tasks.client % 3
        cuts.append(lane_plan.parts(steps, tasks.client, rows, owner, 1, devices, lanes, capacity=20))
    first = np.cumsum([0, *(len(tasks.client) for *_, tasks in runs)]).tolist()
    whole = merging.merged_cut(cuts, first, lanes)
    assert len(whole) == max(map(len, cuts))  # all fit
    for n, cut in enumerate(cuts):
        for device in range(devices):
            own = np.concatenate([part[device] for part in cut])
            all_of_device = np.concatenate([part[device] for part in whole])
            mine = all_of_device[(all_of_device >= first[n]) & (all_of_device < first[n + 1])]
            np.testing.assert_array_equal(mine - first[n], own)


def test_a_call_takes_no_more_than_a_table_has_room_for():
    cuts = [[[np.arange(100)], [np.arange(100, 150)]] for _ in range(4)]
    whole = merging.merged_cut(cuts, [0, 150, 300, 450], 1)
    assert [len(call[0]) for call in whole] == [200, 200, 150, 50]
    assert sorted(np.concatenate([call[0] for call in whole])) == list(range(600))


def clients(*labels):
    counts = [len(own) for own in labels]
    flat = np.concatenate(labels).astype(np.int32)
    images = flat[:, None, None, None].astype(np.uint8)
    offsets = np.cumsum([0, *counts])
    return PackedClients(images, flat, offsets, np.array([n - 1 for n in counts], np.int32))


def test_clients_of_the_same_partition_lie_there_once():
    one, other = clients([1, 2], [3, 4, 5]), clients([7, 8])
    honest, attack = np.zeros(2, bool), np.array([True, False])
    found = merging.union([one, other, clients([1, 2], [3, 4, 5]), one], [honest, np.zeros(1, bool), honest, attack])
    assert found.first == (0, 2, 0, 3)
    assert found.data.labels.tolist() == [1, 2, 3, 4, 5, 7, 8, 1, 2, 3, 4, 5]
    assert found.data.offsets.tolist() == [0, 2, 5, 7, 9, 12]
    assert found.data.train_count.tolist() == [1, 2, 1, 1, 2]
    assert found.client_ids.tolist() == [0, 1, 0, 0, 1]
    assert found.malicious.tolist() == [False, False, False, True, False]
