"""Sources of several files: which of them count, and that they hold the same columns, classes and clients."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import written_files
from importing import imported, refused

X = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
Y = [n % 2 for n in range(12)]
CLIENTS = ["zoe", "al", "bo"] * 4
FORMS = {
    form: about
    for form, about in (written_files.KINDS | written_files.OTHERS).items()
    if form in ("leaf", "hdf5", "parquet", "csv_rows", "webdataset") and written_files.installed(form)
}
"""Those of which a folder may hold several files."""


def without_folder(said: str) -> str:
    return said.partition(": ")[2]


@pytest.mark.parametrize("form", FORMS)
def test_copies_under_hidden_names_are_no_examples_of_their_own(form: str, tmp_path: Path) -> None:
    kind, name, write = FORMS[form]
    (tmp_path / "set" / ".ipynb_checkpoints").mkdir(parents=True)
    write(tmp_path / "set" / name, X, Y, CLIENTS)
    said = imported(kind, tmp_path / "set")[1]
    for copy in (f".ipynb_checkpoints/copy-{name}", f"._{name}"):
        (tmp_path / "set" / copy).write_bytes((tmp_path / "set" / name).read_bytes())
    assert without_folder(imported(kind, tmp_path / "set")[1]) == without_folder(said)


@pytest.mark.parametrize("form", sorted({*FORMS} - {"leaf"}))  # whose splits are folders
def test_the_ends_of_names_may_be_in_capitals(form: str, tmp_path: Path) -> None:
    kind, name, write = FORMS[form]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / f"train_{name}", X, Y, CLIENTS)
    write(tmp_path / "set" / f"TEST_{name.upper()}", X, Y, CLIENTS)
    data, _ = imported(kind, tmp_path / "set")
    assert (len(data.train.labels), len(data.test.labels)) == (12, 12)


@pytest.mark.parametrize("kind", ["table", "hdf5", "webdataset", "leaf"])
def test_a_source_that_is_not_there_is_named(kind: str, tmp_path: Path) -> None:
    refused(kind, tmp_path / "nowhere", r"nowhere: no such file or folder")


def test_tables_of_two_kinds_are_not_half_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for form, name in (("parquet_rows", "train.parquet"), ("csv_rows", "test.csv")):
        written_files.OTHERS[form][2](tmp_path / "set" / name, X, Y, CLIENTS)
    refused("table", tmp_path / "set", r"set: got test.csv and train.parquet, want .parquet or .csv files alone")


def csv(path: Path, header: str, *rows: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))


def test_a_file_beside_itself_in_another_form_is_not_taken_twice(tmp_path: Path) -> None:
    kind, name, write = FORMS["webdataset"]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / name, X, Y, CLIENTS)
    packed = gzip.compress((tmp_path / "set" / name).read_bytes())
    (tmp_path / "set" / f"{name}.gz").write_bytes(packed)
    refused(kind, tmp_path / "set", r"set: got webdataset.tar and webdataset.tar.gz, want one of them")
    (tmp_path / "set" / name).unlink()
    assert len(imported(kind, tmp_path / "set")[0].train.labels) == 9


def test_shards_that_are_missing_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        csv(tmp_path / "set" / f"{split}-00000-of-00002.csv", "x,label", "1,0", "2,1")
    csv(tmp_path / "set" / "test-00001-of-00002.csv", "x,label", "1,0")
    assert len(imported("table", tmp_path / "set")[0].test.inputs) == 3
    assert caplog.messages == [f"{tmp_path / 'set'}: got 1 of the 2 files train-*-of-00002"]


def test_features_are_those_of_the_same_name_in_every_file(tmp_path: Path) -> None:
    csv(tmp_path / "set" / "train.csv", "age,dose,label", "1,100,0", "2,200,1")
    csv(tmp_path / "set" / "test.csv", "dose,age,label", "300,3,0")
    data, said = imported("table", tmp_path / "set")
    assert data.test.inputs.tolist() == [[3, 300]]
    assert said.endswith("; features: age, dose")
    for header in ("age,weight,label", "age,dose,weight,label", "age,label"):
        csv(tmp_path / "set" / "test.csv", header, ",".join("0" * len(header.split(","))))
        refused("table", tmp_path / "set", r"test.csv (weight|dose): got (a|no) feature of this name, want the same")
        some, _ = imported("table", tmp_path / "set", feature_columns="age")
        assert some.test.inputs.tolist() == [[0]]


def classes_of(path: Path, labels: list[int], names: list[str] | None) -> None:
    features = {"label": {"names": names, "_type": "ClassLabel"}} if names else {}
    table = pa.table({"x": pa.array(np.arange(len(labels), dtype=np.float32)), "label": labels})
    said = json.dumps({"info": {"features": features}})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": said}), path)


def test_labels_that_are_numbers_of_other_classes_are_refused(tmp_path: Path) -> None:
    classes_of(tmp_path / "set" / "train.parquet", [0, 1], ["cat", "dog"])
    for names in (["cat", "dog"], None):
        classes_of(tmp_path / "set" / "test.parquet", [0, 1], names)
        assert imported("table", tmp_path / "set")[0].class_names == ("cat", "dog")
    classes_of(tmp_path / "set" / "test.parquet", [0, 1], ["dog", "cat"])
    message = "test.parquet label: got the classes dog, cat, want cat, dog, as in the first file"
    refused("table", tmp_path / "set", message)
    refused("table", tmp_path / "set", message, labels="remap")


@pytest.mark.parametrize("labels", ["0 1", "0.0 1.0", "1.0 0", "0. 1"])
def test_a_whole_number_is_the_same_class_and_client_however_it_is_written(labels: str, tmp_path: Path) -> None:
    csv(tmp_path / "set" / "train.csv", "x,label,user", "1,1,7", "", "2,0,7.0", "3,1,8", "4,0,8")
    csv(tmp_path / "set" / "test.csv", "x,label", *(f"{n},{label}" for n, label in enumerate(labels.split())))
    data, _ = imported("table", tmp_path / "set")
    assert (data.classes, data.class_names) == (2, ())
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert data.test.labels.tolist() == [int(float(label)) for label in labels.split()]
    assert data.natural is not None
    assert data.natural.tolist() == [0, 2, 4]


@pytest.mark.parametrize("labels", ["0.5 1", "nan 1", "1e-3 2"])
def test_a_quantity_is_no_class_unless_every_number_is_to_be_one(labels: str, tmp_path: Path) -> None:
    csv(tmp_path / "t.csv", "x,y", *(f"{n},{label}" for n, label in enumerate(labels.split() * 4)))
    refused(
        "table", tmp_path / "t.csv", f"t labels: got {labels.split()[0]}, want class numbers from 0, or names, or --lab"
    )
    assert imported("table", tmp_path / "t.csv", labels="remap")[0].class_names == tuple(sorted(labels.split()))
    csv(tmp_path / "t.csv", "x,y", *(f"{n},{label}" for n, label in enumerate([*labels.split(), "low"] * 4)))
    assert imported("table", tmp_path / "t.csv")[0].classes == 3


def test_numbers_with_leading_zeros_stay_names(tmp_path: Path) -> None:
    csv(tmp_path / "t.csv", "x,y", *(f"{n},{label}" for n, label in enumerate(["01", "10", "02"] * 4)))
    assert imported("table", tmp_path / "t.csv")[0].class_names == ("01", "02", "10")


def test_a_class_that_is_for_testing_alone_is_told(tmp_path: Path) -> None:
    csv(tmp_path / "set" / "train.csv", "x,label", "1,cat", "2,dog")
    csv(tmp_path / "set" / "test.csv", "x,label", "1,cat", "2,Dog", "3,owl")
    assert "; 2 classes without a training example: 0, 3; " in imported("table", tmp_path / "set")[1]
    csv(tmp_path / "set" / "test.csv", "x,label", "1,cat")
    assert "without" not in imported("table", tmp_path / "set")[1]


@pytest.mark.parametrize("number", [2**63, 2**40])
def test_labels_that_no_class_can_have_are_refused(number: int, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0], "label": pa.array([0, number], pa.uint64())}), tmp_path / "t.parquet")
    for labels in ("keep", "remap"):
        refused("table", tmp_path / "t.parquet", r"t labels: got 0 to \S+, want class numbers from 0", labels=labels)
