"""Tables whose rows are examples: Parquet, CSV, and the folders that Hugging Face's `datasets` saves.

A column holds the images, encoded or by path, or several hold features; another the labels, perhaps another the
clients. Rows are read some at a time. Hugging Face's files are Arrow's, which pyarrow reads: its package is not needed.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.damage import reading
from fednas_jax.data.images import inside
from fednas_jax.data.labels import short
from fednas_jax.data.options import ImportOptions, Seen, Skipped, unheard
from fednas_jax.data.records import Named, Record, named, with_validation, write_records
from fednas_jax.data.source_files import files_of
from fednas_jax.data.split import SPLITS, by_split
from fednas_jax.data.table_columns import Columns, as_first, choose
from fednas_jax.errors import DataError
from fednas_jax.files import plain_name, read_json

_WANT = "a whole table"
_ROWS = 64  # read at once; images of a megabyte are common


def import_table(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes a Parquet or CSV table as columns.

    Args:
      source: a .parquet or .csv file, or a folder of such, whose names may say train, val and test.
      folder: of the columns; must not exist yet.
      options: how; paths of images are taken from `images`, else from the table's folder.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file, row and column.
    """
    files = files_of(source, ".parquet", ".csv")
    if not files:
        raise DataError(f"{source}: got no .parquet or .csv files, want some")
    for path in files:
        if _is_csv(path) != _is_csv(files[0]):
            raise DataError(f"{source}: got {files[0].name} and {path.name}, want .parquet or .csv files alone")
    splits = by_split(source, files)
    first = splits["train"][0]
    if _is_csv(first):
        columns = choose(first, _held_by_csv(first), options)
    else:
        columns = _chosen(first, _parquet(first).schema_arrow, options)
    rows = {split: _of_files(some, options, columns) for split, some in splits.items()}
    return _written(folder, source.stem, with_validation(source, rows, options), options, seen, columns)


def import_huggingface(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes what Hugging Face's `save_to_disk` saved as columns.

    Args:
      source: the folder, of a `DatasetDict` with its splits or of one `Dataset`.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file and column.
    """
    splits = {"train": source}
    if (source / "dataset_dict.json").is_file():
        names = _object(source / "dataset_dict.json").get("splits")
        if not isinstance(names, list) or not names:
            raise DataError(f"{source / 'dataset_dict.json'} splits: got none, want a list")
        splits = {}
        for name in names:
            split = SPLITS.get(str(name).lower())
            if split is None or split in splits:
                raise DataError(
                    f"{source}: got the split {str(name)[:40]!r}, want train, validation and test, each once"
                )
            splits[split] = source / plain_name(str(name), f"{source / 'dataset_dict.json'} splits", DataError)
        if "train" not in splits:
            raise DataError(f"{source}: got the splits {', '.join(splits)}, want one called train")
    files = {split: _arrow_files(path) for split, path in splits.items()}
    with reading(files["train"][0], _WANT), _arrow(files["train"][0]) as reader:
        columns = _chosen(source, reader.schema, options)
    rows = {split: _of_arrow(some, options, columns) for split, some in files.items()}
    return _written(folder, source.resolve().name, with_validation(source, rows, options), options, seen, columns)


def _written(
    folder: Path, name: str, splits: dict[str, Iterable[Record]], options: ImportOptions, seen: Seen, columns: Columns
) -> Skipped:
    """Writes the records of a table whose first file has these columns."""
    names = columns.class_names
    fit = options.classes in (None, len(names)) and not options.remap
    skipped = write_records(folder, name, splits, options, seen, names if fit else ())
    return skipped._replace(features=columns.features)


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _of_files(files: list[Path], options: ImportOptions, first: Columns) -> Iterator[Record]:
    for path in files:
        yield from (_of_csv if _is_csv(path) else _of_parquet)(path, options, first)


def _of_csv(path: Path, options: ImportOptions, first: Columns) -> Iterator[Record]:
    images = options.images or path.parent
    columns = as_first(path, choose(path, _held_by_csv(path), options), first)
    with reading(path, _WANT), path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        places = {name: n for n, name in enumerate(header)}
        for values in rows:
            if not values:  # a blank line
                continue
            where = f"{path} line {rows.line_num}"
            if len(values) != len(header):
                raise DataError(f"{where}: got {len(values)} values, want {len(header)}, as many as columns")
            content: Path | np.ndarray
            if columns.features:
                content = np.array([_number(where, name, values[places[name]]) for name in columns.features])
                content = _row(where, content, columns.features)
            else:
                content = inside(f"{where} {columns.image}", values[places[columns.image]].strip(), images)
            label = values[places[columns.label]].strip()
            if not label:
                raise DataError(f"{where} {columns.label}: got nothing, want a label")
            client = values[places[columns.client]].strip() if columns.client else None
            yield Record(where, content, label, client or None)


def _held_by_csv(path: Path) -> dict[str, str]:
    """Column -> "unknown", since the file says no types."""
    with reading(path, _WANT), path.open(newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file, strict=True), [])
    twice = [name for n, name in enumerate(header) if name in header[:n]]
    if twice:
        raise DataError(f"{path}: got two columns called {twice[0][:40]!r}, want each once")
    return dict.fromkeys(header, "unknown")


def _number(where: str, column: str, text: str) -> float:
    try:
        return float("" if "_" in text else text)  # Python takes 1_000 for a number
    except ValueError:
        got = repr(text[:40]) if text.strip() else "nothing"
        want = "want a number, or --feature-columns without it (--image-column if it names images)"
        raise DataError(f"{where} {column[:40]}: got {got}, {want}") from None


def _row(where: str, values: np.ndarray, features: tuple[str, ...]) -> np.ndarray:
    """Features [F] float64 as float32."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        found = values.astype(np.float32)
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found))[0])
        got = "NaN, or nothing" if np.isnan(values[bad]) else short(values[bad])
        raise DataError(f"{where} {features[bad][:40]}: got {got}, want a finite number")
    return found


def _parquet(path: Path) -> pq.ParquetFile:
    with reading(path, _WANT):
        return pq.ParquetFile(path, pre_buffer=False)


def _of_parquet(path: Path, options: ImportOptions, first: Columns) -> Iterator[Record]:
    with reading(path, _WANT), pq.ParquetFile(path, pre_buffer=False) as file:
        columns = as_first(path, _chosen(path, file.schema_arrow, options), first)
        wanted = _wanted(columns)
        for group in range(file.num_row_groups):
            # Of all columns: pyarrow ends the process where a column's own metadata is damaged.
            check_expansion(path, file.metadata.row_group(group).total_byte_size, options.most_gigabytes)
        begin = 0
        for batch in file.iter_batches(_ROWS, columns=wanted, use_threads=False):
            yield from _of_batch(path, begin, batch, columns, options.images or path.parent)
            begin += batch.num_rows


def _wanted(columns: Columns) -> list[str]:
    """Names of the columns that are read, each once."""
    return list(dict.fromkeys(name for name in (*columns[:3], *columns.features) if name))


def _arrow_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved `Dataset`, in order."""
    state = _object(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DataError(f"{folder}: got rows chosen by indices, want flatten_indices() before save_to_disk")
    listed = state.get("_data_files")
    names = [one.get("filename") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if not names:
        raise DataError(f"{folder / 'state.json'} _data_files: got none, want the names of files")
    return [folder / plain_name(str(name), f"{folder / 'state.json'} _data_files", DataError) for name in names]


def _of_arrow(files: list[Path], options: ImportOptions, first: Columns) -> Iterator[Record]:
    for path in files:
        with reading(path, _WANT), _arrow(path) as reader:
            columns = as_first(path, _chosen(path, reader.schema, options), first)
            begin = 0
            for batch in reader:
                batch.validate(full=True)
                # A batch is mapped from the file; rows become Python's some at a time.
                for start in range(0, batch.num_rows, _ROWS):
                    some = batch.slice(start, _ROWS).select(_wanted(columns))
                    yield from _of_batch(path, begin + start, some, columns, options.images or path.parent)
                begin += batch.num_rows


@contextlib.contextmanager
def _arrow(path: Path) -> Iterator[Any]:
    """A reader of an Arrow file, in the stream's form as `datasets` writes it."""
    with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as reader:
        yield reader


def _of_batch(path: Path, first: int, batch: pa.RecordBatch, columns: Columns, images: Path) -> Iterator[Record]:
    """The records of some rows, of which the first has a number."""
    contents: Iterable[Any]
    if columns.features:
        held = [batch.column(name).cast(pa.float64(), safe=False) for name in columns.features]
        contents = np.stack([column.to_numpy(zero_copy_only=False) for column in held], axis=1)
    else:
        contents = batch.column(columns.image).to_pylist()
    labels = batch.column(columns.label).to_pylist()
    clients = batch.column(columns.client).to_pylist() if columns.client else [None] * batch.num_rows
    for n, (image, label, client) in enumerate(zip(contents, labels, clients, strict=True)):
        where = f"{path} row {first + n}"
        if columns.features:
            row = _row(where, image, columns.features)
            yield Record(where, row, named(f"{where} {columns.label}", label), _owner(where, columns, client))
            continue
        encoded = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(image, dict) and encoded is None:
            encoded = image.get("path")
        if isinstance(encoded, str):
            encoded = inside(f"{where} {columns.image}", encoded, images)
        if encoded is not None and not isinstance(encoded, bytes | Path):
            raise DataError(f"{where} {columns.image}: got {type(encoded).__name__}, want an encoded image or its path")
        yield Record(where, encoded, named(f"{where} {columns.label}", label), _owner(where, columns, client))


def _owner(where: str, columns: Columns, client: Any) -> Named | None:
    return named(f"{where} {columns.client}", client) if columns.client else None


def _held(schema: pa.Schema) -> dict[str, str]:
    """Column -> what its type says that it holds."""
    features = _features(schema)

    def holds(field: pa.Field) -> str:
        kind = features.get(field.name, {}).get("_type")
        binary = pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        pair = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        if kind == "Image" or binary or pair:
            return "image"
        is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        number = "number" if is_number or pa.types.is_boolean(field.type) else ""
        return "class" if kind == "ClassLabel" else number

    return {field.name: holds(field) for field in schema}


def _chosen(where: Path, schema: pa.Schema, options: ImportOptions) -> Columns:
    """The columns of a file that says types, and the names of the classes, where the label's column has them."""
    columns = choose(where, _held(schema), options)
    names = _features(schema).get(columns.label, {}).get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return columns
    return columns._replace(class_names=tuple(names))


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """What Hugging Face's `datasets` wrote of the columns; nothing where another program wrote the file."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = said["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _object(path: Path) -> dict[str, Any]:
    said = read_json(path, DataError)
    if not isinstance(said, dict):
        raise DataError(f"{path}: got {type(said).__name__}, want a JSON object")
    return said
