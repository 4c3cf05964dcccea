"""Whatever byte of a file is another, an import succeeds or ends in one line, and leaves nothing half-written."""

from __future__ import annotations

import os
import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import written_files

from fednas_jax.data import ImportOptions, import_data, read_columns
from fednas_jax.errors import FednasError

CASES, MORE = 8, 25 * int(os.environ.get("FEDNAS_FAULTS", "1"))  # by default, and in the gate or longer

FORMS = {**written_files.KINDS, **written_files.OTHERS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every form."""
    folder = tmp_path_factory.mktemp("whole")
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    for form, (_, name, write) in FORMS.items():
        if written_files.installed(form):
            (folder / form).mkdir()
            write(folder / form / name, x, [n % 2 for n in range(12)], ["al"] * 10 + ["bo"] * 2)
    return folder


def changed(content: bytes, draws: random.Random) -> bytes:
    """Some bytes flipped, cut out or put in; or the end cut off."""
    found = bytearray(content)
    for _ in range(draws.choice((1, 1, 3))):
        at, length = draws.randrange(len(found) + 1), draws.choice((1, 1, 4, 64, 1024))
        how = draws.choice(("flip", "flip", "insert", "remove", "cut"))
        if how == "flip":
            for n in range(at, min(at + draws.choice((1, 1, 8)), len(found))):
                found[n] ^= 1 << draws.randrange(8)
        elif how == "insert":
            found[at:at] = draws.randbytes(length)
        elif how == "remove":
            del found[at : at + length]
        else:
            del found[at:]
    return bytes(found)


def attempt(form: str, whole: Path, folder: Path, seed: int) -> None:
    kind, name, _ = FORMS[form]
    draws = random.Random(f"{form} {seed}")
    shutil.copytree(whole / form, folder / "files")
    path = draws.choice(sorted(path for path in (folder / "files").rglob("*") if path.is_file()))
    path.write_bytes(changed(path.read_bytes(), draws))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of metadata that it leaves out
            import_data(kind, folder / "files" / name, folder / "columns", ImportOptions())
    except FednasError as error:
        said = str(error)
        assert said.isprintable(), f"seed {seed}: {said!r}"
        assert len(said) < 1000, f"seed {seed}: {said!r}"
        assert os.listdir(folder) == ["files"], f"seed {seed}"
    except BaseException as error:
        raise AssertionError(f"{form} seed {seed}: {path.name}: {type(error).__name__}: {error}") from error
    else:
        assert len(read_columns(folder / "columns").train.labels), f"seed {seed}"


@pytest.mark.parametrize(
    "cases", [range(CASES), pytest.param(range(CASES, MORE), marks=pytest.mark.exhaustive)], ids=["some", "many"]
)
@pytest.mark.parametrize("form", FORMS)
def test_a_changed_file_is_imported_or_refused_in_one_line(
    form: str, cases: range, whole: Path, tmp_path: Path
) -> None:
    if not written_files.installed(form):
        pytest.skip("h5py is not installed")
    for seed in cases:
        folder = tmp_path / str(seed)
        folder.mkdir()
        attempt(form, whole, folder, seed)
        shutil.rmtree(folder)
