"""Sets of TFDS: every pixel as it was stored, without TensorFlow, decoded once; what cannot be is one line."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from written_sets import drawn, encoded, write_set

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import list_sources, load, partition, prepare, tfds_sets
from fednas_jax.data.fashion_mnist import DEBIAN_FOLDER, read_idx_split
from fednas_jax.data.sources import SOURCES
from fednas_jax.errors import DataError

NAMES = [name for name, source in SOURCES.items() if "image_feature" in source.fields]


def config(name: str, root: Path, **fields: Any) -> DataConfig:
    return DataConfig(source=name, root=root, **fields)


@pytest.mark.parametrize("name", NAMES)
def test_every_known_set_is_read_with_its_builders_features(name: str, tmp_path: Path) -> None:
    assert not list_sources(tmp_path)[name].prepared
    test = "validation" if name.startswith("imagenet") else "test"
    write_set(name, tmp_path, {"train": drawn(name, 7), test: drawn(name, 3, seed=1)})
    assert list_sources(tmp_path)[name].prepared
    assert prepare(name, None, tmp_path).startswith(f"{name}: already prepared in {tmp_path / name}")
    data = load(config(name, tmp_path, image_size=8 if name == "imagenet2012" else 0), seed=0)
    assert importlib.util.find_spec("tensorflow") or "tensorflow" not in sys.modules
    assert data.name == name
    assert (len(data.train.labels), len(data.test.labels)) == (7, 3)
    described = SOURCES[name].description
    shape = (8, 8, 3) if name == "imagenet2012" else data.train.inputs.shape[1:]
    assert data.train.inputs.shape[1:] == shape
    if name != "imagenet2012":
        assert "x".join(map(str, shape)) in described
    if "classes" in described:
        assert f"{data.classes:,} classes" in described


def test_fashion_mnist_through_tfds_equals_the_idx_files_byte_for_byte(tmp_path: Path, idx_folder: Path) -> None:
    splits = {split: read_idx_split(idx_folder, split) for split in ("train", "test")}
    write_set(
        "fashion_mnist",
        tmp_path,
        {
            split: [{"image": encoded(image), "label": label} for image, label in zip(*examples, strict=True)]
            for split, examples in splits.items()
        },
    )
    data = load(config("tfds:fashion_mnist", tmp_path), seed=0)
    assert data.classes == 10
    for split, examples in splits.items():
        read = getattr(data, split)
        # TFDS shuffles by a hash of the keys; every image is another.
        order, want = (np.lexsort(images.reshape(len(images), -1).T) for images in (read.inputs, examples.inputs))
        np.testing.assert_array_equal(read.inputs[order], examples.inputs[want])
        np.testing.assert_array_equal(read.labels[order], examples.labels[want])


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_real_images_of_fashion_mnist_survive_tfds(tmp_path: Path) -> None:
    test = read_idx_split(DEBIAN_FOLDER, "test")
    some = [{"image": encoded(test.inputs[n]), "label": test.labels[n]} for n in range(99)]
    write_set("fashion_mnist", tmp_path, {"train": some, "test": some[:1]})
    read = load(config("tfds:fashion_mnist", tmp_path), seed=0).train
    assert {image.tobytes() for image in read.inputs} == {image.tobytes() for image in test.inputs[:99]}


def faces(number: int, people: int, first: int = 0) -> list[dict[str, Any]]:
    """Faces of celeb_a: of even number smiling; the red of the image tells which it is."""
    examples = drawn("celeb_a", number)
    for n, example in enumerate(examples):
        example["image"] = encoded(np.full((218, 178, 3), first + n, np.uint8))
        example["attributes"] |= {"Smiling": n % 2 == 0, "Male": True}
        example["identity"] = {"Identity_No": 7000 - n % people}
    return examples


def test_clients_of_celeb_a_are_its_identities_and_the_label_is_any_attribute(tmp_path: Path) -> None:
    write_set("celeb_a", tmp_path, {"train": faces(12, 3), "validation": faces(2, 1), "test": faces(4, 2, first=100)})
    data = load(config("celeb_a", tmp_path, image_size=4), seed=0)
    assert data.classes == 2
    assert data.natural is not None
    assert data.natural.tolist() == [0, 4, 8, 12]
    numbers = data.train.inputs[:, 0, 0, 0]
    # Ids ascend, and the nth face is person 7000 - n % 3.
    assert [sorted(numbers[4 * c : 4 * c + 4] % 3) for c in range(3)] == [[2] * 4, [1] * 4, [0] * 4]
    np.testing.assert_array_equal(data.train.labels, numbers % 2 == 0)
    assert sorted(data.test.inputs[:, 0, 0, 0]) == [100, 101, 102, 103]
    taken = config("celeb_a", tmp_path, image_size=4, partition="natural", clients=2)
    assert np.diff(partition(data.train.labels, taken, 0, data.natural).offsets).tolist() == [4, 4]
    male = load(config("celeb_a", tmp_path, image_size=4, label_feature="attributes/Male"), seed=0)
    assert male.train.labels.tolist() == [1] * 12
    assert len(load(config("celeb_a", tmp_path, image_size=4, test_split="validation"), seed=0).test.labels) == 2


IMAGE, LABEL = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(num_classes=3)


def photographs(root: Path, number: int = 12, test: int = 0, **more: Any) -> Path:
    """A set `photos` of images of one size, with features of its own: image, kind and more."""
    rng = np.random.default_rng(0)
    examples = [
        {"image": encoded(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)), "kind": n % 3}
        | {key: value[1](n) for key, value in more.items()}
        for n in range(number + test)
    ]
    features = {"image": IMAGE, "kind": LABEL} | {key: value[0] for key, value in more.items()}
    splits = {"train": examples[:number]} | ({"test": examples[number:]} if test else {})
    return write_set("photos", root, splits, tfds.features.FeaturesDict(features))


def test_any_other_set_is_read_by_name_and_features(tmp_path: Path) -> None:
    photographs(tmp_path, number=40, author=(tfds.features.Text(), lambda n: f"né {n % 4}"))
    asked = config("tfds:photos", tmp_path, label_feature="kind", client_feature="author")
    data = load(asked, seed=0)
    assert (data.name, data.classes, data.train.inputs.shape[1:]) == ("tfds:photos", 3, (6, 9, 3))
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [9, 9, 9, 9]


def test_without_a_test_split_a_tenth_of_every_class_is_held_out(tmp_path: Path) -> None:
    photographs(tmp_path, number=60)
    data = load(config("tfds:photos", tmp_path, label_feature="kind"), seed=0)
    assert np.bincount(data.test.labels).tolist() == [2, 2, 2]
    assert len(data.train.labels) == 54
    assert data.natural is None


def test_pixels_stored_as_tensors_are_read_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 4), dtype=np.uint8)
    for name, encoding in (("raw", "bytes"), ("listed", "none")):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(5, 4), dtype=np.uint8, encoding=encoding),
                "label": np.int64,
            }
        )
        examples = [{"image": image, "label": n % 2} for n, image in enumerate(images)]
        write_set(name, tmp_path, {"train": examples, "test": examples[:1]}, features)
        data = load(config(f"tfds:{name}", tmp_path), seed=0)
        np.testing.assert_array_equal(data.train.inputs[..., 0], images)
        assert data.classes == 2


def test_decoding_is_done_once_for_each_choice_beside_the_prepared_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = photographs(tmp_path, test=3)
    asked = config("tfds:photos", tmp_path, label_feature="kind")
    first = load(asked, seed=0)
    load(dataclasses.replace(asked, image_size=4), seed=0)
    assert sorted(path.name.rpartition("-")[0] for path in prepared.glob("columns-*")) == ["columns-4", "columns-own"]
    monkeypatch.setattr(tfds_sets, "_decode", lambda *_: pytest.fail("decoded again"))
    again = load(asked, seed=1)
    np.testing.assert_array_equal(first.train.inputs, again.train.inputs)
    assert not isinstance(again.train.inputs, np.memmap)
    monkeypatch.setattr(tfds_sets, "IN_MEMORY_BYTES", again.train.inputs.nbytes)
    assert isinstance(load(asked, seed=0).train.inputs, np.memmap)


def test_a_process_that_finds_the_columns_made_meanwhile_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs(tmp_path, test=3)
    asked = config("tfds:photos", tmp_path, label_feature="kind")
    write = tfds_sets.write_listing

    def second(columns: Path, *rest: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(tfds_sets, "write_listing", write)
            load(asked, seed=0)
        write(columns, *rest)

    monkeypatch.setattr(tfds_sets, "write_listing", second)
    assert len(load(asked, seed=0).test.labels) == 3


def test_a_root_that_cannot_be_written_sends_the_columns_to_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = photographs(tmp_path / "root", test=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != prepared)
    data = load(config("tfds:photos", tmp_path / "root", label_feature="kind"), seed=0)
    assert len(data.test.labels) == 3
    assert not list(prepared.glob("columns-*"))
    assert len(list((tmp_path / "cache" / "fednas_jax" / "columns").glob("*/columns-own-*/columns.json"))) == 1


def test_columns_in_the_users_cache_are_those_of_the_set_that_is_prepared_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = photographs(tmp_path / "root", test=3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != prepared)
    asked = config("tfds:photos", tmp_path / "root", label_feature="kind")
    assert len(load(asked, seed=0).test.labels) == 3
    shutil.rmtree(prepared)
    photographs(tmp_path / "root", test=5)
    assert len(load(asked, seed=0).test.labels) == 5


def test_clients_may_be_any_bytes_and_labels_only_class_numbers(tmp_path: Path) -> None:
    names = (tfds.features.Text(), lambda n: b"\xff%d" % (n % 3))
    numbers = (tfds.features.Scalar(np.int64), lambda n: n - 2**40)
    photographs(tmp_path, test=3, author=names, number_of=numbers)
    data = load(config("tfds:photos", tmp_path, label_feature="kind", client_feature="author"), seed=0)
    assert data.natural is not None
    assert np.diff(data.natural).tolist() == [4, 4, 4]
    message = r"data.label_feature: got 'number_of', of which train has -\S+ to -\S+, want class numbers from 0"
    refused(config("tfds:photos", tmp_path, label_feature="number_of"), message)


def refused(asked: DataConfig, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        load(asked, seed=0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "data.label_feature: got 'label', want one of area, image, kind, weight: data.source is tfds:photos"),
        ({"label_feature": "kind", "image_feature": "photo"}, "data.image_feature: got 'photo', want one of area, i"),
        ({"label_feature": "kind", "client_feature": "author"}, "data.client_feature: got 'author', want one of area"),
        (
            {"label_feature": "weight"},
            r"data.label_feature: got 'weight', which is \(\) float32, want one whole",
        ),
        (
            {"label_feature": "kind", "image_feature": "area"},
            r"data.image_feature: got 'area', which is .*, want a",
        ),
        (
            {"label_feature": "kind", "client_feature": "image"},
            "data.client_feature: got 'image', which is .*, want",
        ),
        ({"label_feature": "kind", "test_split": "dev"}, "data.test_split: got 'dev', want one of test, train"),
    ],
)
def test_features_and_splits_that_are_not_there_or_do_not_fit_are_refused(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    box = tfds.features.Tensor(shape=(4,), dtype=np.uint8)
    photographs(tmp_path, test=1, weight=(np.float32, lambda n: 0.5), area=(box, lambda n: np.zeros(4, np.uint8)))
    refused(config("tfds:photos", tmp_path, **fields), message)


def test_images_of_differing_shapes_ask_for_a_size(tmp_path: Path) -> None:
    name = "imagenet2012"
    prepared = write_set(name, tmp_path, {"train": drawn(name, 5), "validation": drawn(name, 2)})
    refused(config(name, tmp_path), r"train record \d: got an image of 2\dx2\d, want 2\dx2\d as the first, or")
    assert not list(prepared.glob("*columns*"))


def test_a_corrupt_image_names_its_record_and_a_damaged_file_its_folder(tmp_path: Path) -> None:
    features = tfds.features.FeaturesDict({"image": IMAGE, "label": LABEL})
    good = encoded(np.zeros((4, 4, 3), np.uint8))
    examples = [{"image": good if n != 2 else good[:40], "label": 0} for n in range(4)]
    prepared = write_set("broken", tmp_path, {"train": examples, "test": examples[:1]}, features)
    refused(config("tfds:broken", tmp_path), f"{prepared} train record 2: got an image that cannot be decoded")
    (record,) = prepared.glob("*train.array_record*")
    record.write_bytes(record.read_bytes()[:100])
    refused(config("tfds:broken", tmp_path), f"{prepared}: got damaged data .*, want it deleted and prepared again")
    assert not list(prepared.glob("*columns*"))


def test_a_set_in_a_format_that_needs_tensorflow_says_so(tmp_path: Path) -> None:
    prepared = photographs(tmp_path, test=1)
    info = prepared / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    refused(config("tfds:photos", tmp_path, label_feature="kind"), "got tfrecord files, want array_record")


def test_a_set_that_is_not_prepared_says_how_to_prepare_it(tmp_path: Path) -> None:
    message = f"data.source: cifar10 is not prepared in {tmp_path}: run `fednas data prepare cifar10` .*fednas_jax.tf"
    refused(config("cifar10", tmp_path), message)
    write_set("emnist/letters", tmp_path, {"train": drawn("emnist/letters", 1)})
    refused(config("tfds:emnist", tmp_path), r"not prepared in .* \(of its configs there are letters\): run")


def test_the_newest_version_is_taken(tmp_path: Path) -> None:
    for version in ("3.0.1", "3.0.10", "3.0.2", "incomplete.3.0.11"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    assert tfds_sets.tfds_folder("mnist", tmp_path) == tmp_path / "mnist" / "3.0.10"
    assert tfds_sets.tfds_folder("kmnist", tmp_path) is None


@pytest.mark.parametrize("name", ["tfds:", "tfds:../x", "tfds:a/b/c", "tfds:/etc"])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    refused(config(name, tmp_path), f"data.source: got '{name}', want tfds:NAME or tfds:NAME/CONFIG")


@pytest.mark.parametrize(
    ("package", "wanted"),
    [("tensorflow", "'fednas_jax\\[tf\\]'"), ("importlib_resources", "'fednas_jax\\[tf\\]'"), ("pydub", "pydub")],
)
def test_preparing_without_a_package_names_what_installs_it(
    package: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NeedsIt:
        def download_and_prepare(self, **_: Any) -> None:
            try:
                raise ModuleNotFoundError(f"No module named '{package}'", name=f"{package}.io")
            except ImportError as error:
                raise RuntimeError("Failed to encode example:\n<image>") from error

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: NeedsIt())
    message = rf"^data prepare mnist: got no package {package}, which .*: want pip install {wanted}$"
    with pytest.raises(DataError, match=message):
        prepare("mnist", None, tmp_path)


def test_preparing_says_in_one_line_what_tfds_could_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="data prepare no_such_set: TFDS has no set of this name"):
        prepare("tfds:no_such_set", None, tmp_path)

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds, "builder", offline)
    with pytest.raises(DataError, match=r"data prepare mnist: TFDS failed \(ConnectionError: no route\)$"):
        prepare("mnist", None, tmp_path)


def test_preparing_puts_the_set_where_loading_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Builder:
        data_dir = tmp_path / "cifar10" / "3.0.2"

        def download_and_prepare(self, download_config: Any) -> None:
            seen["manual"] = download_config.manual_dir
            write_set("cifar10", tmp_path, {"train": drawn("cifar10", 4), "test": drawn("cifar10", 2)})

    def builder(name: str, **settings: Any) -> Builder:
        seen.update(settings, name=name)
        return Builder()

    monkeypatch.setattr(tfds, "builder", builder)
    assert prepare("cifar10", tmp_path, tmp_path) == f"cifar10: prepared in {Builder.data_dir}"
    assert seen == {
        "name": "cifar10",
        "data_dir": str(tmp_path),
        "file_format": "array_record",
        "manual": str(tmp_path),
    }
    assert len(load(config("cifar10", tmp_path), seed=0).train.labels) == 4
