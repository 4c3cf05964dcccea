"""Small files of every kind that is imported, of the same images, written by the tests as their programs write them."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Write = Callable[[Path, np.ndarray, Sequence[int], Sequence[str]], None]


def png(image: np.ndarray) -> bytes:
    """[H, W] uint8 as a file's content."""
    written = io.BytesIO()
    Image.fromarray(image).save(written, "png")
    return written.getvalue()


def npz(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, x=x, y=np.array(y), client_ids=np.array(clients))


def leaf(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    ids, labels = np.array(clients), np.array(y)
    users = {
        name: {"x": (x[ids == name].reshape(sum(ids == name), -1) / 255).tolist(), "y": labels[ids == name].tolist()}
        for name in dict.fromkeys(clients)
    }
    path.write_text(json.dumps({"user_data": users}))


def folder(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    for n, image in enumerate(x):
        file = path / clients[n] / str(y[n]) / f"{n:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(image))


def hdf5(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As fed_emnist_train.h5 has it."""
    import h5py

    ids = np.array(clients)
    with h5py.File(path, "w") as file:
        for name in dict.fromkeys(clients):
            group = file.create_group(f"examples/{name}")
            group["pixels"] = (x[ids == name] / 255).astype(np.float32)
            group["label"] = np.array(y, np.int32)[ids == name]


def records(path: Path, clients: dict[str, list[dict[str, Any]]], split: str = "train") -> None:
    """As TFF's SQLite files have the features of examples."""
    from tensorflow_datasets.proto import tf_example_pb2

    with contextlib.closing(sqlite3.connect(path)) as file, file:
        for table in (
            "examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, serialized_example_proto BLOB NOT NULL)",
            "client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, num_examples INTEGER NOT NULL)",
        ):
            file.execute(f"CREATE TABLE IF NOT EXISTS {table}")
        file.execute("CREATE INDEX IF NOT EXISTS by_split ON examples (split_name, client_id)")
        for client, held in clients.items():
            file.execute("INSERT INTO client_metadata VALUES (?, ?, ?)", (client, split, len(held)))
            for features in held:
                example = tf_example_pb2.Example()
                for name, value in features.items():
                    kind = {"f": "float_list", "i": "int64_list"}.get(np.asarray(value).dtype.kind, "bytes_list")
                    values = [value.encode()] if isinstance(value, str) else np.atleast_1d(value).tolist()
                    getattr(example.features.feature[name], kind).value.extend(values)
                file.execute("INSERT INTO examples VALUES (?, ?, ?)", (split, client, example.SerializeToString()))


def sqlite(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As emnist_all.sqlite has it."""
    held: dict[str, list[dict[str, Any]]] = {}
    for image, label, client in zip(x, y, clients, strict=True):
        pixels = (image / 255).astype(np.float32).reshape(-1)
        held.setdefault(client, []).append({"pixels": pixels, "label": label})
    records(path, held)


FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["zero", "one"], "_type": "ClassLabel"}}


def arrow_table(
    x: np.ndarray, y: Sequence[int], clients: Sequence[str], features: dict[str, Any] | None = None
) -> pa.Table:
    """As Hugging Face's datasets has images: their content and their name."""
    images = [{"bytes": png(image), "path": f"{n}.png"} for n, image in enumerate(x)]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(list(y), pa.int64()),
            "writer_id": pa.array(list(clients)),
        }
    )
    said = json.dumps({"info": {"features": FEATURES if features is None else features}})
    return table.replace_schema_metadata({"huggingface": said})


def parquet(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    pq.write_table(arrow_table(x, y, clients), path, row_group_size=5)


def csv(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """Images lie beside the table."""
    rows = ["path,label,user"]
    for n, image in enumerate(x):
        path.with_name(f"of_csv_{n}.png").write_bytes(png(image))
        rows.append(f"of_csv_{n}.png,{y[n]},{clients[n]}")
    path.write_text("\n".join(rows) + "\n")


def huggingface(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As Dataset.save_to_disk writes it."""
    path.mkdir(parents=True)
    table = arrow_table(x, y, clients)
    with pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=5)
    (path / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0", "_split": "train"}
    (path / "state.json").write_text(json.dumps(state))


def members(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    """A tar archive of files by name."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def webdataset(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    files = {}
    for n, image in enumerate(x):
        files[f"{n:04d}.png"] = png(image)
        files[f"{n:04d}.cls"] = str(y[n]).encode()
        files[f"{n:04d}.json"] = json.dumps({"user": clients[n], "camera": 3}).encode()
    members(path, files)


KINDS: dict[str, tuple[str, str, Write]] = {
    "leaf": ("leaf", "leaf.json", leaf),
    "folder": ("folder", "folder", folder),
    "npz": ("npz", "npz.npz", npz),
    "hdf5": ("hdf5", "hdf5.h5", hdf5),
    "sqlite": ("sqlite", "sqlite.sqlite", sqlite),
    "parquet": ("table", "parquet.parquet", parquet),
    "csv": ("table", "csv.csv", csv),
    "huggingface": ("huggingface", "huggingface", huggingface),
    "webdataset": ("webdataset", "webdataset.tar", webdataset),
}
"""Form of files -> the kind of import, the files' name, who writes them."""


WORDS = ("how", "to", "sort", "a", "list", "of", "words", "?")


def line(image: np.ndarray) -> str:
    """Words that an image's pixels choose."""
    return " ".join(WORDS[pixel % len(WORDS)] for pixel in image.reshape(-1)[:6])


def leaf_texts(path: Path, clients: Sequence[str], x: Sequence[Any], y: Sequence[Any]) -> None:
    users: dict[str, dict[str, list[Any]]] = {}
    for client, text, label in zip(clients, x, y, strict=True):
        held = users.setdefault(client, {"x": [], "y": []})
        held["x"].append(text)
        held["y"].append(label)
    counts = [len(held["y"]) for held in users.values()]
    path.write_text(json.dumps({"users": list(users), "num_samples": counts, "user_data": users}))


def shakespeare(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As LEAF's shakespeare, of shorter strings."""
    leaf_texts(path, clients, [line(image)[:8].ljust(8) for image in x], [line(image)[8:9] or " " for image in x])


def sent140(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As LEAF's sent140."""
    tweets = [["1", "Mon", "NO_QUERY", client, line(image)] for image, client in zip(x, clients, strict=True)]
    leaf_texts(path, clients, tweets, y)


def stack_overflow(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As stackoverflow_train.h5 has it."""
    import h5py

    with h5py.File(path, "w") as file:
        for name in dict.fromkeys(clients):
            lines = [line(image) for image, client in zip(x, clients, strict=True) if client == name]
            for field in ("tokens", "title", "tags"):
                file[f"examples/{name}/{field}"] = np.array(lines, h5py.string_dtype())


def sqlite_texts(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    """As stackoverflow.sqlite has it."""
    held: dict[str, list[dict[str, Any]]] = {}
    for image, client in zip(x, clients, strict=True):
        held.setdefault(client, []).append({"tokens": line(image), "title": "a question", "score": 1})
    records(path, held)


def npz_rows(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    npz(path, x.reshape(len(x), -1).astype(np.float32), y, clients)


def parquet_rows(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    features = {f"f{n}": column.astype(np.float32) for n, column in enumerate(x.reshape(len(x), -1).T)}
    pq.write_table(pa.table({**features, "label": list(y), "user": list(clients)}), path, row_group_size=5)


def csv_rows(path: Path, x: np.ndarray, y: Sequence[int], clients: Sequence[str]) -> None:
    rows = ["label,user," + ",".join(f"f{n}" for n in range(x[0].size))]
    rows += [f"{y[n]},{clients[n]}," + ",".join(map(str, image.reshape(-1).tolist())) for n, image in enumerate(x)]
    path.write_text("\n".join(rows) + "\n")


OTHERS: dict[str, tuple[str, str, Write]] = {
    "shakespeare": ("leaf", "shakespeare.json", shakespeare),
    "sent140": ("leaf", "sent140.json", sent140),
    "stack_overflow": ("hdf5", "stack_overflow.h5", stack_overflow),
    "sqlite_texts": ("sqlite", "sqlite_texts.sqlite", sqlite_texts),
    "npz_rows": ("npz", "npz_rows.npz", npz_rows),
    "parquet_rows": ("table", "parquet_rows.parquet", parquet_rows),
    "csv_rows": ("table", "csv_rows.csv", csv_rows),
}
"""Those whose files hold no images."""


def installed(form: str) -> bool:
    """Whether what the form's files need is installed."""
    if form not in ("hdf5", "stack_overflow"):
        return True
    try:
        import h5py  # noqa: F401
    except ImportError:
        return False
    return True
