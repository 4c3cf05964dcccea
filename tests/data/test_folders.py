"""Folders of images become columns, with classes, clients and splits as the folders have them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fednas_jax.data import Dataset, folders, read_columns
from fednas_jax.data.options import ImportOptions, Skipped
from fednas_jax.errors import DataError


def import_folder(source: Path, folder: Path, **options: Any) -> Skipped:
    return folders.import_folder(source, folder, ImportOptions(**options))


def draw(path: Path, value: int, size: tuple[int, int] = (4, 6)) -> None:
    """A grey image of one value, so that it is known again: which image became which row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def values(data: Dataset) -> tuple[list[int], list[int]]:
    """The values of training and test images, in order."""
    return data.train.inputs[:, 0, 0, 0].tolist(), data.test.inputs[:, 0, 0, 0].tolist()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twenty cats, 0 to 19, and ten dogs, 100 to 109."""
    for name, first, number in (("cat", 0, 20), ("dog", 100, 10)):
        for n in range(number):
            draw(tmp_path / "pets" / name / f"{n:02d}.png", first + n)
    return tmp_path / "pets"


def test_classes_are_numbered_by_name_and_a_tenth_of_each_is_held_out(pets: Path, tmp_path: Path) -> None:
    import_folder(pets, tmp_path / "columns")
    data = read_columns(tmp_path / "columns")
    assert (data.name, data.classes, data.natural) == ("pets", 2, None)
    train, test = values(data)
    assert sorted(train + test) == [*range(20), *range(100, 110)]
    assert [value >= 100 for value in train] == [label == 1 for label in data.train.labels]
    assert np.bincount(data.test.labels).tolist() == [2, 1]
    import_folder(pets, tmp_path / "again")
    assert values(read_columns(tmp_path / "again")) == (train, test)


def test_folders_train_and_test_are_the_splits(tmp_path: Path) -> None:
    for n, path in enumerate(["train/b/1", "train/a/1", "train/a/2", "test/b/1", "test/c/1"]):
        draw(tmp_path / "set" / f"{path}.png", n)
    import_folder(tmp_path / "set", tmp_path / "columns")
    data = read_columns(tmp_path / "columns")
    assert values(data) == ([1, 2, 0], [3, 4])
    assert (data.train.labels.tolist(), data.test.labels.tolist(), data.classes) == ([0, 0, 1], [1, 2], 3)


def test_three_folders_deep_the_first_is_the_client(tmp_path: Path) -> None:
    for n, path in enumerate(["zoe/cat/1", "zoe/dog/1", "al/dog/1", "al/dog/2", "bo/cat/1"]):
        draw(tmp_path / "set" / "train" / f"{path}.png", n)
    draw(tmp_path / "set" / "test" / "dog" / "1.png", 9)
    import_folder(tmp_path / "set", tmp_path / "columns")
    data = read_columns(tmp_path / "columns")
    assert values(data) == ([2, 3, 4, 0, 1], [9])
    assert data.natural is not None
    assert data.natural.tolist() == [0, 2, 3, 5]


def test_of_clients_without_a_test_folder_a_share_of_each_is_held_out(tmp_path: Path) -> None:
    for client, number in (("al", 4), ("bo", 10), ("cy", 1)):
        for n in range(number):
            draw(tmp_path / "set" / client / f"class{n % 2}" / f"{n}.png", n)
    import_folder(tmp_path / "set", tmp_path / "columns", test_share=0.3)
    data = read_columns(tmp_path / "columns")
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [3, 7, 1]
    assert len(data.test.labels) == 4


def test_images_of_differing_shapes_need_a_size(pets: Path, tmp_path: Path) -> None:
    draw(pets / "dog" / "wide.png", 7, (4, 9))
    with pytest.raises(DataError, match=r"dog/wide.png: got an image of 4x9, want 4x6 as the first, or an image size"):
        import_folder(pets, tmp_path / "columns")
    assert os.listdir(tmp_path) == ["pets"]
    import_folder(pets, tmp_path / "columns", image_size=3)
    assert read_columns(tmp_path / "columns").train.inputs.shape[1:] == (3, 3, 1)


def test_a_corrupt_image_is_named_and_leaves_nothing(pets: Path, tmp_path: Path) -> None:
    (pets / "dog" / "09.png").write_bytes((pets / "dog" / "09.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"dog/09.png: got an image that cannot be decoded"):
        import_folder(pets, tmp_path / "columns")
    assert os.listdir(tmp_path) == ["pets"]


def test_hidden_files_are_passed_over_and_others_of_no_place_are_refused(pets: Path, tmp_path: Path) -> None:
    (pets / ".DS_Store").write_text("")
    import_folder(pets, tmp_path / "columns")
    draw(pets / "loose.png", 1)
    with pytest.raises(DataError, match=r"loose.png: got a file 1 deep in .*pets, want all as CLASS/IMAGE"):
        import_folder(pets, tmp_path / "other")


def test_no_folder_or_none_with_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such folder"):
        import_folder(tmp_path / "nowhere", tmp_path / "columns")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: got no images, want images as CLASS/IMAGE"):
        import_folder(tmp_path / "empty", tmp_path / "columns")
