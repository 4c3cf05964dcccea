"""The one command that imports: every kind of file, what it says, what it refuses before it reads anything."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
import written_files

from fednas_jax.cli.app import main
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import ImportOptions, import_data, imports, load, progress
from fednas_jax.data.imports import KINDS
from fednas_jax.data.options import COMMON
from fednas_jax.errors import DataError

FORMS = [
    pytest.param(form, marks=() if written_files.installed(form) else pytest.mark.skip("h5py is not installed"))
    for form in written_files.KINDS
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files of every form, of the same twelve 4x4 images of two clients, ten and two of them."""
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    (tmp_path / "files").mkdir()
    for form, (_, name, write) in written_files.KINDS.items():
        if written_files.installed(form):
            write(tmp_path / "files" / name, x, [n % 2 for n in range(12)], ["al"] * 10 + ["bo"] * 2)
    return tmp_path / "files"


def test_every_kind_has_files_here() -> None:
    assert {kind for kind, _, _ in written_files.KINDS.values()} == set(KINDS)


@pytest.mark.parametrize("form", FORMS)
def test_the_command_imports_every_form_for_a_run_to_read(
    form: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, name, _ = written_files.KINDS[form]
    folder = tmp_path / "made" / form
    assert main(["data", "import", kind, str(files / name), "--to", str(folder)]) == 0
    said = capsys.readouterr().out
    assert said == (
        f"{folder}: 11 training and 1 test images of 4x4x1, 2 classes, 2 clients of 2 to 9 "
        "(runs leave out those below data.min_examples: 1 by its default, 4)\n"
    )
    data = load(DataConfig(source="columns", folder=folder), seed=0)
    assert data.natural is not None
    assert data.natural.tolist() == [0, 9, 11]
    assert os.listdir(folder.parent) == [form]


@pytest.mark.parametrize("form", FORMS)
def test_all_forms_of_the_same_images_give_the_same_examples(form: str, files: Path, tmp_path: Path) -> None:
    found = []
    for one in ("npz", form):
        kind, name, _ = written_files.KINDS[one]
        import_data(kind, files / name, tmp_path / f"{one}-{len(found)}", ImportOptions())
        data = load(DataConfig(source="columns", folder=tmp_path / f"{one}-{len(found)}"), seed=0)
        found.append({(image.tobytes(), int(label)) for image, label in zip(*data.train, strict=True)})
        found[-1] |= {(image.tobytes(), int(label)) for image, label in zip(*data.test, strict=True)}
    assert len(found[0]) == 12
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "tar",
            ImportOptions(),
            "data import: got 'tar', want one of leaf, folder, npz, hdf5, sqlite, table, huggingface, webdataset",
        ),
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


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ImportOptions) if f.name not in COMMON])
def test_the_help_names_the_kinds_that_take_an_option(field: str) -> None:
    said = inspect.getsource(ImportOptions).partition(f"    {field}: ")[2].split('"""')[1]
    _, which, kinds = said.replace("Not for", "Only for").partition("Only for")
    assert which, "it says which kinds take it"
    named = set(re.findall(r"\w+", kinds)) & set(KINDS)
    assert named == {kind for kind, about in KINDS.items() if (field in about.takes) == ("Only for" in said)}


def test_a_folder_that_is_there_is_left_alone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(os.listdir(files))
    assert main(["data", "import", "folder", str(files / "folder"), "--to", str(files)]) == 2
    assert "files: is there already, want a new folder for columns" in capsys.readouterr().err
    assert sorted(os.listdir(files)) == before


@pytest.mark.parametrize("form", FORMS)
def test_the_share_and_the_size_reach_every_form(form: str, files: Path, tmp_path: Path) -> None:
    kind, name, _ = written_files.KINDS[form]
    import_data(kind, files / name, tmp_path / form, ImportOptions(image_size=3, test_share=0.5))
    data = load(DataConfig(source="columns", folder=tmp_path / form), seed=0)
    assert data.train.inputs.shape == (6, 3, 3, 1)
    assert data.test.inputs.shape == (6, 3, 3, 1)


@pytest.mark.parametrize("form", FORMS)
def test_an_import_that_is_interrupted_leaves_nothing(
    form: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(images: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(imports, "shown", lambda what: contextlib.nullcontext(stop))
    kind, name, _ = written_files.KINDS[form]
    with pytest.raises(KeyboardInterrupt):
        import_data(kind, files / name, tmp_path / "made", ImportOptions())
    assert os.listdir(tmp_path) == ["files"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("patience", "terminal"), [(0.0, True), (0.0, False), (9.0, True)])
def test_an_import_that_takes_long_says_so_on_a_terminal_alone(
    patience: float, terminal: bool, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
    import_data("table", files / "csv.csv", tmp_path / "made", ImportOptions())
    assert ("12 examples" in stderr.getvalue()) == (terminal and not patience)
    assert terminal or not stderr.getvalue()
