"""SQLite files of TensorFlow Federated: split by split and client by client, and nothing of them runs."""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from pathlib import Path
from typing import Any

import importing
import numpy as np
import pytest
from written_files import records

from fednas_jax.data import Dataset, ImportOptions, import_data, read_columns

refused = functools.partial(importing.refused, "sqlite")


def imported(source: Path, **options: Any) -> Dataset:
    folder = source.parent / f"columns-{len(list(source.parent.iterdir()))}"
    import_data("sqlite", source, folder, ImportOptions(**options))
    return read_columns(folder)


def said(*lines: str) -> list[dict[str, Any]]:
    return [{"tokens": line, "title": "a question", "score": 1} for line in lines]


def test_stack_overflows_splits_keep_every_clients_sentences(tmp_path: Path) -> None:
    source = tmp_path / "stackoverflow.sqlite"
    records(source, {"13": said("how to"), "07": said("how to sort a list", "to be")})
    records(source, {"07": said("sort numpy numpy"), "99": said("how")}, "test")
    data = imported(source, vocabulary=4, length=4)
    assert data.vocabulary == ("<pad>", "<unknown>", "<s>", "to", "how", "a", "be")
    assert data.natural is not None
    assert data.natural.tolist() == [0, 2, 3]
    assert data.train.inputs.tolist() == [[2, 4, 3, 1], [2, 3, 6, 2], [2, 4, 3, 2]]
    assert data.train.labels.tolist() == [[2, 1, -1, 3], [1, 4, 0, -1], [2, 1, 0, -1]]
    assert data.test.inputs.tolist() == [[2, 1, 1, 1], [2, 4, 2, 0]]
    records(source, {"10": said("to be")}, "held_out")
    refused(source, "got .* for validation, want --validation train")
    joined = imported(source, validation="train")
    assert joined.natural is not None
    assert np.diff(joined.natural).tolist() == [2, 1, 1]


def test_pictures_in_colour_are_whole_numbers_row_after_row(tmp_path: Path) -> None:
    pixels = np.arange(12).reshape(2, 2, 3)
    source = tmp_path / "cifar.sqlite"
    records(source, {"a": [{"image": (pixels + n).reshape(-1), "label": n, "coarse_label": n // 2} for n in range(4)]})
    data = imported(source, label_column="coarse_label", test_share=0.25)
    assert (data.train.inputs.shape, data.classes) == ((3, 2, 2, 3), 2)
    assert all((image == pixels + image[0, 0, 0]).all() for image in data.train.inputs)


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ({"title": "a"}, {}, "a.sqlite train u label: has title, want one whole number"),
        ({"label": 1, "title": "a"}, {}, "a.sqlite train u pixels: got none, has label, title"),
        ({"label": [1, 2], "pixels": [0.5]}, {}, "u label: got 2 values, want one whole number"),
        ({"label": 1, "pixels": [0.5] * 5}, {}, "u pixels: got 5 values, want a square image of 1 or 3 channels"),
        ({"label": 1, "pixels": [7.0] * 4}, {}, "u pixels: got floats from 7 to 7, want 0 to 1"),
        ({"label": 1, "pixels": [300] * 4}, {}, "u pixels: got 300 to 300, want 0 to 255"),
        ({"tokens": [b"a", b"b"]}, {}, "u tokens: got 2 values, want one text"),
        ({"tokens": "a"}, {"image_size": 8}, "data import image_size: got 8, want none: the files hold sentences"),
        ({"tokens": "a"}, {"most_gigabytes": 1e-9}, "train u: got .* GB, unpacked, want at most 1e-09 GB"),
        ({"label": 1, "pixels": [0.5]}, {"length": 3}, "data import length: got 3, want none: the files hold images"),
    ],
)
def test_records_that_do_not_fit_are_named(
    example: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    records(tmp_path / "a.sqlite", {"u": [example] * 4})
    refused(tmp_path / "a.sqlite", message, **options)


def test_images_of_two_sizes_and_splits_of_other_names_are_named(tmp_path: Path) -> None:
    records(tmp_path / "a.sqlite", {"u": [{"label": 1, "pixels": [0.5] * n} for n in (4, 9)]})
    refused(tmp_path / "a.sqlite", "u pixels: got an image of 3x3x1, want 2x2x1 as the first")
    records(tmp_path / "a.sqlite", {"v": said("a")}, "extra")
    refused(tmp_path / "a.sqlite", "got the split 'extra', want train, held_out and test, each once")
    records(tmp_path / "b.sqlite", {"v": said("a")}, "test")
    refused(tmp_path / "b.sqlite", "got the splits test, want one called train")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW examples AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        "CREATE VIRTUAL TABLE examples USING fts5(split_name, client_id, serialized_example_proto)",
        "CREATE TABLE other (x)",
    ],
)
def test_what_would_compute_the_examples_is_no_table_of_them(statement: str, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as file, file:
        file.execute(statement)
    refused(tmp_path / "a.sqlite", "a.sqlite: got no table examples, want a whole SQLite file")


def test_records_of_nobody_and_those_that_are_not_in_the_file_yet_are_not_left_out(tmp_path: Path) -> None:
    source = tmp_path / "a.sqlite"
    records(source, {"u": said("a", "b", "c", "d")})
    with contextlib.closing(sqlite3.connect(source)) as file:
        file.execute("PRAGMA journal_mode = WAL")
        with file:
            file.execute("INSERT INTO examples SELECT split_name, 'v', serialized_example_proto FROM examples")
        refused(source, "a.sqlite-wal: got changes that are not in a.sqlite yet, want the file as it is closed")
    assert imported(source, test_share=0.25).natural.tolist() == [0, 3, 6]
    with contextlib.closing(sqlite3.connect(source)) as file, file:
        file.execute("CREATE TABLE other AS SELECT * FROM examples")  # which has no NOT NULL
        file.execute("DROP TABLE examples")
        file.execute("ALTER TABLE other RENAME TO examples")
        file.execute("UPDATE examples SET client_id = NULL WHERE client_id = 'u'")
    refused(source, "a.sqlite train: got records of no client, want a client_id for each")


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite.lzma").write_bytes(b"\x5d\x00\x00\x80\x00" * 40)
    refused(tmp_path / "a.sqlite.lzma", r"cannot be read \(file is not a database\), want .*, unpacked")
    refused(tmp_path / "none.sqlite", "none.sqlite: no such file")
