"""SQLite files as TensorFlow Federated downloads its sets: a table of examples, each a record of a client in a split.

A record (tf.train.Example) holds pixels and label, or (Stack Overflow) tokens. Read client by client.
Source: tff.simulation.datasets.load_and_parse_sql_client_data.
"""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from fednas_jax.data.arrays import as_images
from fednas_jax.data.bounds import check_expansion
from fednas_jax.data.damage import reading
from fednas_jax.data.examples import Examples
from fednas_jax.data.images import resized
from fednas_jax.data.labels import whole_numbers
from fednas_jax.data.options import ImportOptions, Seen, Skipped, check_validation, unheard
from fednas_jax.data.split import SPLITS, stratified_split
from fednas_jax.data.tff import IMAGES, LABELS, TOKENS, Client, Form, split_words, write_clients
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

_WANT = "a whole SQLite file of TensorFlow Federated, unpacked"
_CLIENTS = "SELECT DISTINCT client_id FROM examples WHERE split_name = ? ORDER BY 1"
_RECORDS = "SELECT serialized_example_proto FROM examples WHERE split_name = ? AND client_id = ? ORDER BY rowid"
_JOURNALS = ("-wal", "-journal")  # ends of the names of what SQLite writes beside a file that is open
_LARGEST = 1 << 26  # bytes of a record; SQLite allows a gigabyte


def import_sqlite(source: Path, folder: Path, options: ImportOptions, seen: Seen = unheard) -> Skipped:
    """Writes TensorFlow Federated's SQLite file, unpacked, as columns whose clients are its clients.

    Args:
      source: the file. Its splits are train, perhaps test, and held_out, which is for validation. Without test, a share
        of every client's examples makes the test split.
      folder: of the columns; must not exist yet.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file, the split and the client.
    """
    splits = _splits(source)
    if "val" in splits:
        check_validation(source, options, "test" in splits)
        to = "test" if options.validation == "test" else "train"
        splits[to] = [*splits.get(to, []), *splits.pop("val")]

    def clients() -> Generator[Client, None, None]:
        return _clients(source, splits, options)

    with contextlib.closing(clients()) as walked:
        first = next(walked).held[0]
        texts = TOKENS in first and not any(name in first for name in IMAGES)
    form = Form(words=_words) if texts else Form(images=lambda client: _pictures(client, options))
    return write_clients(folder, source.stem, clients, form, options, seen)


@contextlib.contextmanager
def _opened(source: Path) -> Generator[sqlite3.Connection, None, None]:
    """The file, only to be read; nothing that it says runs."""
    with reading(source, _WANT), contextlib.closing(_connection(source)) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        # A view of that name could compute for ever.
        found = connection.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'examples'"
        ).fetchall()
        if len(found) != 1 or "virtual" in str(found[0][0]).lower():
            raise DataError(f"{source}: got no table examples, want {_WANT}")
        yield connection


def _connection(source: Path) -> sqlite3.Connection:
    if not source.is_file():
        raise DataError(f"{source}: no such file, want {_WANT}")
    for journal in (source.with_name(f"{source.name}{end}") for end in _JOURNALS):
        if journal.is_file() and journal.stat().st_size:
            raise DataError(f"{journal}: got changes that are not in {source.name} yet, want the file as it is closed")
    return sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro&immutable=1", uri=True)


def _splits(source: Path) -> dict[str, list[str]]:
    """Split -> its names in the file."""
    with _opened(source) as connection:
        names = [name for (name,) in connection.execute("SELECT DISTINCT split_name FROM examples ORDER BY 1")]
    found: dict[str, list[str]] = {}
    for name in names:
        split = SPLITS.get(str(name).lower().replace("held_out", "validation"))
        if split is None or split in found:
            raise DataError(f"{source}: got the split {str(name)[:40]!r}, want train, held_out and test, each once")
        found[split] = [name]
    if "train" not in found:
        raise DataError(f"{source}: got the splits {', '.join(found) or 'none'}, want one called train")
    return found


def _clients(source: Path, splits: dict[str, list[str]], options: ImportOptions) -> Generator[Client, None, None]:
    """Every client's records, those for training first, and always the same examples for testing."""
    # TFDS brings the records' form: TensorFlow is not needed.
    from tensorflow_datasets.proto import tf_example_pb2

    rng = generator(0, Purpose.TEST_SPLIT)
    with _opened(source) as connection:
        for split, name in ((to, name) for to in ("train", "test") for name in splits.get(to, [])):
            for (client,) in connection.execute(_CLIENTS, (name,)):
                if client is None:
                    raise DataError(f"{source} {name}: got records of no client, want a client_id for each")
                where = f"{source} {name} {str(client)[:80]}"
                size, records = 0, []
                for (record,) in connection.execute(_RECORDS, (name, client)):
                    if not isinstance(record, bytes):
                        raise DataError(f"{where}: got {type(record).__name__}, want records")
                    size += len(record)
                    check_expansion(where, size, options.most_gigabytes)
                    records.append(tf_example_pb2.Example.FromString(record).features.feature)
                train, test = np.arange(len(records)), np.arange(0)
                if split == "test":
                    yield Client(source, where, str(client), records, None, train)
                    continue
                if "test" not in splits:
                    train, test = stratified_split(np.zeros(len(records)), options.test_share, rng)
                yield Client(source, where, str(client), records, train, test)


def _words(client: Client) -> list[list[str]]:
    """A client's sentences, each as its words."""
    return [split_words(_one(client, record, (TOKENS,), "bytes_list")) for record in client.held]


def _pictures(client: Client, options: ImportOptions) -> Examples:
    """A client's images and labels."""
    labels = (options.label_column,) if options.label_column else LABELS
    numbers = np.array([_one(client, record, labels, "int64_list") for record in client.held])
    images = [_image(client, record) for record in client.held]
    if differing := {image.shape for image in images} - {images[0].shape}:
        got, want = ("x".join(map(str, shape)) for shape in (differing.pop(), images[0].shape))
        raise DataError(f"{client.where} pixels: got an image of {got}, want {want} as the first")
    found = as_images(f"{client.where} pixels", np.stack(images))
    side = options.image_size
    if side and found.shape[1:3] != (side, side):
        found = np.stack([resized(image, side, side) for image in found])
    return Examples(found, whole_numbers(f"{client.where} label", numbers, options.remap))


def _image(client: Client, record: Any) -> np.ndarray:
    """A square image's pixels: grey floats from 0 to 1, row after row, or whole numbers in colour."""
    for name in IMAGES:
        if name in record:
            break
    else:
        raise DataError(f"{client.where} pixels: got none, has {', '.join(sorted(record))[:200]}")
    whole = len(record[name].int64_list.value) > 0
    flat = np.array(record[name].int64_list.value if whole else record[name].float_list.value)
    if whole and flat.size and (flat.min() < 0 or flat.max() > 255):
        raise DataError(f"{client.where} {name}: got {flat.min()} to {flat.max()}, want 0 to 255")
    for depth in (1, 3):
        side = math.isqrt(len(flat) // depth)
        if side and side * side * depth == len(flat):
            return flat.astype(np.uint8 if whole else np.float32).reshape(side, side, depth)
    raise DataError(f"{client.where} {name}: got {len(flat)} values, want a square image of 1 or 3 channels")


def _one(client: Client, record: Any, names: tuple[str, ...], kind: str) -> Any:
    """The one value of the first feature that has one of these names."""
    name = next((name for name in names if name in record), names[0])
    values = getattr(record[name], kind).value if name in record else []
    if len(values) != 1:
        has = f"has {', '.join(sorted(record))[:200]}" if name not in record else f"got {len(values)} values"
        raise DataError(f"{client.where} {name}: {has}, want one {'text' if kind == 'bytes_list' else 'whole number'}")
    return values[0]
