"""LEAF's files become columns user by user: pixels exactly, one line for whatever is wrong, little memory."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import leaf as leafs
from fednas_jax.data import load, partition, read_columns
from fednas_jax.data.options import ImportOptions, Skipped
from fednas_jax.errors import DataError

SIDE = 28


def import_leaf(source: Path, folder: Path, **options: Any) -> Skipped:
    return leafs.import_leaf(source, folder, ImportOptions(**options))


def drawn(sizes: dict[str, int], seed: int = 0, classes: int = 62) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images [n, 28, 28] uint8 and labels [n] for each user."""
    rng = np.random.default_rng(seed)
    return {
        user: (rng.integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8), rng.integers(0, classes, n))
        for user, n in sizes.items()
    }


def leaf(users: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """As LEAF's femnist/preprocess/data_to_json.py makes it: pixels divided by 255, white is 1."""
    return {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {
            user: {"x": [(image.flatten() / 255).tolist() for image in x], "y": [int(label) for label in y]}
            for user, (x, y) in users.items()
        },
    }


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def refused(source: Path, message: str, **options: Any) -> None:
    """The import fails in one line and leaves nothing beside what was there."""
    folder = source.parent / "refused" / "columns"
    with pytest.raises(DataError, match=message) as error:
        import_leaf(source, folder, **options)
    assert "\n" not in str(error.value)
    assert not folder.parent.exists() or os.listdir(folder.parent) == []


def test_train_and_test_files_become_the_splits_with_every_pixel_as_it_was(tmp_path: Path) -> None:
    train = [drawn({"f0": 3, "f1": 5}), drawn({"f2": 1}, seed=1)]
    test = drawn({"f0": 2, "f2": 1}, seed=2)
    for n, users in enumerate(train):
        write(tmp_path / "femnist" / "train" / f"all_data_{n}_niid_0_keep_0_train_9.json", leaf(users))
    # LEAF's own split leaves `hierarchies` in some files.
    write(tmp_path / "femnist" / "test" / "all_data_0_niid_0_keep_0_test_9.json", leaf(test) | {"hierarchies": []})
    import_leaf(tmp_path / "femnist", tmp_path / "columns", classes=62)
    data = read_columns(tmp_path / "columns")
    assert (data.name, data.classes) == ("femnist", 62)
    assert data.natural is not None
    assert data.natural.tolist() == [0, 3, 8, 9]
    together = {**train[0], **train[1]}
    np.testing.assert_array_equal(data.train.inputs[..., 0], np.concatenate([x for x, _ in together.values()]))
    np.testing.assert_array_equal(data.train.labels, np.concatenate([y for _, y in together.values()]))
    np.testing.assert_array_equal(data.test.inputs[..., 0], np.concatenate([x for x, _ in test.values()]))


def test_all_256_levels_survive_the_division_by_255(tmp_path: Path) -> None:
    levels = np.resize(np.arange(256, dtype=np.uint8), (4, SIDE, SIDE))
    import_leaf(write(tmp_path / "all_data.json", leaf({"u": (levels, [0] * 4)})), tmp_path / "columns", test_share=0.5)
    data = read_columns(tmp_path / "columns")
    assert len(np.unique(data.train.inputs)) == 256
    assert all((image == levels[0, ..., None]).all() for image in data.test.inputs if image[0, 0] == 0)


def test_without_test_files_a_tenth_of_every_user_is_held_out_alike_each_time(tmp_path: Path) -> None:
    users = drawn({"a": 20, "b": 10, "c": 2})
    for n, user in enumerate(users):
        write(tmp_path / "all_data" / f"all_data_{n}.json", leaf({user: users[user]}))
    for name in ("one", "two"):
        import_leaf(tmp_path / "all_data", tmp_path / name)
    one, two = (read_columns(tmp_path / name) for name in ("one", "two"))
    assert one.natural is not None
    assert np.diff(one.natural).tolist() == [18, 9, 2]
    assert len(one.test.labels) == 3
    np.testing.assert_array_equal(one.test.inputs, two.test.inputs)


def test_a_user_with_one_example_is_kept_but_no_client_of_a_run(tmp_path: Path) -> None:
    source = write(tmp_path / "all_data.json", leaf(drawn({"a": 20, "lonely": 1, "c": 30})))
    import_leaf(source, tmp_path / "columns")
    config = DataConfig(source="columns", folder=tmp_path / "columns", partition="natural", clients=0)
    data = load(config, 0)
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [18, 1, 27]
    assert np.diff(partition(data.train.labels, config, 0, data.natural).offsets).tolist() == [18, 27]


def celeba(folder: Path) -> Path:
    """As LEAF's celeba has it: names of files in x, and labels that its division made floats."""
    for n in range(6):
        folder.joinpath("img").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((218, 178, 3), 40 * n, np.uint8)).save(folder / "img" / f"00000{n}.jpg")
    names = [f"00000{n}.jpg" for n in range(6)]
    content = {
        "users": ["17", "4"],
        "num_samples": [4, 2],
        "user_data": {"17": {"x": names[:4], "y": [0.0, 1.0, 1.0, 0.0]}, "4": {"x": names[4:], "y": [1.0, 0.0]}},
    }
    return write(folder / "all_data.json", content)


def test_names_of_images_are_read_from_their_folder_and_resized(tmp_path: Path) -> None:
    import_leaf(celeba(tmp_path), tmp_path / "columns", images=tmp_path / "img", image_size=84, test_share=0.25)
    data = read_columns(tmp_path / "columns")
    assert data.train.inputs.shape == (5, 84, 84, 3)
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [3, 2]
    assert data.classes == 2
    np.testing.assert_allclose(data.train.inputs[-2:, 40, 40, 0], [160, 200], atol=2)


def test_images_that_are_missing_or_elsewhere_are_named(tmp_path: Path) -> None:
    source = celeba(tmp_path)
    refused(source, r"user 17 x: got names of images \('000000.jpg'\), want the folder they are in as well")
    (tmp_path / "img" / "000005.jpg").unlink()
    refused(source, r"img/000005.jpg: got an image that cannot be decoded \(.*No such file", images=tmp_path / "img")
    outside = {"user_data": {"u": {"x": ["../img/000001.jpg"], "y": [0]}}}
    refused(
        write(source, outside), r"user u x: got '\.\./img/000001.jpg', want the name of an image in", images=tmp_path
    )


IMAGE = [0.5] * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"users": ["u"]}, "user_data: got none, want LEAF's object of users, num_samples and user_data"),
        ({"user_data": {}}, "user_data: got none"),
        ([1, 2], "user_data: got none"),
        ({"user_data": {"u": {"x": [IMAGE]}}}, "user u: got no lists x and y"),
        ({"user_data": {"u": [IMAGE]}}, "user u: got no lists x and y"),
        ({"user_data": {"u": {"x": [IMAGE], "y": [0, 1]}}}, "user u: got 1 x and 2 y"),
        (
            {"users": ["u"], "num_samples": [3], "user_data": {"u": {"x": [IMAGE], "y": [0]}}},
            "user u: got 1 y, want 3, as num_samples says",
        ),
        (
            {"users": ["u", "none", "v"], "num_samples": [1, 0, 3], "user_data": {"u": {"x": [IMAGE], "y": [0]}}},
            "user v: got none in user_data, want 3 examples, as num_samples says",
        ),
        ({"user_data": {"u": {"x": [IMAGE], "y": [5]}}}, "labels: got 5 to 5, want 0 to 3"),
        ({"user_data": {"u": {"x": [IMAGE], "y": [-1]}}}, "user u y: got -1 to -1, want class numbers from 0"),
        ({"user_data": {"u": {"x": [IMAGE], "y": [0.5]}}}, r"user u y: got \[0.5\], want whole numbers"),
        ({"user_data": {"u": {"x": [IMAGE], "y": ["cat"]}}}, r"user u y: got \['cat'\], want whole numbers"),
        ({"user_data": {"u": {"x": [IMAGE, IMAGE[:3]], "y": [0, 0]}}}, "user u x: got .*, want one list of pixels"),
        ({"user_data": {"u": {"x": [IMAGE[:3]], "y": [0]}}}, "user u x: got 3 values .* want a square image of 1 ch"),
        ({"user_data": {"u": {"x": [[0.5, 255, 0, 0]], "y": [0]}}}, "user u x: got values from 0 to 255, want pixels"),
        ({"user_data": {"u": {"x": [[None] * 4], "y": [0]}}}, "user u x: got values from nan to nan|want one list"),
        (
            {"user_data": {"u": {"x": [IMAGE], "y": [0]}, "v": {"x": [[0.5] * 9], "y": [0]}}},
            r"user v x: got images of \[3, 3, 1\], want \[2, 2, 1\] as the first",
        ),
        (
            {"user_data": {"u": {"x": [IMAGE] * 4, "y": [0] * 4}}},
            "test share: got 0.1, which of .* with 4 to 4 examples leaves 4 .* 0 for testing",
        ),
    ],
)
def test_content_that_does_not_fit_is_one_line_that_names_the_user(tmp_path: Path, content: Any, message: str) -> None:
    refused(write(tmp_path / "all_data.json", content), message, classes=4, channels=1)


@pytest.mark.parametrize(
    "text", ["", "{", '{"user_data": {"u": {"x": [[0.5', '{"user_data": {"u": {"x": [[NaN]], "y": [0]}}}', "\x00"]
)
def test_damaged_or_truncated_json_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "all_data.json").write_text(text)
    refused(tmp_path / "all_data.json", r"all_data.json: got damaged or truncated JSON \(.*\), want LEAF's object")


def test_a_user_who_comes_twice_is_refused(tmp_path: Path) -> None:
    for n in range(2):
        write(tmp_path / "data" / "train" / f"all_data_{n}.json", leaf(drawn({"f0": 3})))
    refused(tmp_path / "data", "all_data_1.json user f0: got a user who came before, want every user once")
    for n, split in enumerate(("train", "test", "test")):
        write(tmp_path / "other" / split / f"all_data_{n}.json", leaf(drawn({"f0": 3})))
    refused(tmp_path / "other", "test/all_data_2.json user f0: got a user who came before, want every user once")


def test_a_place_without_files_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere: no such file or folder")
    (tmp_path / "data" / "train").mkdir(parents=True)
    refused(tmp_path / "data", "data: got no .json files, want LEAF's")
    write(tmp_path / "data" / "train" / "all_data.json", leaf(drawn({"f0": 20})))
    (tmp_path / "data" / "test").mkdir()
    refused(tmp_path / "data", "data/test: got no .json files, want LEAF's, or no such folder and --test-share")


def test_pixels_are_resized_and_colour_is_three_values_a_pixel(tmp_path: Path) -> None:
    red = [1, 0, 0] * 16
    source = write(tmp_path / "all_data.json", {"user_data": {"u": {"x": [red] * 4, "y": [0, 1, 0, 1]}}})
    import_leaf(source, tmp_path / "columns", image_size=6, test_share=0.5)
    data = read_columns(tmp_path / "columns")
    assert data.train.inputs.shape == (2, 6, 6, 3)
    assert np.unique(data.train.inputs.reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_importing_holds_one_user_in_memory_not_the_file(tmp_path: Path) -> None:
    # 12 users of 40 images, 6 MB of JSON: as lists of Python's floats 11 MiB, as bytes 0.4 MiB.
    user = json.dumps(leaf(drawn({"u": 40}))["user_data"]["u"])
    users = ", ".join(f'"f{n}": {user}' for n in range(12))
    (tmp_path / "all_data.json").write_text(f'{{"user_data": {{{users}}}}}')
    del users
    tracemalloc.start()
    try:
        import_leaf(tmp_path / "all_data.json", tmp_path / "columns")
        assert tracemalloc.get_traced_memory()[1] / 2**20 < 4
    finally:
        tracemalloc.stop()
    assert len(read_columns(tmp_path / "columns").train.labels) == 12 * 36
