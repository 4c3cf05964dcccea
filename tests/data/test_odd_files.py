"""Files that are odd but ordinary: what others have met in public, with what is right for each."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fednas_jax.cli.app import main
from fednas_jax.data import Dataset, ImportOptions, bounds, import_data, read_columns
from fednas_jax.data.arrays import from_arrays
from fednas_jax.data.idx import read_idx
from fednas_jax.errors import DataError

X, Y = np.arange(20 * 16, dtype=np.uint16).reshape(20, 4, 4).astype(np.uint8), np.arange(20) % 2


def draw(path: Path, value: int = 0, size: tuple[int, int] = (4, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two classes of four images each, of values that tell them apart."""
    for n in range(8):
        draw(tmp_path / "pets" / ("cat" if n < 4 else "dog") / f"{n}.png", n)
    return tmp_path / "pets"


def imported(kind: str, source: Path, **options: Any) -> tuple[Dataset, str]:
    """The data set, and what the import said after the folder's name."""
    folder = source.parent / f"columns-{len(os.listdir(source.parent))}"
    options = {"test_share": 0.25, **options}
    said = import_data(kind, source, folder, ImportOptions(**options))
    return read_columns(folder), said.removeprefix(f"{folder}: ")


def refused(kind: str, source: Path, message: str, capsys: pytest.CaptureFixture[str], *options: str) -> None:
    """The command says one line, ends with 2 and leaves nothing."""
    before = set(os.listdir(source.parent))
    assert main(["data", "import", kind, str(source), "--to", str(source.parent / "refused"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert len(said) < 600
    assert set(os.listdir(source.parent)) == before


def values(data: Dataset) -> list[int]:
    return sorted([*data.train.inputs[:, 0, 0, 0].tolist(), *data.test.inputs[:, 0, 0, 0].tolist()])


# Links.


def test_a_class_that_is_a_link_to_a_folder_is_followed(pets: Path) -> None:
    draw(pets.parent / "elsewhere" / "8.png", 8)
    draw(pets.parent / "elsewhere" / "9.png", 9)
    (pets / "emu").symlink_to(pets.parent / "elsewhere")
    data, _ = imported("folder", pets)
    assert (values(data), data.class_names) == ([*range(10)], ("cat", "dog", "emu"))


def test_clients_and_splits_that_are_links_are_followed(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "clients" / "real").mkdir(parents=True)
    for name in ("cat", "dog"):
        (tmp_path / "clients" / "real" / name).symlink_to(pets / name)
    (tmp_path / "clients" / "link").symlink_to(pets)
    data, _ = imported("folder", tmp_path / "clients")
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [6, 6]
    (tmp_path / "split").mkdir()
    (tmp_path / "split" / "train").symlink_to(pets)
    (tmp_path / "split" / "test").symlink_to(pets)
    data, _ = imported("folder", tmp_path / "split")
    assert (len(data.train.labels), len(data.test.labels)) == (8, 8)


def test_a_link_to_a_folder_above_is_no_endless_loop(pets: Path) -> None:
    (pets / "cat" / "up").symlink_to(pets)
    (pets / "cat" / "self").symlink_to(pets / "cat")
    data, _ = imported("folder", pets)
    assert values(data) == [*range(8)]


def test_a_link_to_nowhere_is_named(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    refused("folder", pets, "gone.png: got an image that cannot be decoded", capsys, "--test-share", "0.3")


# Damaged .npz files.


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"x": X, "y": Y, **arrays})
    return path


def flipped(content: bytes) -> bytes:
    """One byte of the compressed pixels is another."""
    at = content.index(b"x.npy") + 60
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def encrypted(content: bytes) -> bytes:
    """Every member says that it is encrypted."""
    found = bytearray(content)
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := found.find(magic, at + 1)) >= 0:
            found[at + flags] |= 1
    return bytes(found)


def unknown_compression(content: bytes) -> bytes:
    found = bytearray(content)
    for magic, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = -1
        while (at := found.find(magic, at + 1)) >= 0:
            found[at + method : at + method + 2] = struct.pack("<H", 97)
    return bytes(found)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flipped, "cannot be read ("),
        (encrypted, "encrypted"),
        (unknown_compression, "compression method is not supported"),
        (lambda content: content.replace(b"'fortran_order'", b"'fortran_order\n", 1), "cannot be read ("),
        (
            lambda content: content.replace(b"(20, 4, 4)", b"(20, 4, 9)", 1),
            "x.npy holds 320 bytes, its header says 720",
        ),
        (lambda content: content.replace(b"(20, 4, 4)", b"(9**99, 4)", 1), "cannot be read ("),
    ],
)
def test_a_damaged_npz_file_is_one_line(
    damage: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.npz"
    save = np.savez_compressed if damage is flipped else np.savez
    save(path, x=X, y=Y)
    content = damage(path.read_bytes())
    if b"PK" in content and damage not in (flipped, encrypted, unknown_compression):
        # The checksum is that of what is there: not zipfile finds the damage, but the array's header.
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as whole, zipfile.ZipFile(path, "w") as other:
            for name in whole.namelist():
                other.writestr(name, damage(whole.read(name)))
    else:
        path.write_bytes(content)
    refused("npz", path, reason, capsys)


# EXIF.


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_photograph_is_upright_whatever_its_exif_tag_says(turned: int, form: str, tmp_path: Path) -> None:
    # Upright: 16 high, 24 wide, light at the top left. As stored: turned as the tag says.
    upright = Image.fromarray(np.zeros((16, 24), np.uint8))
    upright.paste(255, (0, 0, 8, 8))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's Transpose that undoes the tag
    stored = upright if turned == 1 else upright.transpose(Image.Transpose(back[turned]))
    exif = Image.Exif()
    exif[0x0112] = turned
    for n in range(4):
        path = tmp_path / "photos" / "a" / f"{n}.{form}"
        path.parent.mkdir(parents=True, exist_ok=True)
        stored.save(path, exif=exif)
    data, _ = imported("folder", tmp_path / "photos")  # without a size: stored shapes differ by turn, upright ones not
    assert data.train.inputs.shape[1:] == (16, 24, 1)
    assert np.abs(data.train.inputs[0, ..., 0].astype(int) - np.asarray(upright)).max() < 40


# Labels.


def test_labels_of_keras_and_medmnist_are_taken(tmp_path: Path) -> None:
    keras = npz(tmp_path / "keras.npz")
    np.savez(keras, x_train=X, y_train=Y[:, None].astype(np.uint8), x_test=X[:4], y_test=Y[:4, None])
    data, said = imported("npz", keras)
    assert data.train.labels.tolist() == Y.tolist()
    assert said == "20 training and 4 test images of 4x4x1, 2 classes, which name no clients"
    medmnist = tmp_path / "medmnist.npz"
    parts = {
        f"{split}_{part}": column[n : n + 4]
        for n, split in enumerate(("train", "val", "test"))
        for part, column in (("images", X), ("labels", Y[:, None]))
    }
    np.savez(medmnist, **parts)
    data, _ = imported("npz", medmnist, validation="train")
    assert data.train.inputs[:, 0, 0, 0].tolist() == [*X[:4, 0, 0], *X[1:5, 0, 0]]
    assert data.test.inputs[:, 0, 0, 0].tolist() == X[2:6, 0, 0].tolist()


@pytest.mark.parametrize(
    ("labels", "classes", "empty"),
    [
        ([1, 2, 3, 1] * 5, 4, "1 class without an example: 0"),
        ([2000, 7] * 10, None, "labels up to 2000, 2 different ones of 24 examples, want --labels remap"),
        ([7, 20] * 10, 21, "19 classes without an example: 0, 1, 2, 3, 4, ..."),
        ([0] * 19 + [1_400_000_000], None, "labels up to 1400000000, 2 different ones of 24 examples"),
    ],
)
def test_classes_without_an_example_are_told_and_numbered_anew_where_asked_for(
    labels: list[int], classes: int | None, empty: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = npz(tmp_path / "mine.npz", y=np.array(labels), x_test=X[:4], y_test=np.array(labels[:4]))
    if classes is None:
        refused("npz", path, empty, capsys)
    else:
        data, said = imported("npz", path)
        assert data.classes == classes
        assert said.endswith(f"; {empty}")
    data, said = imported("npz", path, labels="remap")
    different = sorted(set(labels))
    assert data.class_names == tuple(map(str, different))
    assert [different[label] for label in data.train.labels] == labels
    assert "without" not in said


def test_leafs_labels_are_numbered_anew_as_those_of_arrays_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all_data.json"
    labels = {"u": [5, -3, 5, 900], "v": [900, 900, -3, 5]}
    path.write_text(json.dumps({"user_data": {user: {"x": [[0.5] * 4] * 4, "y": y} for user, y in labels.items()}}))
    refused("leaf", path, "user u y: got -3 to 900, want class numbers from 0, or --labels remap", capsys)
    data, _ = imported("leaf", path, labels="remap")
    assert (data.classes, data.class_names) == (3, ("-3", "5", "900"))
    assert sorted([*data.train.labels, *data.test.labels]) == [0, 0, 1, 1, 1, 2, 2, 2]


def test_a_label_of_many_digits_makes_a_short_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "all_data.json"
    for label, said in ((1e300, "got 1e+300 to 1e+300"), (10**400, "got ")):
        path.write_text(json.dumps({"user_data": {"u": {"x": [[0.5] * 4], "y": [label]}}}))
        refused("leaf", path, said, capsys)
    path.write_text(json.dumps({"user_data": {"u": {"x": [[1e200] * 4], "y": [0]}}}))
    refused("leaf", path, "got values from 1e+200 to 1e+200, want pixels from 0 to 1", capsys)


def test_arrays_in_python_tell_of_classes_without_an_example(caplog: pytest.LogCaptureFixture) -> None:
    assert from_arrays(X, Y + 1).classes == 3
    assert "arrays: 1 class without an example: 0 (labels='remap' leaves them out)" in caplog.text
    assert "training" not in caplog.text
    from_arrays(X, Y, test=(X, Y + 1))
    assert "arrays: 1 class without a training example: 2" in caplog.text
    data = from_arrays(X, Y * 30 - 30, labels="remap")
    assert (data.classes, data.class_names) == (2, ("-30", "0"))
    with pytest.raises(DataError, match="labels: got 'dense', want one of keep, remap"):
        from_arrays(X, Y, labels="dense")  # type: ignore[arg-type]


# Axes and values.


@pytest.mark.parametrize("shape", [(20, 3, 32, 32), (20, 1, 28, 28)])
def test_channels_first_are_refused_or_moved(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = npz(tmp_path / "mine.npz", x=x, x_test=x[:2], y_test=Y[:2])
    refused("npz", path, "want np.moveaxis(x, 1, -1) or --layout NCHW", capsys)
    data, _ = imported("npz", path, layout="NCHW")
    assert data.train.inputs.shape[1:] == (*shape[2:], shape[1])
    np.testing.assert_array_equal(data.train.inputs[0], np.moveaxis(x[0], 0, -1))
    assert imported("npz", path, layout="NHWC")[0].train.inputs.shape[1:] == shape[1:]


def test_rounding_errors_of_floats_are_clipped_and_more_is_told_in_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = X / 255.0
    x[0, 0, :2] = -2e-8, 1.0000002
    data, _ = imported("npz", npz(tmp_path / "mine.npz", x=x, x_test=x, y_test=Y))
    assert data.train.inputs[0, 0, :2, 0].tolist() == [0, 255]
    x[0, 0, 0] = 1.002
    refused("npz", npz(tmp_path / "mine.npz", x=x), "x: got floats from 0 to 1.002, want 0 to 1", capsys)
    path = tmp_path / "all_data.json"
    pixels = [[-1e-9, 1.0000002, 0.5, 0.5]] * 4
    path.write_text(json.dumps({"user_data": {"u": {"x": pixels, "y": [0, 1] * 2}}}))
    assert imported("leaf", path)[0].train.inputs[0, 0, :, 0].tolist() == [0, 255]


# Shares, names, splits.


def test_users_with_too_few_examples_for_the_share_are_told_which_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all_data.json"
    held = {f"u{n}": {"x": [[0.5] * 4] * n, "y": [0] * n} for n in (1, 4)}
    path.write_text(json.dumps({"user_data": held}))
    want = "test share: got 0.1, which of each of 2 clients or classes with 1 to 4 examples leaves 5 for training and 0"
    refused("leaf", path, want, capsys)
    refused("leaf", path, "want a larger --test-share", capsys)
    ids = np.repeat(np.arange(5), 4)
    refused("npz", npz(tmp_path / "few.npz", client_ids=ids), "5 clients or classes with 4 to 4 examples", capsys)


def test_a_test_folder_whose_users_are_empty_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, number in (("train", 4), ("test", 0)):
        path = tmp_path / "data" / split / "all_data.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"user_data": {"u": {"x": [[0.5] * 4] * number, "y": [0] * number}}}))
    refused("leaf", tmp_path / "data", "data/test: got no examples of any user, want some, or no such folder", capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"client_id": Y}, "client_id: got an array of a name that is not known, want it called client_ids"),
        ({"X_Test": X}, "X_Test: got an array of a name that is not known, want it called x_test"),
        ({"weights": Y}, "weights: got an array of a name that is not known, want only arrays called x, y, client_ids"),
        ({"x_train": X}, "got both x and x_train, want one of them"),
        ({"labels": Y}, "got both y and labels, want one of them"),
        ({"x_val": X}, "y_val: got none, want x, y, x_val, y_val"),
        ({"x_val": X, "y_val": Y}, "x_val: got examples for validation, want --validation train"),
    ],
)
def test_names_of_arrays_that_are_not_known_or_contradict_are_refused(
    more: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("npz", npz(tmp_path / "mine.npz", **more), message, capsys)


def split_folder(root: Path, **numbers: int) -> Path:
    """Folders of these names with so many images each, numbered throughout."""
    total = 0
    for name, number in numbers.items():
        for _ in range(number):
            draw(root / "set" / name / "ab"[total % 2] / f"{total}.png", total)
            total += 1
    return root / "set"


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "testing"), ("TRAIN", "test")])
def test_folders_of_splits_are_known_by_other_names(train: str, test: str, tmp_path: Path) -> None:
    data, _ = imported("folder", split_folder(tmp_path, **{train: 6, test: 2}))
    assert (data.natural, len(data.train.labels), len(data.test.labels)) == (None, 6, 2)


def test_validation_images_go_where_the_option_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = split_folder(tmp_path, train=4, val=2)
    want = "set/val: got examples for validation, want --validation train (they join the training examples) or"
    refused("folder", source, want, capsys)
    data, _ = imported("folder", source, validation="test")
    assert sorted(data.test.inputs[:, 0, 0, 0]) == [4, 5]
    data, _ = imported("folder", source, validation="train")
    assert values(data) == [*range(6)]
    split_folder(tmp_path, train=4, val=2, test=1)
    refused("folder", source, "got --validation test, want --validation train", capsys, "--validation", "test")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"train": 4, "Training": 2}, "got the folders Training and train, want one of them"),
        ({"train": 4, "extra": 2}, "got the folders train and extra, want train, val and test alone"),
        ({"test": 4, "val": 2}, "got the folders test and val and none called train"),
    ],
)
def test_splits_that_cannot_be_understood_are_refused(
    numbers: dict[str, int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("folder", split_folder(tmp_path, **numbers), message, capsys)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for n, name in enumerate(["bus", "train"] * 4):
        draw(tmp_path / "vehicles" / name / f"{n}.png", n)
    assert imported("folder", tmp_path / "vehicles")[0].class_names == ("bus", "train")


# What lies among images.


def test_files_that_are_no_images_are_left_out_and_counted(pets: Path) -> None:
    (pets / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (pets / "cat" / ".DS_Store").write_bytes(b"\0")
    (pets / "cat" / "README").write_text("cats")
    (pets / "meta.json").write_text("{}")
    draw(pets / "dog" / "noend.png", 8).rename(pets / "dog" / "noend")
    data, said = imported("folder", pets)
    assert values(data) == [*range(9)]
    assert said.endswith("2 classes, which name no clients; 3 files that are no images left out")


def test_real_images_that_do_not_open_stop_the_import_unless_they_are_to_be_left_out(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pets / "cat" / "0.png").write_bytes(b"\x89PNG")
    (pets / "dog" / "5.png").write_bytes((pets / "dog" / "5.png").read_bytes()[:40])
    refused("folder", pets, "cat/0.png: got an image that cannot be decoded", capsys)
    data, said = imported("folder", pets, skip_damaged=True)
    assert values(data) == [1, 2, 3, 4, 6, 7]
    assert said.endswith("; 2 damaged images left out")


def test_postscript_is_no_image(pets: Path) -> None:
    # Pillow would start Ghostscript for it.
    (pets / "cat" / "drawing.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    (pets / "cat" / "drawing.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    with pytest.raises(DataError, match=r"drawing.png: got an image that cannot be decoded"):
        imported("folder", pets)


# Archives that expand.


def test_an_archive_that_would_expand_beyond_the_bound_is_refused_before_it_is_unpacked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((20, 1000, 1000), np.uint8), y=Y)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        want = "bomb.npz: got 0.02 GB, unpacked, want at most 0.01 GB (as --most-gigabytes says)"
        refused("npz", path, want, capsys, "--most-gigabytes", "0.01")
        monkeypatch.setattr(bounds.needs, "memory", lambda: 30_000_000)
        refused("npz", path, "want at most 0.015 GB (50% of this machine's memory)", capsys)
        idx = tmp_path / "idx.gz"
        idx.write_bytes(gzip.compress(bytes([0, 0, 8, 3]) + np.array([20, 1000, 1000], ">u4").tobytes() + bytes(1000)))
        with pytest.raises(DataError, match=r"idx.gz: got 0.02 GB, unpacked, want at most 0.015 GB"):
            read_idx(idx, 3)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_an_archive_that_lies_of_its_size_is_read_no_further_than_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((20, 1000, 1000), np.uint8), y=Y)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        size = struct.pack("<I", archive.getinfo("x.npy").file_size)
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = struct.pack("<I", 5000)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refused("npz", path, "cannot be read (", capsys)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    idx = tmp_path / "idx.gz"
    idx.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + np.array([100], ">u4").tobytes() + bytes(50_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="got more bytes after the header, want 100"):
            read_idx(idx, 1)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


# An end before its time.


def test_an_import_that_is_interrupted_leaves_nothing(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    before = os.listdir(pets.parent)
    monkeypatch.setattr("fednas_jax.data.folders.read_images", stop)
    with pytest.raises(KeyboardInterrupt):
        import_data("folder", pets, pets.parent / "columns", ImportOptions(test_share=0.25))
    assert os.listdir(pets.parent) == before
