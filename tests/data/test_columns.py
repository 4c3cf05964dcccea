"""Columns on disk: read back as written, whole or not there at all, and never held in memory."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fednas_jax
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import (
    ColumnsWriter,
    Dataset,
    DiskRows,
    Examples,
    chunks,
    load,
    merge,
    pack,
    partition,
    read_columns,
    write_columns,
    write_synthetic_columns,
)
from fednas_jax.data.examples import channel_statistics
from fednas_jax.errors import DataError

CLASSES = 5
FILES = ("images.npy", "labels.npy", "offsets.npy", "test_images.npy", "test_labels.npy")

Block = tuple[Examples, np.ndarray]


def drawn(total: int, seed: int = 0, shape: tuple[int, int, int] = (2, 3, 2)) -> Examples:
    """Random bytes with random labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, total).astype(np.int32)
    return Examples(rng.integers(0, 256, (total, *shape), dtype=np.uint8), labels)


def blocks_of(examples: Examples, sizes: np.ndarray, clients: int) -> Iterator[Block]:
    """The examples of clients of these sizes, some clients a block."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    for first in range(0, len(sizes), clients):
        last = min(first + clients, len(sizes))
        rows = slice(offsets[first], offsets[last])
        yield Examples(examples.inputs[rows], examples.labels[rows]), sizes[first:last]


def written(folder: Path, sizes: list[int], clients: int = 2) -> tuple[Examples, Examples]:
    """Writes clients of these sizes; returns the training and the test examples."""
    train, test = drawn(sum(sizes)), drawn(7, seed=1)
    write_columns(folder, "drawn", blocks_of(train, np.array(sizes), clients), test, CLASSES)
    return train, test


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "columns", [3, 9, 4, 6])
    return tmp_path / "columns"


def in_memory(data: Dataset) -> Examples:
    return Examples(np.array(data.train.inputs), np.array(data.train.labels))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12).filter(any), st.integers(1, 13))
def test_what_was_written_is_read_back_however_it_was_cut(sizes: list[int], clients: int) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "deep", "columns")
        train, test = written(folder, sizes, clients)
        data = read_columns(folder)
        assert (data.name, data.classes) == ("drawn", CLASSES)
        assert (data.mean, data.std) == channel_statistics(train.inputs)
        assert data.natural is not None
        np.testing.assert_array_equal(np.diff(data.natural), sizes)
        for got, want in ((data.train, train), (data.test, test)):
            assert isinstance(got.inputs, np.memmap)
            assert (got.inputs.dtype, got.labels.dtype) == (np.uint8, np.int32)
            np.testing.assert_array_equal(got.inputs, want.inputs)
            np.testing.assert_array_equal(got.labels, want.labels)
        assert os.listdir(folder.parent) == ["columns"]


def test_numpy_opens_every_file_and_the_rest_is_json(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "columns.json"])
    about = json.loads((folder / "columns.json").read_text())
    assert (about["schema"], about["clients"], about["shape"]) == (1, 4, [2, 3, 2])
    # Of images it is what it always was, so that folders of before and programs of others fit.
    assert list(about) == ["schema", "name", "classes", "examples", "test_examples", "clients", "shape", "mean", "std"]
    assert (about["examples"], about["test_examples"]) == (22, 7)
    assert [len(np.load(folder / name)) for name in FILES] == [22, 22, 5, 7, 7]


def test_columns_that_numpy_wrote_are_read_alike(folder: Path) -> None:
    before = in_memory(read_columns(folder))
    for name in FILES:
        np.save(folder / name, np.load(folder / name))
    np.testing.assert_array_equal(read_columns(folder).train.inputs, before.inputs)


NARROW = drawn(3, shape=(2, 2, 2))
GOOD = drawn(3)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ((NARROW, np.array([3])), r"block 1: got images of \[2, 2, 2\], want \[2, 3, 2\]"),
        ((Examples(GOOD.inputs / 2, GOOD.labels), np.array([3])), "block 1 images: got .* float64, want"),
        ((Examples(GOOD.inputs[:2], GOOD.labels), np.array([3])), "block 1: got 2 images and 3 labels"),
        ((Examples(GOOD.inputs, GOOD.labels + np.int32(9)), np.array([3])), "block 1 labels: got .*, want 0 to 4"),
        ((GOOD, np.array([2])), "block 1 sizes: got 2 in all, want 3, the number of examples"),
        ((GOOD, np.array([4, -1])), r"block 1 sizes: got \[2\] int64, want \[clients\] whole numbers from 0"),
        ((GOOD, np.array([1.5, 1.5])), r"block 1 sizes: got \[2\] float64"),
        ((GOOD, np.array(3)), r"block 1 sizes: got \[\] int64"),
    ],
)
def test_a_bad_block_is_refused_by_number_and_leaves_nothing(tmp_path: Path, block: Block, message: str) -> None:
    with pytest.raises(DataError, match=f"^src {message}") as error:
        write_columns(tmp_path / "columns", "src", [(GOOD, np.array([1, 2])), block], GOOD, CLASSES)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_no_examples_at_all_and_a_bad_test_split_are_refused(tmp_path: Path) -> None:
    none = Examples(GOOD.inputs[:0], GOOD.labels[:0])
    for blocks in ([], [(none, np.array([0, 0]))]):
        with pytest.raises(DataError, match="src: got no training examples, want at least one"):
            write_columns(tmp_path / "columns", "src", blocks, GOOD, CLASSES)
    with pytest.raises(DataError, match=r"src test images: got .*, want at least one"):
        write_columns(tmp_path / "columns", "src", [(GOOD, np.array([3]))], none, CLASSES)
    assert os.listdir(tmp_path) == []


def test_a_source_that_fails_midway_leaves_nothing_and_its_error_is_its_own(tmp_path: Path) -> None:
    def failing() -> Iterator[Block]:
        yield GOOD, np.array([3])
        raise FileNotFoundError("the raw data went away")

    with pytest.raises(FileNotFoundError, match="the raw data went away"):
        write_columns(tmp_path / "columns", "src", failing(), GOOD, CLASSES)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_or_cannot_be_made_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns: is there already, want a new folder"):
        written(folder, [3])
    assert len(read_columns(folder).train.labels) == 22
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as error:
        written(tmp_path / "file" / "columns", [3])
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is always full")
@pytest.mark.parametrize("total", [3, 2000])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int
) -> None:
    path_open = Path.open

    def full(path: Path, mode: str) -> Any:
        return path_open(Path("/dev/full") if path.name == "images.npy" else path, mode)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"columns: cannot be written \(No space left on device\)$"):
        written(tmp_path / "columns", [total])
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_a_killed_write_leaves_no_folder_that_can_be_read(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; import numpy as np\n"
        "from fednas_jax.data import Examples, write_columns\n"
        "some = Examples(np.zeros((3, 2, 2, 1), np.uint8), np.zeros(3, np.int32))\n"
        "def blocks():\n    yield some, np.array([3])\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_columns(Path(sys.argv[1]), 'src', blocks(), some, 2)"
    )
    root = Path(fednas_jax.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "columns")], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".columns.")
    with pytest.raises(DataError, match="no such folder"):
        read_columns(tmp_path / "columns")
    with pytest.raises(DataError, match=r"columns\.json: no such file"):
        read_columns(left / "columns")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", 3, "schema: got 3, want 1 or 2"),
        ("name", None, "name: got None, want text"),
        ("classes", 0, "classes: got 0, want a whole number above 0"),
        ("examples", "22", "examples: got '22', want a whole number above 0"),
        ("test_examples", True, "test_examples: got True, want a whole number"),
        ("clients", 4.0, "clients: got 4.0, want a whole number from 0"),
        ("shape", [2, 3], r"shape: got \[2, 3\], want three whole numbers above 0"),
        ("shape", [2, 3, 0], r"shape: got \[2, 3, 0\], want three"),
        ("mean", [0.5], r"mean: got \[0.5\], want 2 finite numbers"),
        ("std", [0.5, 0], r"std: got \[0.5, 0\], want 2 finite numbers above 0"),
    ],
)
def test_a_field_of_the_json_that_does_not_fit_is_named(folder: Path, field: str, value: Any, message: str) -> None:
    path = folder / "columns.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    refused(folder, f"{path} {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"cannot be read as JSON: "),
        (b'{"schema": 1,', r"cannot be read as JSON: "),
        (b"\xff\xfe\x00\xd8", r"cannot be read as JSON: "),
        (b"[1]", "got list, want a JSON object"),
        (b"{}", "schema: got None, want 1"),
    ],
)
def test_a_damaged_json_is_named(folder: Path, content: bytes, message: str) -> None:
    (folder / "columns.json").write_bytes(content)
    refused(folder, f"columns.json:? {message}")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_cut_longer_or_of_other_rows_is_named(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    refused(folder, f"{path}: no such file, want ")
    for size in (0, 5, 40, 100, 128, len(content) - 1):
        path.write_bytes(content[:size])
        refused(folder, rf"{path}: got a damaged or truncated file \(.*\), want \[")
    path.write_bytes(content + b"x")
    refused(folder, f"{path}: got {len(content) + 1} bytes, want {len(content)} for ")
    path.write_bytes(content)
    np.save(path, np.load(path)[:-1])
    refused(folder, rf"{path}: got \[.*\] .*, want \[.*\] .*, as columns.json says")
    path.write_bytes(content)
    np.save(path, np.load(path).astype(np.float32))
    refused(folder, rf"{path}: got \[.*\] float32, want ")
    path.write_bytes(content)
    np.save(path, np.array([{}]), allow_pickle=True)
    refused(folder, f"{path}: got a damaged or truncated file")


@given(st.integers(0, 127), st.integers(0, 255))
def test_a_damaged_header_is_one_line_or_read_right(at: int, byte: int) -> None:
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "columns")
        train, _ = written(folder, [3, 4])
        content = bytearray((folder / "images.npy").read_bytes())
        content[at] = byte
        (folder / "images.npy").write_bytes(content)
        message = ""
        try:
            shape = read_columns(folder).train.inputs.shape
        except DataError as error:
            message = str(error)
        if message:
            assert message.startswith(f"{folder / 'images.npy'}: got")
            assert "\n" not in message
        else:
            assert shape == train.inputs.shape


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("offsets.npy", 0, 1, "drawn clients: got rows 1 to 22, want 0 to 22"),
        ("offsets.npy", 4, 21, "drawn clients: got rows 0 to 21, want 0 to 22"),
        ("offsets.npy", 2, 2, "drawn clients: client 1 got rows 3 to 2, want none to end before it begins"),
        ("labels.npy", 3, 5, "drawn train labels: got 0 to 5, want 0 to 4"),
        ("test_labels.npy", 3, -1, "drawn test labels: got -1 to 4, want 0 to 4"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_field(
    folder: Path, name: str, at: int, value: int, message: str
) -> None:
    column = np.load(folder / name)
    column[at] = value
    np.save(folder / name, column)
    refused(folder, f"{folder}: {message}")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", f"{tmp_path / 'nowhere'}: no such folder, want one with columns")
    refused(tmp_path, f"{tmp_path / 'columns.json'}: no such file, want a folder with columns")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        read_columns(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(folder))


def test_the_source_needs_its_folder(folder: Path) -> None:
    assert load(DataConfig(source="columns", folder=folder), seed=0).name == "drawn"
    with pytest.raises(DataError, match=r"^data\.folder: got none, want the folder with the columns"):
        load(DataConfig(source="columns"), seed=0)


@pytest.mark.parametrize("method", ["natural", "iid", "dirichlet", "shards"])
@pytest.mark.parametrize("clients", [1, 3])
def test_packing_on_disk_is_packing_in_memory(folder: Path, method: Any, clients: int) -> None:
    data = read_columns(folder)
    config = DataConfig(clients=clients, partition=method, min_examples=3)
    divided = partition(data.train.labels, config, 1, data.natural)
    on_disk, here = (pack(examples, divided, 0.3, 1) for examples in (data.train, in_memory(data)))
    assert on_disk.on_disk
    assert not here.on_disk
    rows = np.random.default_rng(0).integers(0, len(here.labels), (5, 4))
    for one, two in ((on_disk, here), (merge(on_disk), merge(here)), (merge(merge(on_disk)), merge(here))):
        assert isinstance(one.inputs, DiskRows)
        assert (one.inputs.shape, one.inputs.dtype) == (two.inputs.shape, two.inputs.dtype)
        assert (one.nbytes, len(one.inputs), len(one.labels)) == (two.nbytes, len(two.inputs), len(two.labels))
        for name, array in two._asdict().items():
            np.testing.assert_array_equal(np.asarray(getattr(one, name)), array)
        for got, want in zip(one.take(rows), two.take(rows), strict=True):
            assert type(got) is np.ndarray
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            np.testing.assert_array_equal(got, want)


def test_chunks_of_a_test_split_on_disk_stay_there(folder: Path) -> None:
    data = read_columns(folder)
    cut = chunks(data.test, 3)
    assert isinstance(cut.inputs, np.memmap)
    assert cut.on_disk
    assert type(cut.take(np.array([6, 0]))[0]) is np.ndarray
    np.testing.assert_array_equal(cut.take(np.array([6, 0]))[1], np.array(data.test.labels)[[6, 0]])


def test_rows_on_disk_become_an_array_only_by_copying(folder: Path) -> None:
    rows = DiskRows(read_columns(folder).train.labels, np.array([4, 2]))
    assert np.asarray(rows, np.int64).dtype == np.int64
    assert rows[0] == read_columns(folder).train.labels[4]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(rows, copy=False)


def test_synthetic_columns_have_the_clients_asked_for_and_repeat_by_seed(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        write_synthetic_columns(tmp_path / name, 5000, 2, 5, (6, 7, 3), 4, seed)
    one, same, other = (read_columns(tmp_path / name) for name in ("one", "same", "other"))
    assert one.natural is not None
    assert np.bincount(np.diff(one.natural))[2:].min() > 5000 / 5
    assert (len(one.natural), one.classes, one.train.inputs.shape[1:]) == (5001, 4, (6, 7, 3))
    assert len(one.test.labels) == 5000 * 7 // 8
    # Every block holds classes in equal numbers, but for what does not divide.
    assert np.ptp(np.bincount(one.train.labels)) <= 5
    assert one.train.inputs.reshape(len(one.train.inputs), -1).std(axis=1).min() > 10
    np.testing.assert_array_equal(one.train.inputs, same.train.inputs)
    assert not np.array_equal(one.test.inputs, other.test.inputs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clients": 0}, "clients: got 0, want at least 1"),
        ({"low": 0}, "low: got 0, want at least 1"),
        ({"high": 2}, "high: got 2, want at least low, which is 3"),
        ({"shape": (8, 0, 1)}, "shape: got 0, want at least 1"),
        ({"classes": 0}, "classes: got 0, want at least 1"),
    ],
)
def test_synthetic_columns_that_cannot_be_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    asked = {"clients": 2, "low": 3, "high": 4, "shape": (8, 8, 1), "classes": 10, "seed": 0} | changed
    with pytest.raises(DataError, match=f"^write_synthetic_columns {message}"):
        write_synthetic_columns(tmp_path / "columns", **asked)
    assert os.listdir(tmp_path) == []


def test_writing_and_packing_100000_clients_hold_a_small_part_of_them_in_memory() -> None:
    # Not in pytest's folder, which it keeps: 400,000 images of 8x8x4 are 98 MiB.
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "columns")
        some = Examples(np.zeros((4000, 8, 8, 4), np.uint8), np.zeros(4000, np.int32))
        tracemalloc.start()
        try:
            write_columns(folder, "src", itertools.repeat((some, np.full(1000, 4)), 100), some, CLASSES)
            assert tracemalloc.get_traced_memory()[1] / 2**20 < 20
            tracemalloc.reset_peak()
            data = read_columns(folder)
            config = DataConfig(source="columns", partition="natural", clients=0)
            packed = pack(data.train, partition(data.train.labels, config, 0, data.natural), 0.2, 0)
            images, _ = packed.take(np.arange(packed.offsets[40], packed.offsets[50]))
            # Four index arrays of 8 bytes an example at the same time, and arrays of clients.
            assert tracemalloc.get_traced_memory()[1] / 2**20 < 30
        finally:
            tracemalloc.stop()
    assert (packed.clients, len(packed.labels), len(images)) == (100_000, 400_000, 40)
    assert packed.nbytes / 2**20 > 98


def test_a_writer_takes_both_splits_in_blocks_and_counts_the_classes(tmp_path: Path) -> None:
    train, test = drawn(9), drawn(4, seed=1)
    with ColumnsWriter(tmp_path / "columns", "src") as writer:
        for part in (slice(0, 5), slice(5, 9)):
            writer.add(Examples(train.inputs[part], train.labels[part]))
        for part in (slice(0, 1), slice(1, 4)):
            writer.add_test(Examples(test.inputs[part], test.labels[part]))
        assert os.listdir(tmp_path) != ["columns"]
        writer.finish()
    data = read_columns(tmp_path / "columns")
    assert data.natural is None
    assert not (tmp_path / "columns" / "offsets.npy").exists()
    assert data.classes == 1 + max(train.labels.max(), test.labels.max())
    np.testing.assert_array_equal(data.train.inputs, train.inputs)
    np.testing.assert_array_equal(data.test.labels, test.labels)


def test_a_writer_refuses_clients_that_come_and_go_and_splits_without_examples(tmp_path: Path) -> None:
    for first, second, got in ((None, np.array([3]), "some"), (np.array([3]), None, "none")):
        with ColumnsWriter(tmp_path / "columns", "src") as writer:
            writer.add(GOOD, first)
            with pytest.raises(DataError, match=f"src block 1 sizes: got {got}, want as in the blocks before"):
                writer.add(GOOD, second)
            with pytest.raises(DataError, match="src: got no test examples, want at least one"):
                writer.finish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("remap", "message"),
    [(False, "src labels: got none but -1, want some"), (True, "src block 0 labels: got one for every position")],
)
def test_a_writer_refuses_positions_that_have_no_label_or_would_be_numbered_anew(
    remap: bool, message: str, tmp_path: Path
) -> None:
    texts = Examples(np.ones((2, 3), np.int32), np.full((2, 3), -1, np.int32))

    def write() -> None:
        with ColumnsWriter(tmp_path / "columns", "src", remap=remap) as writer:
            writer.add(texts)
            writer.add_test(texts)
            writer.finish()

    with pytest.raises(DataError, match=f"^{message}"):
        write()
    assert os.listdir(tmp_path) == []
