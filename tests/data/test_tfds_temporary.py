"""TFDS's builders leave nothing among temporary files."""

import tempfile

import pytest
import tensorflow_datasets as tfds
from written_sets import drawn, write_set

from fednas_jax.data.tfds_temporary import tidied


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files, an empty one."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_a_builder_leaves_a_folder_and_is_tidied_up_after(temporary, tmp_path):
    def build():
        tfds.builder_cls("mnist")(data_dir=str(tmp_path / "root"))

    with tidied():
        build()
    assert list(temporary.iterdir()) == []
    build()
    assert len(list(temporary.iterdir())) == 1, "TFDS tidies up by itself now: delete fednas_jax/data/tfds_temporary.py"


def test_the_sets_of_tests_leave_nothing(temporary, tmp_path):
    write_set("mnist", tmp_path / "root", {split: drawn("mnist", 4) for split in ("train", "test")})
    assert list(temporary.iterdir()) == []


def test_after_an_error_temporary_files_are_where_they_were(temporary):
    with pytest.raises(ValueError, match="odd"), tidied():
        raise ValueError("odd")
    assert tempfile.gettempdir() == str(temporary)
    assert list(temporary.iterdir()) == []
