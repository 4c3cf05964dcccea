"""Parquet, CSV and Hugging Face's folders: columns found or named, clients kept together, each mistake one line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import importing
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import written_files
from importing import refused
from written_files import arrow_table, png

from fednas_jax.data import Dataset, ImportOptions, bounds, import_data, read_columns

X = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
Y = [n % 2 for n in range(12)]
CLIENTS = ["zoe", "al", "bo"] * 4  # no client's rows lie together


def imported(kind: str, source: Path, **options: Any) -> Dataset:
    return importing.imported(kind, source, **options)[0]


def clients_of(data: Dataset) -> list[set[bytes]]:
    assert data.natural is not None
    return [
        {image.tobytes() for image in data.train.inputs[a:b]}
        for a, b in zip(data.natural[:-1], data.natural[1:], strict=True)
    ]


def owned(name: str) -> set[bytes]:
    return {X[n].tobytes() for n in range(12) if CLIENTS[n] == name}


@pytest.mark.parametrize("form", ["parquet", "csv", "huggingface"])
def test_rows_of_a_client_that_lie_apart_come_together_in_the_order_of_names(form: str, tmp_path: Path) -> None:
    kind, name, write = written_files.KINDS[form]
    write(tmp_path / name, X, Y, CLIENTS)
    data = imported(kind, tmp_path / name)
    found = clients_of(data)
    assert [len(held) for held in found] == [3, 3, 3]
    assert all(held < owned(client) for held, client in zip(found, ("al", "bo", "zoe"), strict=True))
    assert data.class_names == (() if form == "csv" else ("zero", "one"))
    alone = imported(kind, tmp_path / name, client_column="none")
    assert alone.natural is None
    assert len(alone.train.labels) == 8


def test_clients_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    written_files.csv(tmp_path / "t.csv", X, Y, ["10", "9", "8"] * 4)
    found = clients_of(imported("table", tmp_path / "t.csv"))
    eights = {X[n].tobytes() for n in range(2, 12, 3)}
    assert found[0] < eights


def test_labels_that_are_texts_are_classes_in_the_order_of_the_alphabet(tmp_path: Path) -> None:
    written_files.csv(tmp_path / "t.csv", X, [("dog", "cat")[y] for y in Y], CLIENTS)  # type: ignore[misc]
    data = imported("table", tmp_path / "t.csv")
    assert (data.classes, data.class_names) == (2, ("cat", "dog"))
    which = {X[n].tobytes(): 1 - Y[n] for n in range(12)}
    assert [which[image.tobytes()] for image in data.train.inputs] == data.train.labels.tolist()


def test_labels_from_1_are_numbered_anew_where_asked_for(tmp_path: Path) -> None:
    written_files.csv(tmp_path / "t.csv", X, [10 * y + 1 for y in Y], CLIENTS)
    assert imported("table", tmp_path / "t.csv").classes == 12
    data = imported("table", tmp_path / "t.csv", labels="remap")
    assert (data.classes, data.class_names) == (2, ("1", "11"))


def test_a_folder_of_files_has_the_splits_that_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    for n, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-0", "test-00000-of-00001")):
        written_files.parquet(tmp_path / "set" / "data" / f"{name}.parquet", X[3 * n : 3 * n + 3], Y[:3], CLIENTS[:3])
    refused("table", tmp_path / "set", "set: got examples for validation, want --validation train")
    data = imported("table", tmp_path / "set", validation="train")
    assert sorted(image.tobytes() for image in data.test.inputs) == sorted(image.tobytes() for image in X[9:])
    assert len(data.train.labels) == 9
    (tmp_path / "set" / "more.parquet").write_bytes(b"")
    refused("table", tmp_path / "set", r"more.parquet: got a name that says no split")


def test_a_dictionary_of_splits_of_hugging_face_is_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for n, split in enumerate(("train", "test")):
        written_files.huggingface(tmp_path / "set" / split, X[6 * n : 6 * n + 6], Y[:6], CLIENTS[:6])
    about = tmp_path / "set" / "dataset_dict.json"
    about.write_text(json.dumps({"splits": ["train", "test"]}))
    data = imported("huggingface", tmp_path / "set")
    assert (len(data.train.labels), len(data.test.labels), data.class_names) == (6, 6, ("zero", "one"))
    for splits, message in (
        (["train", "extra"], "got the split 'extra', want train, validation and test"),
        (["test"], "got the splits test, want one called train"),
        (["train", "../test"], r"got the split '\.\./test'"),
    ):
        about.write_text(json.dumps({"splits": splits}))
        refused("huggingface", tmp_path / "set", message)


def test_a_selection_by_indices_is_refused_since_its_rows_are_not_those_of_the_file(tmp_path: Path) -> None:
    written_files.huggingface(tmp_path / "set", X, Y, CLIENTS)
    state = json.loads((tmp_path / "set" / "state.json").read_text())
    (tmp_path / "set" / "state.json").write_text(json.dumps({**state, "_indices_data_files": [{"filename": "i"}]}))
    refused("huggingface", tmp_path / "set", "got rows chosen by indices, want flatten_indices")
    (tmp_path / "set" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../other.arrow"}]}))
    refused("huggingface", tmp_path / "set", r"_data_files: got '\.\./other.arrow', want a name")


def table(path: Path, **columns: Any) -> Path:
    held = {"image": pa.array([png(image) for image in X]), "label": pa.array(Y), **columns}
    pq.write_table(pa.table({name: column for name, column in held.items() if column is not None}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"label": None, "kind": pa.array(Y)}, {}, "got the columns image, kind, want --label-column to say which"),
        ({}, {"label_column": "labels"}, "label_column: got 'labels', which .* has not, want 'label'"),
        ({"other": pa.array([b""] * 12), "image": None, "more": pa.array([b""] * 12)}, {}, "want --image-column"),
        ({"label": pa.array([0.5] * 12)}, {}, "row 0 label: got 0.5, want a whole number or a text"),
        ({"label": pa.array([None] * 12, pa.int64())}, {}, "row 0 label: got nothing, want a whole number"),
        ({"label": pa.array([[1]] * 12)}, {}, r"row 0 label: got \[1\], want a whole number"),
        ({"user": pa.array(["a"] * 11 + [None])}, {}, "row 11 user: got nothing, want a whole number"),
        (
            {"image": pa.array(["../secret.png"] * 12)},
            {},
            r"image: got '\.\./secret.png', want the name of an image in",
        ),
        ({"image": pa.array(["/etc/passwd"] * 12)}, {}, "image: got '/etc/passwd', want the name of an image in"),
        ({"image": pa.array([7] * 12)}, {}, "row 0 image: got int, want an encoded image or its path"),
        ({"image": pa.array([None] * 12, pa.binary())}, {}, "row 0: got no image, want one"),
    ],
)
def test_what_a_table_has_not_or_holds_otherwise_is_named(
    columns: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused("table", table(tmp_path / "t.parquet", **columns), message, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,Label,label\nof_csv_0.png,1,2\n",
            "got the columns path, Label, label, want --label-column to say which",
        ),
        ("path,label\nof_csv_0.png\n", "line 2: got 1 values, want 2, as many as columns"),
        ("path,label,path\n", "got two columns called 'path', want each once"),
        ("path,label\nof_csv_0.png,\n", "line 2 label: got nothing, want a label"),
        ("path,label\n../x.png,1\n", r"line 2 path: got '\.\./x.png', want the name of an image in"),
        ("path,label\nnowhere.png,1\n", "nowhere.png: got an image that cannot be decoded|line 2: got an image that"),
        ("", r"got the columns , want --image-column"),
        ("path,label\n", "got no examples for training, want some"),
        ('path,label\n"of', r"cannot be read \(unexpected end of data\)"),
    ],
)
def test_what_is_wrong_with_a_csv_file_is_named_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    written_files.csv(tmp_path / "t.csv", X, Y, CLIENTS)
    (tmp_path / "t.csv").write_text(text)
    refused("table", tmp_path / "t.csv", message)


def test_labels_of_two_kinds_and_clients_that_are_missing_are_named(tmp_path: Path) -> None:
    written_files.csv(tmp_path / "t.csv", X, Y, ["a"] * 11 + [""])
    refused("table", tmp_path / "t.csv", "line 13 client: got None, want one as the others have")


def test_damaged_images_are_left_out_and_counted_where_asked_for(tmp_path: Path) -> None:
    images = [png(image) for image in X]
    images[0], images[5] = b"", images[5][:30]
    path = table(tmp_path / "t.parquet", image=pa.array([*images[:11], None]))
    refused("table", path, "row 0: got an image that cannot be decoded")
    said = import_data("table", path, tmp_path / "made", ImportOptions(skip_damaged=True, test_share=0.25))
    assert said.endswith("; 3 damaged images left out")
    data = read_columns(tmp_path / "made")
    kept = [*data.train.inputs[..., 0], *data.test.inputs[..., 0]]
    assert {image.tobytes() for image in kept} == {X[n].tobytes() for n in range(12) if n not in (0, 5, 11)}


def test_a_table_that_would_expand_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(
        pa.table({"image": pa.array([bytes(1_000_000)] * 20), "label": pa.array([0] * 20)}),
        path,
        compression="zstd",
        use_dictionary=False,
    )
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(bounds.needs, "memory", lambda: 10_000_000)
    refused("table", path, r"t.parquet: got 0.02 GB, unpacked, want at most 0.005 GB \(50% of this machine's memory\)")


def test_importing_holds_little_in_memory_whatever_the_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fednas_jax.data.listing._BLOCK_BYTES", 1 << 18)
    peaks = []
    for number in (600, 1400):
        images = np.random.default_rng(0).integers(0, 256, (number, 64, 64), dtype=np.uint8)
        path = tmp_path / f"{number}.parquet"
        clients = [str(n // 20) for n in range(number)]
        pq.write_table(arrow_table(images, [0] * number, clients), path, row_group_size=100)
        del images
        tracemalloc.start()
        import_data("table", path, tmp_path / f"made-{number}", ImportOptions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Of 3.3 MB more pixels none stay; what grows are a label and a client for each row.
    assert peaks[1] < peaks[0] + 1_000_000
