"""Arrays become a data set: what was given, for clients as they were named, or one line that says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fednas_jax as fn
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import arrays, fingerprint, partition, read_columns
from fednas_jax.data.arrays import from_arrays
from fednas_jax.data.options import ImportOptions, Skipped
from fednas_jax.errors import DataError


def import_npz(source: Path, folder: Path, **options: Any) -> Skipped:
    return arrays.import_npz(source, folder, ImportOptions(**options))


def images(number: int, *shape: int) -> np.ndarray:
    """Images of one value each, the number of the example."""
    return np.broadcast_to(np.arange(number).reshape(-1, *(1 for _ in shape)), (number, *shape)).astype(np.uint8)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=80), st.booleans())
def test_every_example_is_somewhere_once_with_its_label_and_client(ids: list[int], named: bool) -> None:
    total = len(ids)
    labels = np.arange(total) % 3
    data = from_arrays(images(total, 2, 2, 1), labels, [f"c{n}" for n in ids] if named else ids, test_share=0.3)
    assert data.natural is not None
    held = data.train.inputs[:, 0, 0, 0]
    assert sorted([*held, *data.test.inputs[:, 0, 0, 0]]) == list(range(total))
    np.testing.assert_array_equal(data.train.labels, labels[held])
    for client, name in enumerate(sorted(set(ids))):
        mine = held[data.natural[client] : data.natural[client + 1]]
        assert {ids[n] for n in mine} <= {name}
        assert len(mine) == ids.count(name) - round(0.3 * ids.count(name))


def test_without_clients_a_tenth_of_every_class_is_held_out_alike_each_time() -> None:
    x, y = images(60, 4, 4), np.repeat([0, 1], [40, 20])
    data = from_arrays(x, y)
    assert np.bincount(data.test.labels).tolist() == [4, 2]
    assert (data.natural, data.classes, data.train.inputs.shape) == (None, 2, (54, 4, 4, 1))
    assert fingerprint(data) == fingerprint(from_arrays(x, y))


def test_a_test_split_that_is_given_is_taken_as_it_is() -> None:
    data = from_arrays(images(5, 3, 3, 2), [0, 1, 2, 0, 1], test=(images(2, 3, 3, 2) + np.uint8(9), [3, 0]))
    assert data.train.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [9, 10]
    assert data.classes == 4


def test_floats_from_0_to_1_are_rounded_to_256_levels() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    for kind in (np.float16, np.float32, np.float64):
        data = from_arrays((levels / 255).astype(kind), [0] * 4, test=(levels, [0] * 4))
        np.testing.assert_array_equal(data.train.inputs[..., 0], levels)


X, Y = images(20, 2, 2), np.arange(20) % 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X[:3]}, "y: got 20, want 3, as many as x"),
        ({"client_ids": [1, 2]}, "client_ids: got 2, want 20, as many as x"),
        ({"client_ids": np.ones(20)}, r"client_ids: got \[20\] float64, want \[N\] whole numbers or texts"),
        ({"x": X.astype(int)}, r"x: got \[20, 2, 2\] int64, want uint8 \(0 to 255\) or floats \(0 to 1\)"),
        ({"x": X / 1.0}, r"x: got floats from 0 to 19, want 0 to 1 \(or uint8, 0 to 255\)"),
        ({"x": np.where(X == 7, np.nan, X / 255)}, "x: got floats from nan to nan, want 0 to 1"),
        ({"x": X[0]}, r"x: got \[2, 2\] uint8, want \[N, H, W, C\] or \[N, H, W\]"),
        ({"x": X[:0], "y": []}, r"x: got \[0, 2, 2\] uint8, want .* with at least one image"),
        ({"x": [X[0], X[0, :1]]}, "x: got images of differing shapes, want one shape"),
        ({"x": np.array([X[0], X[0, :1]], object)}, "x: got objects, perhaps images of differing shapes"),
        ({"y": Y / 1.0}, r"y: got \[20\] float64, want \[N\] whole numbers"),
        ({"y": np.stack([Y, Y], 1)}, r"y: got \[20, 2\] int64, want \[N\] whole numbers"),
        ({"y": Y - 1}, "y: got -1 to 0, want class numbers from 0"),
        ({"y": Y + 2**40}, "y: got 0 to 1.09951163e\\+12, want class numbers from 0"),
        ({"classes": 1}, "arrays train labels: got 0 to 1, want 0 to 0"),
        ({"test": (X, Y[:3])}, "y_test: got 3, want 20, as many as x_test"),
        ({"test": (images(3, 4, 4), Y[:3])}, "arrays: got training images .* and test images .*, want one shape"),
        ({"test_share": 0.0}, "test share: got 0.0, want between 0 and 1"),
        (
            {"test_share": 0.01},
            "test share: got 0.01, which of each of 2 clients or classes with 10 to 10 examples leaves 20 for training",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}") as error:
        from_arrays(**{"x": X, "y": Y, **given})
    assert "\n" not in str(error.value)


def test_a_client_with_one_example_stays_in_the_data_and_is_no_client_of_a_run() -> None:
    data = from_arrays(X, Y, [7] * 10 + [8] + [9] * 9)
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [9, 1, 8]
    taken = partition(data.train.labels, DataConfig(partition="natural", clients=0), 0, data.natural)
    assert np.diff(taken.offsets).tolist() == [9, 8]


def test_a_fingerprint_tells_data_sets_apart() -> None:
    other = X.copy()
    other[3, 0, 0] += 1
    sets = [
        from_arrays(X, Y, test=(X, Y)),
        from_arrays(other, Y, test=(X, Y)),
        from_arrays(X, Y[::-1], test=(X, Y)),
        from_arrays(X, Y, test=(X, Y[::-1])),
        from_arrays(X, Y, np.arange(20) // 5, test=(X, Y)),
        from_arrays(X, Y, test=(X, Y), classes=9),
        from_arrays(X, Y, test=(other, Y)),
        from_arrays(X[[2, 1, 0, *range(3, 20)]], Y, test=(X, Y)),
    ]
    assert len({fingerprint(data) for data in sets}) == len(sets)


@pytest.mark.parametrize(("x", "y"), [("x", "y"), ("x_train", "y_train")])
def test_an_npz_file_becomes_columns(tmp_path: Path, x: str, y: str) -> None:
    ids = np.array(["b", "a"] * 10)
    np.savez(tmp_path / "mine.npz", **{x: X, y: Y, "client_ids": ids, "x_test": X[:4], "y_test": Y[:4]})
    import_npz(tmp_path / "mine.npz", tmp_path / "columns", image_size=4)
    data = read_columns(tmp_path / "columns")
    assert (data.name, data.classes, data.train.inputs.shape, data.test.inputs.shape) == (
        "mine",
        2,
        (20, 4, 4, 1),
        (4, 4, 4, 1),
    )
    assert data.train.inputs[:, 0, 0, 0].tolist() == [*range(1, 20, 2), *range(0, 20, 2)]


def test_an_npz_file_that_cannot_be_read_or_lacks_arrays_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message) as error:
            import_npz(path, tmp_path / "columns")
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
        assert set(os.listdir(tmp_path)) <= {"mine.npz"}

    refused(r"mine.npz: cannot be read \(No such file or directory\)")
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:100])
    refused(r"mine.npz: cannot be read \(")
    path.write_bytes(b"")
    refused(r"mine.npz: cannot be read \(")
    np.savez(path, x=X)
    refused("mine.npz y: got none, want x, y")
    np.savez(path, x=X, y=Y, x_test=X)
    refused("mine.npz y_test: got none, want x, y, x_test, y_test")
    np.savez(path, x=X, y=Y + 0.5)
    refused(r"mine.npz y: got \[20\] float64")
    np.savez(path, x=np.array([{}] * 20, object), y=Y)
    refused(r"mine.npz: cannot be read \(x.npy holds Python objects\)")
    path.write_bytes(b"")
    with path.open("wb") as file:
        np.save(file, X)
    refused(r"mine.npz: cannot be read \(File is not a zip file\)")


def test_it_is_in_the_public_api() -> None:
    assert fn.from_arrays is from_arrays
    assert "from_arrays" in fn.__all__
