"""Data that is kept from run to run is what would be loaded, and is read again when its files change."""

import dataclasses
import os

import numpy as np
import pytest

from fednas_jax.config.schema import SYNTHETIC, DataConfig
from fednas_jax.data import Examples, clients_of, fingerprint, kept, load, load_kept, write_columns
from fednas_jax.runtime.shelf import Shelf, keep_between_runs

IID = DataConfig(clients=8)


@pytest.fixture(autouse=True)
def keeping():
    keep_between_runs()
    yield
    keep_between_runs(False)


def of(config, seed=0):
    data = load_kept(config, seed)
    return data, clients_of(data, config, seed, given=False)


def test_trials_of_one_division_share_data_and_clients():
    data, clients = of(IID)
    again = of(dataclasses.replace(IID))
    assert again[0] is data
    assert again[1] is clients
    assert of(IID, seed=1)[0] is data  # digits are the same whatever the seed is
    assert of(IID, seed=1)[1] is not clients


@pytest.mark.parametrize(
    "change",
    [{"alpha": 0.1, "partition": "dirichlet"}, {"clients": 9}, {"validation": 0.3}, {"min_examples": 9}],
)
def test_another_division_is_another_value(change):
    data, clients = of(IID)
    other_data, other = of(dataclasses.replace(IID, **change))
    assert other_data is data
    assert other is not clients
    fresh = of(dataclasses.replace(IID, **change))[1]
    np.testing.assert_array_equal(fresh.offsets, other.offsets)


def test_what_is_kept_equals_what_is_loaded():
    config = dataclasses.replace(IID, partition="dirichlet", alpha=0.3)
    for _ in range(2):
        data, clients = of(config, seed=3)
        keep_between_runs(False)
        fresh_data, fresh = load(config, 3), of(config, seed=3)[1]
        keep_between_runs()
        of(config, seed=3)
        np.testing.assert_array_equal(data.train.inputs, fresh_data.train.inputs)
        np.testing.assert_array_equal(clients.inputs, fresh.inputs)
        np.testing.assert_array_equal(clients.labels, fresh.labels)


@pytest.mark.parametrize("source", SYNTHETIC)
def test_what_is_made_up_belongs_to_its_seed_and_has_clients_where_they_are_asked_for(source):
    config = DataConfig(source=source, clients=4, synthetic_examples=100)
    for seed, partition in ((0, "iid"), (0, "natural"), (1, "natural"), (1, "iid")):
        asked = dataclasses.replace(config, partition=partition)
        assert fingerprint(of(asked, seed)[0]) == fingerprint(load(asked, seed))


def test_files_that_change_are_read_again(tmp_path):
    rng = np.random.default_rng(0)

    def write(number):
        images = rng.integers(0, 256, (number, 4, 4, 1), np.uint8)
        examples = Examples(images, np.arange(number, dtype=np.int32) % 2)
        write_columns(tmp_path / f"columns{number}", "mine", [(examples, np.asarray([number]))], examples, 2)

    write(40)
    config = DataConfig(source="columns", folder=tmp_path / "columns40", clients=2)
    first = of(config)[0]
    assert of(config)[0] is first
    labels = next(path for path in sorted((tmp_path / "columns40").rglob("*.npy")) if "label" in path.name)
    stat = labels.stat()
    os.utime(labels, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert of(config)[0] is not first


def test_data_too_large_or_of_code_of_ones_own_is_not_kept(monkeypatch):
    data, clients = of(IID)
    assert clients_of(data, IID, 0, given=True) is not clients
    monkeypatch.setattr(kept.needs, "memory", lambda: 1000)
    assert of(IID)[1] is not clients


def test_a_shelf_lets_go_of_what_was_not_used_for_longest():
    shelf = Shelf(most=2)
    assert [shelf.get(key, object)[1] for key in ("a", "b", "a", "c", "a", "b")] == [
        *(True, True, False),
        *(True, False, True),
    ]
    assert shelf.get(None, object)[1]
    keep_between_runs(False)
    assert shelf.get("a", object)[1]
    assert "a" not in shelf
