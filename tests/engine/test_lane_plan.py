"""Lanes' tables: every step of every task once and in order, with little waiting, whatever the tasks are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.engine import lane_plan as schedule
from fednas_jax.engine.lane_plan import SEGMENTS, TASKS_PER_LANE, deal, parts, segments

tasks_of_steps = st.lists(st.integers(1, 40), max_size=90).map(lambda steps: np.array(steps, np.int32))


def runs(plan, steps):
    """For each task [(lane, first step, end)] in the order of segments, as the lanes would run them."""
    found = {task: [] for task in range(len(steps))}
    for s in range(plan.number):
        for lane in np.flatnonzero(plan.task[s] >= 0):
            task, begun = int(plan.task[s, lane]), int(plan.begun[s, lane])
            found[task].append((int(lane), begun, min(begun + int(plan.length[s]), int(steps[task]))))
    return found


def idle_share(plan, steps, lanes):
    return 1 - steps.sum() / (plan.length.sum() * lanes)


@given(tasks_of_steps, st.integers(1, 9), st.sampled_from([0.0, 0.15, 1.0, 50.0]))
def test_every_step_runs_once_in_order_in_one_lane(steps, lanes, boundary):
    plan = segments(steps, lanes, boundary)
    for task, pieces in runs(plan, steps).items():
        assert len({lane for lane, _, _ in pieces}) == 1
        begins, ends = [begin for _, begin, _ in pieces], [end for *_, end in pieces]
        assert begins == [0, *ends[:-1]]
        assert ends[-1] == steps[task]
        assert all(begin < end for _, begin, end in pieces), "no lane holds a task that is finished"
    assert idle_share(plan, steps, lanes) >= 0 if len(steps) else plan.number == 0


@given(tasks_of_steps, st.integers(1, 9), st.sampled_from([0.0, 0.15, 1.0, 50.0]))
def test_tables_have_fixed_shapes_and_rows_beyond_their_number_are_empty(steps, lanes, boundary):
    plan = segments(steps, lanes, boundary)
    assert plan.number <= SEGMENTS
    assert [field.shape for field in plan[1:]] == [(SEGMENTS,), (SEGMENTS, lanes), (SEGMENTS, lanes)]
    assert all(field.dtype == np.int32 for field in plan[1:])
    assert (plan.length[: plan.number] > 0).all()
    assert (plan.task[: plan.number] >= 0).any(1).all(), "no segment without work"
    assert not plan.length[plan.number :].any()
    assert (plan.task[plan.number :] == -1).all()
    assert not plan.begun[plan.task == -1].any()


def test_a_small_plan_is_the_table_that_a_hand_would_write():
    # Longest first: 0 and 1 begin; 1 is done after 3 steps, 2 takes its lane, and 0 and 2 end together.
    plan = segments(np.array([5, 3, 2]), 2)
    assert plan.number == 2
    assert plan.length[:2].tolist() == [3, 2]
    assert plan.task[:2].tolist() == [[0, 1], [0, 2]]
    assert plan.begun[:2].tolist() == [[0, 0], [3, 0]]


def test_no_tasks_are_no_segments():
    plan = segments(np.zeros(0, np.int32), 4)
    assert plan.number == 0
    assert (plan.task == -1).all()


@given(st.lists(st.integers(1, 40), min_size=1, max_size=SEGMENTS))
def test_one_lane_never_idles_nor_divides_a_task(steps):
    steps = np.array(steps)
    plan = segments(steps, 1)
    assert plan.length.sum() == steps.sum()
    assert not plan.begun.any()
    assert sorted(plan.task[: plan.number, 0]) == list(range(len(steps)))


@pytest.mark.parametrize("lanes", [1, 3])
def test_as_many_tasks_as_a_table_holds_still_fit(lanes):
    steps = np.random.default_rng(0).integers(1, 60, SEGMENTS * lanes)
    plan = segments(steps, lanes)
    assert plan.number == SEGMENTS
    assert sum(end - begin for pieces in runs(plan, steps).values() for _, begin, end in pieces) == steps.sum()


@pytest.mark.parametrize("per_lane", [8, 16, 32])
@pytest.mark.parametrize("lanes", [4, 32, 64, 256])
def test_lanes_idle_less_than_5_percent_of_their_steps(lanes, per_lane):
    idle = []
    for seed in range(8):
        examples = np.random.default_rng(seed).lognormal(np.log(120), 0.5, lanes * per_lane).clip(20, 500)
        steps = np.ceil(examples / 20).astype(np.int32)
        idle.append(idle_share(segments(steps, lanes), steps, lanes))
    assert np.mean(idle) < 0.05
    assert max(idle) < 0.05


def test_dearer_boundaries_are_fewer():
    steps = np.random.default_rng(0).integers(1, 60, 200)
    numbers = [segments(steps, 10, boundary).number for boundary in (0.0, 1.0, 10.0, 1000.0)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 2 * numbers[-1]


@given(st.lists(st.integers(0, 1000), max_size=80), st.integers(1, 12))
def test_a_deal_gives_each_item_to_a_hand_and_hands_differ_by_one_item_at_most(weights, hands):
    weights = np.array(weights, np.int64)
    hand = deal(weights, hands)
    assert hand.shape == weights.shape
    assert hand.dtype == np.int32
    assert ((hand >= 0) & (hand < hands)).all()
    assert np.ptp(np.bincount(hand, minlength=hands)) <= 1
    assert np.ptp(np.bincount(hand, weights, hands)) <= weights.max(initial=0)


@st.composite
def rounds(draw):
    """A round's task list, its clients, hosts and devices."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 16)))
    clients, hosts, devices = draw(st.integers(1, 30)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rows = rng.integers(1, 50, clients)
    owner = deal(rows, hosts)
    client = rng.choice(clients, draw(st.integers(0, 200)), p=rng.dirichlet(np.full(clients, 0.5)))
    steps = np.where(rng.random(len(client)) < 0.1, 0, rng.integers(1, 30, len(client)))
    capacity = draw(st.sampled_from([None, int(rows.max()), int(2.5 * rows.max())]))
    return steps, client, rows, owner, hosts, devices, draw(st.integers(1, 3)), capacity


@given(rounds())
def test_each_task_with_steps_is_in_one_part_on_a_device_of_its_clients_owner(given_round):
    steps, client, rows, owner, hosts, devices, lanes, capacity = given_round
    cut = parts(*given_round)
    assert sorted(np.concatenate([t for part in cut for t in part] or [[]])) == np.flatnonzero(steps).tolist()
    for part in cut:
        assert len(part) == hosts * devices
        for device, mine in enumerate(part):
            assert (owner[client[mine]] == device // devices).all()
            assert capacity is None or rows[np.unique(client[mine])].sum() <= capacity
            assert segments(steps[mine], lanes).number <= SEGMENTS
        for host in range(hosts):
            loads = [steps[mine].sum() for mine in part[host * devices : (host + 1) * devices]]
            assert np.ptp(loads) <= steps.max()


@given(rounds())
def test_a_clients_tasks_are_together_unless_they_are_very_many(given_round):
    _, client, *_ = given_round
    cut = [client[np.concatenate(part)] for part in parts(*given_round)]
    for c in np.unique(client):
        tasks = np.count_nonzero(client == c)
        assert sum(bool((part == c).any()) for part in cut) <= -(-tasks // TASKS_PER_LANE)


def test_a_round_without_work_has_no_parts():
    nobody = np.zeros(0, np.int64)
    assert parts(nobody, nobody, np.array([3]), np.zeros(1, np.int32), 1, 2, 4) == []
    client = np.zeros(5, np.int64)
    assert parts(client, client, np.array([3]), np.zeros(1, np.int32), 1, 2, 4, 3) == []


@pytest.mark.parametrize(("hosts", "devices", "lanes"), [(1, 1, 4), (1, 8, 4), (2, 4, 8)])
def test_parts_are_as_large_as_asked_and_devices_end_together(hosts, devices, lanes):
    rng = np.random.default_rng(0)
    clients, candidates = 500, 12
    examples = rng.lognormal(np.log(120), 0.5, clients).clip(20, 500).astype(int)
    owner = deal(examples, hosts)
    client = np.tile(np.arange(clients), candidates)
    steps = -(-examples[client] // 20)
    cut = parts(steps, client, examples, owner, hosts, devices, lanes)
    wanted = TASKS_PER_LANE * lanes
    assert len(cut) == -(-len(client) // (wanted * hosts * devices))
    numbers = np.array([[len(mine) for mine in part] for part in cut])
    loads = np.array([[steps[mine].sum() for mine in part] for part in cut])
    assert numbers.max() <= 1.1 * wanted
    assert numbers.min() >= 0.7 * wanted
    for host in np.split(loads, hosts, axis=1):
        assert np.ptp(host.sum(axis=1)) <= candidates * steps.max(), "parts differ by one client at most"
    assert (np.ptp(loads, axis=1) < 0.06 * loads.mean()).all()


def test_less_room_makes_more_parts_but_not_many_more_than_the_rows_need():
    rng = np.random.default_rng(0)
    rows = rng.integers(20, 200, 400)
    client = np.repeat(np.arange(400), 3)
    owner = np.zeros(400, np.int32)
    for capacity in (200, 1000, 5000):
        cut = parts(rows[client] // 10, client, rows, owner, 1, 2, 4, capacity)
        sent = np.array([[rows[np.unique(client[mine])].sum() for mine in part] for part in cut])
        assert sent.max() <= capacity
    # Two devices share each client here: both are sent its rows.
    assert len(cut) <= 2 * rows.sum() / capacity


@pytest.mark.parametrize(("tasks", "lanes"), [(700, 1), (129, 1), (3000, 2)])
def test_one_client_with_hundreds_of_tasks_fits_tables_of_few_lanes(tasks, lanes):
    steps = np.random.default_rng(0).integers(1, 9, tasks)
    client = np.zeros(tasks, np.int64)
    cut = parts(steps, client, np.array([50]), np.zeros(1, np.int32), 1, 1, lanes, 50)
    assert [len(part[0]) for part in cut] == pytest.approx([tasks / len(cut)] * len(cut), abs=TASKS_PER_LANE)
    for (mine,) in cut:
        plan = segments(steps[mine], lanes)
        assert plan.length.sum() * lanes < steps[mine].sum() + 9 * lanes * plan.number


def test_clients_with_very_different_numbers_of_tasks_still_fit_the_tables():
    """The clients whose weights deal them into the first part have TASKS_PER_LANE tasks each, all others have one."""
    clients, pieces = 1955, 62
    crowded = deal(-np.arange(clients), pieces) == 0
    number = np.where(crowded, TASKS_PER_LANE, 1)
    # Weights fall from client to client, so that the deal is known.
    steps = np.concatenate([np.full(n, (clients - c) * TASKS_PER_LANE // n) for c, n in enumerate(number)])
    client = np.repeat(np.arange(clients), number)
    assert -(-len(client) // TASKS_PER_LANE) == pieces, "so many parts are what the tasks' number alone asks for"
    cut = parts(steps, client, np.ones(clients, int), np.zeros(clients, np.int32), 1, 1, 1)
    assert max(len(mine) for (mine,) in cut) <= SEGMENTS
    assert sum(len(mine) for (mine,) in cut) == len(steps)
    assert schedule.segments(steps[cut[0][0]], 1).number <= SEGMENTS


def test_every_update_has_a_place_of_its_own_on_the_device_that_made_it():
    rng = np.random.default_rng(0)
    steps, client = rng.integers(0, 9, 500), rng.integers(0, 40, 500)
    owner = rng.integers(0, 2, 40).astype(np.int32)
    cut = schedule.parts(steps, client, np.full(40, 10), owner, 2, 3, 1, 60)
    assert len(cut) > 1
    device, place = schedule.places(cut, 500)
    assert np.array_equal(device >= 0, steps > 0)
    assert np.array_equal(place >= 0, steps > 0)
    live = np.flatnonzero(steps)
    assert np.array_equal(device[live] // 3, owner[client[live]])
    for number in range(6):
        assert sorted(place[device == number]) == list(range((device == number).sum()))
