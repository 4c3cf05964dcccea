"""Fashion-MNIST: prepared from local files byte for byte, all or nothing, without TensorFlow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fednas_jax
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import fashion_mnist, load, prepare
from fednas_jax.data.examples import channel_statistics
from fednas_jax.data.fashion_mnist import DEBIAN_FOLDER, is_prepared, prepare_fashion_mnist, read_idx_split
from fednas_jax.errors import DataError

BROKEN = "t10k-labels-idx1-ubyte"

PREPARE_AND_LOAD = """
import sys
from pathlib import Path
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import load, prepare

source, root = map(Path, sys.argv[1:])
prepare("fashion_mnist", source, root)
print(len(load(DataConfig(source="fashion_mnist", root=root), 0).train.labels), "tensorflow" in sys.modules)
"""


def config(root: Path) -> DataConfig:
    return DataConfig(source="fashion_mnist", root=root)


def test_what_was_prepared_is_read_back_byte_for_byte(
    tmp_path: Path, idx_folder: Path, idx_arrays: dict[str, np.ndarray]
) -> None:
    folder = prepare_fashion_mnist(idx_folder, tmp_path / "root")
    assert folder == tmp_path / "root" / "fashion_mnist_idx" / "1.0.0"
    assert {"".join(f.suffixes)[:13] for f in folder.glob("*record*")} == {".array_record"}
    data = load(config(tmp_path / "root"), seed=0)
    assert (data.name, data.classes) == ("fashion_mnist", 10)
    for part, examples in (("train", data.train), ("t10k", data.test)):
        np.testing.assert_array_equal(examples.inputs[..., 0], idx_arrays[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(examples.labels, idx_arrays[f"{part}-labels-idx1-ubyte"])


def test_the_fast_reader_agrees_with_tfds_own(tmp_path: Path, idx_folder: Path) -> None:
    import tensorflow_datasets as tfds

    folder = prepare_fashion_mnist(idx_folder, tmp_path / "root")
    source = tfds.builder_from_directory(str(folder)).as_data_source(split="train")
    train = load(config(tmp_path / "root"), seed=0).train
    assert len(source) == len(train.labels)
    for row, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], train.inputs[row])
        assert example["label"] == train.labels[row]


def test_preparing_puts_nothing_else_into_the_root_and_prints_nothing(
    tmp_path: Path, idx_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_fashion_mnist(idx_folder, tmp_path / "root")
    assert [f.name for f in (tmp_path / "root").iterdir()] == ["fashion_mnist_idx"]
    assert [f.name for f in (tmp_path / "root" / "fashion_mnist_idx").iterdir()] == ["1.0.0"]
    assert capsys.readouterr().out == ""


def test_preparing_twice_says_so_and_changes_nothing(tmp_path: Path, idx_folder: Path) -> None:
    root = tmp_path / "root"
    assert prepare("fashion_mnist", idx_folder, root).startswith("fashion_mnist: prepared in ")
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in root.rglob("*") if f.is_file()}
    assert prepare("fashion_mnist", tmp_path / "not needed", root).startswith("fashion_mnist: already prepared in ")
    assert {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in root.rglob("*") if f.is_file()} == before


def test_a_broken_file_stops_the_import_before_anything_is_written(tmp_path: Path, idx_folder: Path) -> None:
    file = idx_folder / BROKEN
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"{BROKEN}: got 29 bytes after the header, want 30"):
        prepare_fashion_mnist(idx_folder, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_import_that_fails_midway_leaves_nothing_that_looks_prepared(
    tmp_path: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fednas_jax.data.fashion_mnist_builder import FashionMnistIdx

    def disk_full(builder: FashionMnistIdx, examples: object) -> object:
        yield 0, {"image": np.zeros((28, 28, 1), np.uint8), "label": 0}
        raise OSError(28, "No space left on device")

    root = tmp_path / "root"
    with monkeypatch.context() as patched:
        patched.setattr(FashionMnistIdx, "_generate_examples", disk_full)
        with pytest.raises(DataError, match="cannot be written") as error:
            prepare_fashion_mnist(idx_folder, root)
    assert "\n" not in str(error.value)
    assert not is_prepared(root)
    assert not [f for f in root.rglob("*") if f.is_file()]
    prepare_fashion_mnist(idx_folder, root)
    assert len(load(config(root), seed=0).train.labels) == 70


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, idx_folder: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written") as error:
        prepare_fashion_mnist(idx_folder, tmp_path / "file")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["train-images-idx3-ubyte.gz", BROKEN])
def test_a_missing_file_is_named(tmp_path: Path, idx_folder: Path, missing: str) -> None:
    (idx_folder / missing).unlink()
    name = missing.removesuffix(".gz")
    with pytest.raises(DataError, match=f"got no {name}.gz and no {name}, want one of them"):
        prepare_fashion_mnist(idx_folder, tmp_path / "root")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-images-idx3-ubyte.gz", np.zeros((70, 8, 9)), "got images of 8x9, want 28x28"),
        ("train-labels-idx1-ubyte", np.zeros(69), "got 70 images and 69 labels"),
        ("train-labels-idx1-ubyte", np.full(70, 10), "got 10 to 10, want 0 to 9"),
    ],
)
def test_files_that_do_not_hold_fashion_mnist_are_refused(
    idx_folder: Path, write_idx, name: str, array: np.ndarray, message: str
) -> None:
    write_idx(idx_folder / name, array)
    with pytest.raises(DataError, match=message):
        read_idx_split(idx_folder, "train")


def test_loading_it_unprepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(config(tmp_path), seed=0)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(tmp_path), "dataset-fashion-mnist", "`fednas data prepare fashion_mnist --from DIR`"):
        assert part in message


@pytest.mark.parametrize("file", ["dataset_info.json", "fashion_mnist_idx-train.array_record-00000-of-00001"])
def test_a_damaged_folder_is_named_in_one_line(tmp_path: Path, idx_folder: Path, file: str) -> None:
    folder = prepare_fashion_mnist(idx_folder, tmp_path / "root")
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(DataError, match="got damaged data") as error:
        load(config(tmp_path / "root"), seed=0)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_default_root_is_that_of_tfds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert fashion_mnist.prepared_folder(None).is_relative_to(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fashion_mnist.prepared_folder(None).is_relative_to(tmp_path / "home" / "tensorflow_datasets")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="where TensorFlow is installed, TFDS may use it",
)
def test_preparing_and_reading_need_no_tensorflow(tmp_path: Path, idx_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE_AND_LOAD, str(idx_folder), str(tmp_path / "root")],
        cwd=Path(fednas_jax.__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["70", "False"]


@pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason=f"needs {DEBIAN_FOLDER} from Debian's package dataset-fashion-mnist"
)
def test_the_real_files_have_the_published_class_counts_and_the_usual_mean_and_deviation() -> None:
    train, test = (read_idx_split(DEBIAN_FOLDER, split) for split in ("train", "test"))
    np.testing.assert_array_equal(np.bincount(train.labels), [6000] * 10)
    np.testing.assert_array_equal(np.bincount(test.labels), [1000] * 10)
    assert np.round(channel_statistics(train.inputs), 4).tolist() == [[0.2860], [0.3530]]
