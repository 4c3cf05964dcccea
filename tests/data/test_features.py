"""Arrays and tables that are no images: every number where it was, and one line that names a column that is not one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from importing import imported, refused

from fednas_jax.data import ImportOptions, examples, import_data, read_columns
from fednas_jax.data.arrays import from_arrays
from fednas_jax.errors import DataError

ROWS = np.random.default_rng(0).normal(3, 2, (12, 3)).astype(np.float32)
Y = np.arange(12) % 2
CLIENTS = ["zoe", "al", "bo"] * 4


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def test_rows_of_floats_are_taken_as_rows_and_that_is_said(tmp_path: Path) -> None:
    data, said = imported("npz", npz(tmp_path / "a.npz", x=ROWS, y=Y, client_ids=np.array(CLIENTS)))
    assert "9 training and 3 test rows of 3 features, 2 classes, 3 clients of 3 to 3" in said
    assert (data.train.inputs.dtype, data.tokens, data.vocabulary) == (np.float32, 0, ())
    assert data.natural is not None
    for client, name in enumerate(sorted(set(CLIENTS))):
        rows = slice(data.natural[client], data.natural[client + 1])
        for row, label in zip(data.train.inputs[rows], data.train.labels[rows], strict=True):
            (where,) = np.flatnonzero((row == ROWS).all(axis=1))
            assert (CLIENTS[where], Y[where]) == (name, label)
    np.testing.assert_allclose(data.mean, data.train.inputs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(data.std, data.train.inputs.std(0), rtol=1e-5)


def test_series_and_tokens_are_taken_where_they_are_asked_for_never_unasked(tmp_path: Path) -> None:
    series = np.random.default_rng(0).normal(size=(12, 5, 2))
    source = npz(tmp_path / "series.npz", x=series, y=Y)
    refused("npz", source, "series.npz x: got floats from -.*, want 0 to 1 .*, or --inputs series if they are no im")
    data, said = imported("npz", source, inputs="series")
    assert "series of 5x2 (times x features)" in said
    assert data.train.inputs.shape == (8, 5, 2)
    np.testing.assert_allclose(data.mean, data.train.inputs.mean((0, 1)), rtol=1e-5)
    one, _ = imported("npz", npz(tmp_path / "one.npz", x=series[..., 0], y=Y), inputs="series")
    assert one.train.inputs.shape == (8, 5, 1)
    # Images that lie between 0 and 1 stay images.
    assert imported("npz", npz(tmp_path / "i.npz", x=series.clip(0, 1), y=Y))[0].train.inputs.dtype == np.uint8
    tokens = np.arange(60).reshape(12, 5) % 7
    source = npz(tmp_path / "tokens.npz", x=tokens, y=Y)
    refused("npz", source, r"x: got \[12, 5\] int64, want \[N, H, W, C\] .* \(or --inputs rows, series or tokens\)")
    data, said = imported("npz", source, inputs="tokens")
    assert "texts of 5 tokens (7 different ones)" in said
    assert (data.train.inputs.dtype, data.mean, data.std, data.tokens) == (np.int32, (), (), 7)
    rows, _ = imported("npz", source, inputs="rows")
    assert rows.train.inputs.dtype == np.float32


def test_every_position_may_have_a_label(tmp_path: Path) -> None:
    tokens = np.arange(60).reshape(12, 5) % 7
    labels = np.where(tokens > 4, -1, tokens % 3)
    data, said = imported("npz", npz(tmp_path / "a.npz", x=tokens, y=labels), inputs="tokens")
    assert "3 classes, which name no clients" in said
    held = np.concatenate([data.train.inputs, data.test.inputs]), np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(held[1], np.where(held[0] > 4, -1, held[0] % 3))


CONSTANT = np.where(np.arange(3) == 1, np.float32(0.1), ROWS)


def test_a_constant_feature_has_a_standard_deviation_of_1() -> None:
    data = from_arrays(CONSTANT, Y)
    assert (data.mean[1], data.std[1]) == (float(np.float32(0.1)), 1.0)
    assert 1.0 not in (data.std[0], data.std[2])


@given(hnp.arrays(np.float32, (40, 2), elements=st.floats(-1e3, 1e3, width=32)), st.integers(1, 50))
def test_statistics_are_those_of_all_rows_however_many_are_read_at_once(rows: np.ndarray, block: int) -> None:
    before = examples._BLOCK
    try:
        examples._BLOCK = block
        mean, std = examples.input_statistics(rows)
    finally:
        examples._BLOCK = before
    exact = rows.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=1e-9, atol=1e-9)
    want = exact.std(0)
    np.testing.assert_allclose(std, np.where(np.ptp(exact, axis=0) == 0, 1, want), rtol=1e-6, atol=1e-5)


Inputs = Literal["rows", "series", "tokens"]


@pytest.mark.parametrize(
    ("x", "y", "inputs", "message"),
    [
        (np.where(np.arange(3) == 2, np.nan, ROWS), Y, "rows", "x feature 2: got NaN in example 0, want finite"),
        (np.where(ROWS[4, 1] == ROWS, np.inf, ROWS), Y, "rows", "x feature 1: got inf in example 4"),
        (ROWS.astype(float) * 1e300, Y, "rows", r"x feature 0: got .*e\+300 in example 0"),
        (np.full((12, 4, 2), np.nan), Y, "series", "x feature 0: got NaN in example 0"),
        (ROWS[:, 0], Y, "rows", r"x: got \[12\] float32, want \[N, F\] numbers"),
        (ROWS, Y, "tokens", r"x: got \[12, 3\] float32, want \[N, T\] whole numbers, token ids from 0"),
        (np.full((12, 3), -1), Y, "tokens", "x: got -1 to -1, want token ids from 0"),
        (np.full((12, 3), 2**40), Y, "tokens", "x: got 1.09951163e.12 to .*, want token ids from 0"),
        ([[1.0], [1.0, 2.0]], [0, 1], "rows", "x: got rows of differing lengths"),
        (np.array([["a"]] * 12), Y, "rows", r"x: got \[12, 1\] <U1, want \[N, F\] numbers"),
        (ROWS, np.zeros((12, 3), int), "rows", r"y: got \[12, 3\] int64, want \[N\] whole numbers"),
        (np.ones((12, 3), int), np.full((12, 3), -2), "tokens", "y: got -2, want class numbers from 0, or -1 for none"),
        (np.ones((12, 3), int), np.full((12, 3), -1), "tokens", "y: got no labels but -1, want some"),
        (np.ones((12, 3), int), np.zeros((12, 2), int), "tokens", r"y: got \[12, 2\] int64, want \[N\]"),
        (ROWS, Y, "table", "inputs: got 'table', want one of None, images, rows, series, tokens"),
    ],
)
def test_numbers_that_do_not_fit_are_named(x: Any, y: Any, inputs: Inputs, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        from_arrays(x, y, inputs=inputs)


def test_options_of_images_are_refused_of_others(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", x=ROWS, y=Y)
    refused("npz", source, "image_size: got 8, want none: .* holds no images", image_size=8)
    refused("npz", source, "layout: got 'NCHW', want none: x holds rows", layout="NCHW")
    refused("npz", source, r"want \[N, H, W, C\]", inputs="images")


def parquet(path: Path, **more: Any) -> Path:
    columns = {"age": ROWS[:, 0], "sick": ROWS[:, 1] > 3, "label": Y, "user": CLIENTS, "dose": np.arange(12), **more}
    pq.write_table(pa.table({name: value for name, value in columns.items() if value is not None}), path)
    return path


def csv(path: Path) -> Path:
    lines = [f"{ROWS[n, 0]!r},{int(ROWS[n, 1] > 3)},{Y[n]},{CLIENTS[n]},{n}" for n in range(12)]
    path.write_text("\n".join(["age,sick,label,user,dose", *lines]).replace("np.float32(", "").replace("),", ","))
    return path


@pytest.mark.parametrize("write", [parquet, csv])
def test_columns_of_features_are_rows_in_the_order_of_the_table(write: Any, tmp_path: Path) -> None:
    source = write(tmp_path / f"t.{write.__name__}")
    data, said = imported("table", source)
    assert "9 training and 3 test rows of 3 features" in said
    assert said.endswith("; features: age, sick, dose")
    assert data.natural is not None
    for client, name in enumerate(("al", "bo", "zoe")):
        rows = slice(data.natural[client], data.natural[client + 1])
        for (age, sick, dose), label in zip(data.train.inputs[rows], data.train.labels[rows], strict=True):
            n = int(dose)
            assert (CLIENTS[n], Y[n]) == (name, label)
            assert (age, sick) == (ROWS[n, 0], ROWS[n, 1] > 3)
    some, said = imported("table", source, feature_columns="dose, age", client_column="none")
    assert some.train.inputs.shape[1] == 2
    assert said.endswith("; features: dose, age")
    assert some.natural is None


@pytest.mark.parametrize("name", ["", "__index_level_0__", "Unnamed: 0"])
def test_numbers_of_rows_are_features_only_where_they_are_named(name: str, tmp_path: Path) -> None:
    source = parquet(tmp_path / "t.parquet", **{name: np.arange(12)})
    assert imported("table", source)[1].endswith("; features: age, sick, dose")
    if name:
        assert imported("table", source, feature_columns=f"{name},age")[1].endswith(f"; features: {name}, age")


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"age": [1.0] * 4 + [float("nan")] + [1.0] * 7}, {}, "row 4 age: got NaN, or nothing, want a finite number"),
        ({"dose": pa.array([1] * 7 + [None] * 5)}, {}, "row 7 dose: got NaN, or nothing, want a finite number"),
        ({"age": [1e300] * 12}, {}, r"row 0 age: got 1e\+300, want a finite number"),
        ({"age": ["old"] * 12}, {}, "got the columns age, sick, label, user, dose, want --image-column"),
        ({"age": ["old"] * 12}, {"inputs": "rows"}, "t.parquet age: got no numbers, want some, or --feature-columns"),
        ({}, {"feature_columns": "ag"}, "feature_columns: got 'ag', which .* has not, want 'age'"),
        ({}, {"feature_columns": "age,label"}, "feature_columns: got 'label', want columns but the label's"),
        ({}, {"feature_columns": "age,dose,age"}, "feature_columns: got 'age', want .* each once"),
        ({}, {"inputs": "series"}, "data import inputs: got 'series', want images or rows: .* is a table"),
        ({}, {"inputs": "images"}, "got the columns age, .* want --image-column to say which"),
        ({}, {"inputs": "rows", "image_column": "age"}, "image_column: got images as well as features"),
        ({}, {"image_size": 8}, "image_size: got 8, want none: .* holds no images"),
        ({"label": [0.5] * 12}, {}, "row 0 label: got 0.5, want a whole number or a text"),
    ],
)
def test_a_table_of_features_that_does_not_fit_is_named_by_its_column(
    more: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused("table", parquet(tmp_path / "t.parquet", **more), message, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,label\n1,0\nred,1\n", "line 3 a: got 'red', want a number, or --feature-columns without it"),
        ("a,label\n,0\n", "line 2 a: got nothing, want a number"),
        ("a,label\n1_0,0\n", "line 2 a: got '1_0', want a number"),
        ("a,label\nnan,0\n", "line 2 a: got NaN, or nothing, want a finite number"),
        ("a,label\n1e999,0\n", "line 2 a: got inf, want a finite number"),
        ("label\n0\n", "got the columns label, want --image-column"),
        ("a,label\n1\n", "line 2: got 1 values, want 2, as many as columns"),
        ("a,a,label\n1,1,0\n", "got two columns called 'a', want each once"),
    ],
)
def test_a_csv_table_of_features_that_does_not_fit_is_named_by_its_line(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_text(text)
    refused("table", tmp_path / "t.csv", message)


def test_columns_of_rows_and_series_are_verified_when_they_are_read(tmp_path: Path) -> None:
    for inputs, x in (("rows", ROWS), ("series", np.ones((12, 5, 2)))):
        folder = tmp_path / inputs
        import_data("npz", npz(tmp_path / f"{inputs}.npz", x=x, y=Y), folder, ImportOptions(inputs=inputs))  # type: ignore[arg-type]
        about = json.loads((folder / "columns.json").read_text())
        assert (about["schema"], about["dtype"], about["shape"]) == (2, "float32", list(x.shape[1:]))
        assert "vocabulary" not in about
        (folder / "columns.json").write_text(json.dumps(about | {"mean": [0.0] * 9}))
        with pytest.raises(DataError, match=r"mean: got .*, want [23] finite numbers"):
            read_columns(folder)
        (folder / "columns.json").write_text(json.dumps(about))
        with (folder / "inputs.npy").open("ab") as file:
            file.write(b"more")
        with pytest.raises(DataError, match=r"inputs.npy: got \d+ bytes, want \d+ for"):
            read_columns(folder)
