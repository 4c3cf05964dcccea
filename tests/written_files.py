"""Small files of every kind that is imported, of the same images, written by the tests as their programs write them."""

from __future__ import annotations

import io
import json
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
    "parquet": ("table", "parquet.parquet", parquet),
    "csv": ("table", "csv.csv", csv),
    "huggingface": ("huggingface", "huggingface", huggingface),
    "webdataset": ("webdataset", "webdataset.tar", webdataset),
}
"""Form of files -> the kind of import, the files' name, who writes them."""


def installed(form: str) -> bool:
    """Whether what the form's files need is installed."""
    if form != "hdf5":
        return True
    try:
        import h5py  # noqa: F401
    except ImportError:
        return False
    return True
