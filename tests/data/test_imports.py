"""The one command that imports: every kind of file, what it says, what it refuses before it reads anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fednas_jax.cli.app import main
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import ImportOptions, import_data, load
from fednas_jax.data.imports import KINDS
from fednas_jax.errors import DataError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of every kind, of the same twelve 4x4 images of two clients, ten and two of them, in a folder each."""
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    y, ids = np.arange(12) % 2, np.array(["al"] * 10 + ["bo"] * 2)
    (tmp_path / "files").mkdir()
    np.savez(tmp_path / "files" / "npz", x=x, y=y, client_ids=ids)
    users = {
        name: {"x": (x[ids == name].reshape(-1, 16) / 255).tolist(), "y": y[ids == name].tolist()}
        for name in ("al", "bo")
    }
    (tmp_path / "files" / "leaf").write_text(json.dumps({"user_data": users}))
    for n in range(12):
        path = tmp_path / "files" / "folder" / ids[n] / str(y[n]) / f"{n:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[n]).save(path)
    (tmp_path / "files" / "npz.npz").rename(tmp_path / "files" / "npz")
    return tmp_path / "files"


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_imports_every_kind_for_a_run_to_read(
    kind: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made" / kind
    assert main(["data", "import", kind, str(files / kind), "--to", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said == (
        f"{folder}: 11 training and 1 test images of 4x4x1, 2 classes, 2 clients of 2 to 9 "
        "(runs leave out those below data.min_examples: 1 by its default, 4)\n"
    )
    data = load(DataConfig(source="columns", folder=folder), seed=0)
    assert data.natural is not None
    assert data.natural.tolist() == [0, 9, 11]


def test_all_kinds_of_the_same_images_give_the_same_examples(files: Path, tmp_path: Path) -> None:
    found = []
    for kind in KINDS:
        import_data(kind, files / kind, tmp_path / kind, ImportOptions())
        data = load(DataConfig(source="columns", folder=tmp_path / kind), seed=0)
        found.append({(image.tobytes(), int(label)) for image, label in zip(*data.train, strict=True)})
        found[-1] |= {(image.tobytes(), int(label)) for image, label in zip(*data.test, strict=True)}
    assert len(found[0]) == 12
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tar", ImportOptions(), "data import: got 'tar', want one of leaf, folder, npz"),
        ("npz", ImportOptions(channels=1), "data import channels: got 1, want none: npz does not take it"),
        ("folder", ImportOptions(classes=2), "data import classes: got 2, want none: folder does not take it"),
        ("npz", ImportOptions(images=Path("x")), "data import images: got x, want none: npz does not take it"),
        ("leaf", ImportOptions(channels=2), "data import channels: got 2, want 0"),
        ("leaf", ImportOptions(image_size=-1), "data import image_size: got -1, want at least 0"),
        ("leaf", ImportOptions(classes=0), "data import classes: got 0, want at least 1"),
        ("leaf", ImportOptions(test_share=1), "test share: got 1, want between 0 and 1"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_read(
    kind: str, options: ImportOptions, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        import_data(kind, tmp_path / "nowhere", tmp_path / "columns", options)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_there_is_left_alone(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "import", "folder", str(files / "folder"), "--to", str(files)]) == 2
    assert "files: is there already, want a new folder for columns" in capsys.readouterr().err
    assert sorted(os.listdir(files)) == ["folder", "leaf", "npz"]


def test_the_share_and_the_size_reach_every_kind(files: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        import_data(kind, files / kind, tmp_path / kind, ImportOptions(image_size=3, test_share=0.5))
        data = load(DataConfig(source="columns", folder=tmp_path / kind), seed=0)
        assert data.train.images.shape == (6, 3, 3, 1)
        assert data.test.images.shape == (6, 3, 3, 1)
