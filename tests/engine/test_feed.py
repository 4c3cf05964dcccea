"""Wherever the examples lie, a task finds exactly its client's rows, and no device gets more than it has room for."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.data import DiskRows, Examples, PackedClients
from fednas_jax.engine import feed
from fednas_jax.engine import lane_plan as schedule
from fednas_jax.engine.feed import Feed

BYTES = 2 * 1 * 1 + 4  # of one row: image and label


def numbered(sizes, validation=0.3):
    """Clients of these sizes; a row's label is its packed number, and its image says the same."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    numbers = np.arange(offsets[-1])
    images = np.stack([numbers % 256, numbers // 256], 1).astype(np.uint8)[:, :, None, None]
    held_out = np.rint(np.asarray(sizes) * validation).astype(int)
    return PackedClients(images, numbers.astype(np.int32), offsets, (sizes - held_out).astype(np.int32))


def on_disk(packed, folder):
    """The same clients, whose images are on disk in another order."""
    order = np.random.default_rng(0).permutation(len(packed.labels))
    np.save(folder / "images.npy", packed.inputs[np.argsort(order)])
    return packed._replace(inputs=DiskRows(np.load(folder / "images.npy", mmap_mode="r"), order))


def rows_of(packed, client, share):
    """The packed rows that a client's task reads, by the packed clients alone."""
    first, last, train = packed.offsets[client], packed.offsets[client + 1], packed.train_count[client]
    return np.arange(first, first + train) if share == "train" else np.arange(first + train, last)


def assert_rows(packed, images, labels, first, client, share):
    rows = rows_of(packed, client, share)
    assert np.array_equal(labels[first : first + len(rows)], rows)
    assert np.array_equal(images[first : first + len(rows)], packed.inputs[rows])


sizes_of_clients = st.lists(st.integers(2, 40), min_size=1, max_size=20).map(np.array)


@given(sizes_of_clients, st.integers(1, 3), st.sampled_from(["train", "validation"]))
def test_resident_columns_hold_each_clients_rows_where_its_places_say(sizes, hosts, share):
    packed = numbered(sizes)
    feeds = [Feed(packed, hosts, host, 1 << 30, 4) for host in range(hosts)]
    columns = [each.columns() for each in feeds]
    assert len({images.shape for images, _ in columns}) == 1, "all hosts' columns have one shape"
    for host, each in enumerate(feeds):
        assert each.resident
        assert each.capacity is None
        assert np.array_equal(each.owner, feeds[0].owner)
        chosen = getattr(each, share)
        places = each.first_rows(chosen)
        for client in np.flatnonzero(each.owner == host):
            assert chosen.size[client] == len(rows_of(packed, client, share))
            assert_rows(packed, *columns[host], places[client], client, share)


@given(sizes_of_clients, st.integers(2, 3))
def test_hosts_hold_about_equal_parts_and_together_every_client(sizes, hosts):
    packed = numbered(sizes)
    owner = Feed(packed, hosts, 0, 1 << 30, 4).owner
    assert np.ptp(np.bincount(owner, sizes, hosts)) <= sizes.max()
    held = [Feed(packed, hosts, host, 1 << 30, 4).columns()[1] for host in range(hosts)]
    assert np.array_equal(np.unique(np.concatenate(held)), packed.labels)


@given(sizes_of_clients, st.sampled_from(["train", "validation"]), st.booleans(), st.integers(0, 100))
def test_a_gathered_buffer_holds_each_clients_rows_once_where_its_tasks_look(sizes, share, disk, seed):
    packed = numbered(sizes)
    with tempfile.TemporaryDirectory() as folder:
        each = Feed(on_disk(packed, Path(folder)) if disk else packed, 1, 0, 0, 4)
        client = np.random.default_rng(seed).integers(0, len(sizes), seed)
        images, labels, first = each.gather(getattr(each, share), client)
    assert isinstance(images, np.ndarray)
    assert not isinstance(images, np.memmap)
    assert len(images) == len(labels) == each.capacity
    assert (images.dtype, labels.dtype, first.shape) == (np.uint8, np.int32, client.shape)
    for task, who in enumerate(client):
        assert_rows(packed, images, labels, first[task], who, share)
    wanted = np.concatenate([rows_of(packed, c, share) for c in np.unique(client)] or [[]])
    assert np.array_equal(labels[: len(wanted)], wanted)
    assert not labels[len(wanted) :].any(), "the rest is padding"


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("room", [1, 60 * BYTES])
def test_parts_of_a_round_fit_the_buffer_and_serve_every_task(hosts, room, monkeypatch):
    monkeypatch.setattr(feed, "BUFFER_BYTES", room)
    devices, lanes = 2, 3
    rng = np.random.default_rng(0)
    packed = numbered(rng.integers(2, 40, 25))
    client = rng.integers(0, 25, 300)
    each = Feed(packed, hosts, 0, 0, lanes)
    assert each.capacity == max(np.diff(packed.offsets).max(), room // BYTES)
    for share in ("train", "validation"):
        chosen = getattr(each, share)
        steps = -(-chosen.size[client] // 5)
        cut = schedule.parts(steps, client, chosen.size, each.owner, hosts, devices, lanes, each.capacity)
        assert len(cut) > 1 or share == "validation"
        for mine in (mine for part in cut for mine in part):
            images, labels, first = each.gather(chosen, client[mine])
            for task, place in zip(mine, first, strict=True):
                assert_rows(packed, images, labels, place, client[task], share)


def test_data_is_resident_exactly_where_its_hosts_share_fits_the_memory(tmp_path):
    packed = numbered(np.array([10, 20, 30, 40]))
    assert packed.nbytes == 100 * BYTES
    for hosts, held in ((1, 100), (2, 50)):
        assert Feed(packed, hosts, 0, held * BYTES, 4).resident
        assert not Feed(packed, hosts, 0, held * BYTES - 1, 4).resident
    assert not Feed(on_disk(packed, tmp_path), 1, 0, 1 << 40, 4).resident


def test_memory_mapped_images_are_streamed_too(tmp_path):
    packed = numbered(np.array([5, 6]))
    np.save(tmp_path / "images.npy", packed.inputs)
    mapped = packed._replace(inputs=np.load(tmp_path / "images.npy", mmap_mode="r"))
    each = Feed(mapped, 1, 0, 1 << 40, 4)
    assert not each.resident
    assert np.array_equal(each.gather(each.train, np.array([1]))[1][:4], rows_of(packed, 1, "train"))


def test_a_buffer_has_room_for_the_largest_client_and_for_no_more_than_memory_and_data():
    packed = numbered(np.array([500, *[4] * 1000]))
    assert Feed(packed, 1, 0, BYTES, 64).capacity == 500
    # Three parts can be in memory at the same time: worked on, sent, and being gathered.
    assert Feed(packed, 1, 0, 3 * 600 * BYTES, 64).capacity == 600
    assert Feed(packed, 1, 0, 0, 10_000).capacity == 4500


def test_examples_of_evaluation_alone_are_served_as_validation():
    test = Examples(np.arange(14, dtype=np.uint8).reshape(7, 2, 1, 1), np.arange(7, dtype=np.int32))
    split = PackedClients(*test, np.array([0, 3, 6, 7]), np.zeros(3, np.int32))
    each = Feed(split, 1, 0, 0, 2)
    _, labels, first = each.gather(each.validation, np.array([2, 0, 2]))
    assert [labels[f] for f in first] == [6, 0, 6]
    assert each.train.size.sum() == 0
