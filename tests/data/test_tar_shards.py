"""WebDataset's shards are read as they come: what belongs together, and nothing of a damaged archive lost silently."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import importing
import numpy as np
import pytest
import written_files
from written_files import members, png

from fednas_jax.data import Dataset

X = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)


def samples(first: int = 0, last: int = 12, **more: bytes) -> dict[str, bytes]:
    files = {}
    for n in range(first, last):
        files[f"part/{n:03d}.png"], files[f"part/{n:03d}.cls"] = png(X[n]), str(n % 3).encode()
        files |= {f"part/{n:03d}.{end}": content for end, content in more.items()}
    return files


refused = functools.partial(importing.refused, "webdataset")


def imported(source: Path, **options: Any) -> Dataset:
    return importing.imported("webdataset", source, **options)[0]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_shards_may_be_compressed_and_have_files_that_are_not_needed(mode: str, tmp_path: Path) -> None:
    members(tmp_path / "a.tar", samples(mp4=bytes(1000)), mode)
    data = imported(tmp_path / "a.tar")
    assert (data.classes, data.natural, len(data.train.labels), len(data.test.labels)) == (3, None, 9, 3)


def test_shards_in_a_folder_have_the_splits_that_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for n, name in enumerate(("train-000000", "train-000001", "val-000000")):
        members(tmp_path / "set" / f"{name}.tar", samples(4 * n, 4 * n + 4))
    data = imported(tmp_path / "set", validation="test")
    assert data.train.inputs[..., 0].tobytes() == X[:8].tobytes()
    assert data.test.inputs[..., 0].tobytes() == X[8:].tobytes()


def test_labels_and_clients_may_stand_in_json_under_names_of_ones_own(tmp_path: Path) -> None:
    files = {}
    for n in range(12):
        files[f"{n}.webp.png"] = png(X[n])
        files[f"{n}.json"] = json.dumps({"kind": ["cat", "dog"][n % 2], "author": n // 4 * 1.0}).encode()
    members(tmp_path / "a.tar", files)
    refused(tmp_path / "a.tar", "a.tar 0: got no cls, want one, or --label-column")
    data = imported(tmp_path / "a.tar", label_column="kind", client_column="author")
    assert (data.class_names, data.natural is not None and np.diff(data.natural).tolist()) == (("cat", "dog"), [3] * 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b"", "a.cls": b"1"}, r"a.tar a\.png: got an image that cannot be decoded"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"1"}, "a: got the images png and jpg, want --image-column"),
        ({"a.txt": b"x", "a.cls": b"1"}, "a: got no image among cls, txt, want --image-column"),
        ({"a.png": png(X[0])}, "a: got no cls, want one, or --label-column"),
        ({"a.png": png(X[0]), "a.json": b"{"}, r"got a damaged \.json"),
        ({"a.png": png(X[0]), "a.json": b'{"label": [1]}'}, r"label: got \[1\], want a whole number or a text"),
        ({"a.png": png(X[0]), "a.PNG": png(X[1])}, "a.PNG: got a second file of this name"),
        ({"a.png": png(X[0]), "a.cls": b"1", "a.client": b"x", "b.png": png(X[1]), "b.cls": b"0"}, "b: got no client"),
        ({"readme": b""}, "got no examples, want some"),
    ],
)
def test_what_an_example_lacks_is_named(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    members(tmp_path / "a.tar", files)
    refused(tmp_path / "a.tar", message)


def test_a_shard_that_was_cut_between_two_examples_does_not_pass_for_a_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members(path, samples())
    with tarfile.open(path) as archive:
        ends = [member.offset for member in archive.getmembers()]
    whole = path.read_bytes()
    for cut in (ends[8], ends[8] + 100, ends[8] + 600):
        path.write_bytes(whole[:cut])
        refused(path, r"a.tar: cannot be read \(.*\), want a whole tar file")
    path.write_bytes(whole[: ends[8]] + b"\xff" * 512 + whole[ends[8] + 512 :])
    refused(path, r"a.tar: cannot be read \(bad checksum at byte \d+\)")


def test_a_shard_that_would_expand_beyond_the_bound_is_refused(tmp_path: Path) -> None:
    members(tmp_path / "a.tar.gz", samples(mp4=bytes(1_000_000)), "w:gz")
    assert (tmp_path / "a.tar.gz").stat().st_size < 1_000_000
    refused(tmp_path / "a.tar.gz", r"got 0.00\d+ GB, unpacked, want at most 0.005 GB \(as --most", most_gigabytes=0.005)


def test_a_file_with_holes_is_refused(tmp_path: Path) -> None:
    # A few bytes may claim to be terabytes of zeros.
    header = tarfile.TarInfo("a.png")
    header.type, header.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410] = b"00000000000\0", b"00000001000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(bytes(block) + bytes(512 * 4))
    refused(tmp_path / "a.tar", "a.png: got a file with holes, want one whole")


def test_bytes_after_a_compressed_shard_or_within_it_are_noticed(tmp_path: Path) -> None:
    plain = io.BytesIO()
    written_files.members(tmp_path / "plain.tar", samples())
    plain.write((tmp_path / "plain.tar").read_bytes())
    packed = gzip.compress(plain.getvalue())
    (tmp_path / "plain.tar").unlink()
    (tmp_path / "a.tar.gz").write_bytes(packed[: len(packed) // 2])
    refused(tmp_path / "a.tar.gz", r"a.tar.gz: cannot be read \(")
