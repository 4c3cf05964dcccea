"""HDF5 files of TensorFlow Federated: client by client, and nothing of other files by links."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import importing
import numpy as np
import pytest

from fednas_jax.data import Dataset, ImportOptions, import_data, read_columns

h5py = pytest.importorskip("h5py")


def write(path: Path, sizes: dict[str, int], first: int = 0, **more: Any) -> Path:
    """Clients of so many images, each of one value, numbered throughout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for client, size in sizes.items():
            group = file.create_group(f"examples/{client}")
            values = np.arange(first, first + size, dtype=np.float32)[:, None, None] / 255
            group["pixels"] = np.broadcast_to(values, (size, 4, 4))
            group["label"] = np.arange(size, dtype=np.int32) % 3
            for name, value in more.items():
                del group[name]
                if value is not None:
                    group[name] = value
            first += size
    return path


refused = functools.partial(importing.refused, "hdf5")


def imported(source: Path, **options: Any) -> Dataset:
    import_data("hdf5", source, source.parent / "columns", ImportOptions(**options))
    return read_columns(source.parent / "columns")


def test_files_for_training_and_testing_keep_every_clients_examples(tmp_path: Path) -> None:
    write(tmp_path / "emnist" / "fed_emnist_train.h5", {"f0": 3, "f1": 5})
    write(tmp_path / "emnist" / "fed_emnist_test.h5", {"f0": 1, "f2": 2}, first=100)
    data = imported(tmp_path / "emnist")
    assert data.natural is not None
    assert (data.natural.tolist(), data.classes) == ([0, 3, 8], 3)
    assert data.train.inputs[:, 0, 0, 0].tolist() == [*range(8)]
    assert data.test.inputs[:, 0, 0, 0].tolist() == [100, 101, 102]


def test_a_client_without_examples_is_none_and_one_in_two_files_of_a_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "emnist" / "train.h5", {"f0": 0, "f1": 5})
    write(tmp_path / "emnist" / "test.h5", {"f0": 2, "f1": 0})
    data = imported(tmp_path / "emnist")
    assert data.natural is not None
    assert (data.natural.tolist(), len(data.test.labels)) == ([0, 5], 2)
    write(tmp_path / "emnist" / "test_2.h5", {"f0": 2})
    refused(tmp_path / "emnist", "test_2.h5 examples/f0: got a client who came before, want every client once")
    refused(write(tmp_path / "none.h5", {"f0": 0}), "none.h5: got no examples of any client, want some")
    more = {"label": np.zeros(0, int)}
    refused(write(tmp_path / "lost.h5", {"f0": 4}, **more), "examples/f0: got 4 images and 0 labels")


def test_pictures_of_bytes_in_colour_are_taken_too(tmp_path: Path) -> None:
    # As fed_cifar100 has them.
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("examples/0")
        group["image"] = np.full((8, 5, 5, 3), 7, np.uint8)
        group["label"], group["coarse_label"] = np.arange(8), np.arange(8) // 4
    data = imported(tmp_path / "a.h5", label_column="coarse_label", test_share=0.25, image_size=3)
    assert (data.train.inputs.shape, data.classes) == ((6, 3, 3, 3), 2)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"label": None}, {}, r"examples/u label: got none, has pixels"),
        ({"label": np.zeros(3)}, {}, r"label: got \[3\] float64, want \[N\] whole numbers"),
        ({"label": np.zeros(3, int)}, {}, "got 4 images and 3 labels, want as many of each"),
        ({"label": np.array([b"a"] * 4)}, {}, r"label: got \|S1, want numbers"),
        ({"pixels": np.full((4, 2, 2), 9.0)}, {}, "pixels: got floats from 9 to 9, want 0 to 1"),
        ({"pixels": np.zeros((4, 3, 32, 32), np.uint8)}, {}, "pixels: .* looks like channels first"),
        ({}, {"label_column": "labels"}, "labels: got none, want 'label' by --label-column"),
        ({}, {"most_gigabytes": 1e-7}, r"examples/u: got 2.56e-07 GB, unpacked, want at most 1e-07 GB"),
    ],
)
def test_what_does_not_fit_is_named_with_its_client(
    more: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused(write(tmp_path / "a.h5", {"u": 4}, **more), message, **options)


def test_a_bomb_is_refused_by_the_size_that_it_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"u": 4})
    with h5py.File(path, "a") as file:
        del file["examples/u/pixels"]
        file["examples/u"].create_dataset("pixels", (10**6, 10**4, 10**4), np.uint8, chunks=(1, 100, 100))
    assert path.stat().st_size < 100_000
    refused(path, r"got 1e\+05 GB, unpacked, want at most")


def test_links_and_values_of_other_files_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "other" / "b.h5", {"u": 4})
    path = write(tmp_path / "a.h5", {"u": 4})
    with h5py.File(path, "a") as file:
        file["examples/v"] = h5py.ExternalLink(str(tmp_path / "other" / "b.h5"), "/examples/u")
    refused(path, "examples/v: got no group of its own, want one")
    with h5py.File(path, "a") as file:
        del file["examples/v"], file["examples/u/label"]
        (tmp_path / "raw").write_bytes(bytes(64))
        file["examples/u"].create_dataset("label", (4,), np.int64, external=[(str(tmp_path / "raw"), 0, 64)])
    refused(path, "label: got values of another file, want them in this one")


def test_files_of_another_form_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    refused(tmp_path / "a.h5", r"a.h5: cannot be read \(")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = [1]
    refused(tmp_path / "a.h5", "got no group examples of clients, want it as TensorFlow Federated writes it")
    (tmp_path / "set").mkdir()
    refused(tmp_path / "set", "set: got no .h5 or .hdf5 files")
    for n in range(2):
        write(tmp_path / "set" / f"{n}.h5", {"u": 4})
    refused(tmp_path / "set", "1.h5 examples/u: got a client who came before, want every client once")


def test_a_share_that_leaves_no_test_examples_names_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", {"u": 1, "v": 3})
    refused(
        path,
        "test share: got 0.1, which of each of 2 clients .* 1 to 3 examples leaves 4 .* --test-share",
        test_share=0.1,
    )
