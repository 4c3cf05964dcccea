"""The registry: every source loads by its name, unknown ones are refused, start-up stays light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fednas_jax
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import list_sources, load, prepare, write_columns
from fednas_jax.data.digits import load_digits
from fednas_jax.data.sources import SOURCES
from fednas_jax.errors import DataError

# Sets of TFDS have tests of their own, which read every one.
OF_TFDS = [name for name, source in SOURCES.items() if source.fields]
OWN = [name for name in SOURCES if name not in OF_TFDS]


@pytest.fixture
def root(tmp_path: Path, idx_folder: Path) -> Path:
    """A root in which every source of our own that needs it has been prepared."""
    for name in OWN:
        prepare(name, idx_folder, tmp_path / "root")
    digits = load_digits()
    clients = [(digits.train, np.array([len(digits.train.labels)]))]
    write_columns(tmp_path / "root" / "columns", "columns", clients, digits.test, digits.classes)
    return tmp_path / "root"


def config(name: str, root: Path) -> DataConfig:
    return DataConfig(source=name, root=root, folder=root / "columns" if name == "columns" else None)


@pytest.mark.parametrize("name", OWN)
def test_every_source_loads_a_data_set_that_calls_itself_by_that_name(name: str, root: Path) -> None:
    data = load(config(name, root), seed=1)
    assert data.name == name
    channels = 0 if data.tokens else data.train.inputs.shape[-1]
    assert len(data.mean) == len(data.std) == channels
    assert np.all(np.array(data.std) > 0)


@pytest.mark.parametrize("name", OWN)
def test_loading_twice_gives_the_same_data(name: str, root: Path) -> None:
    one, two = (load(config(name, root), seed=1) for _ in range(2))
    np.testing.assert_array_equal(one.train.inputs, two.train.inputs)
    np.testing.assert_array_equal(one.test.labels, two.test.labels)


def test_an_unknown_source_is_refused_with_the_names_of_those_known() -> None:
    want = "data.source: got 'cifar', want one of digits, fashion_mnist, synthetic, .*columns, .* tfds:NAME, or MODULE"
    with pytest.raises(DataError, match=want):
        load(DataConfig(source="cifar"), seed=0)
    with pytest.raises(DataError, match=want):
        prepare("cifar", None)


def test_the_list_says_what_each_source_is_and_whether_it_is_prepared(tmp_path: Path, root: Path) -> None:
    before, after = list_sources(tmp_path), list_sources(root)
    assert list(before) == list(SOURCES)
    missing = [{name for name, (_, prepared) in statuses.items() if not prepared} for statuses in (before, after)]
    assert missing == [{"fashion_mnist", *OF_TFDS}, set(OF_TFDS)]
    assert all(status.description and "\n" not in status.description for status in after.values())


@pytest.mark.parametrize("name", ["digits", "synthetic", "columns"])
def test_sources_that_are_always_there_say_that_they_need_no_preparation(name: str) -> None:
    assert prepare(name, None) == f"{name}: needs no preparation"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size", 32),
        ("image_feature", "photo"),
        ("label_feature", "kind"),
        ("client_feature", "author"),
        ("test_split", "dev"),
    ],
)
def test_fields_of_tfds_sets_are_refused_by_the_other_sources(field: str, value: int | str) -> None:
    with pytest.raises(DataError, match=f"data.{field}: got {value!r}, want .*: data.source digits does not take it"):
        load(DataConfig(source="digits", **{field: value}), seed=0)


def test_preparing_without_a_folder_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="want --from DIR"):
        prepare("fashion_mnist", None, tmp_path)


def test_importing_the_package_imports_neither_tfds_nor_scikit_learn_nor_jax() -> None:
    program = (
        "import sys, fednas_jax.data as data; data.list_sources();"
        "print(*{'tensorflow_datasets', 'sklearn', 'jax'} & set(sys.modules))"
    )
    root = Path(fednas_jax.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_without_a_home_directory_what_needs_none_works_and_the_rest_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr(Path, "expanduser", nowhere)
    assert list_sources()["digits"].prepared
    assert not list_sources()["cifar10"].prepared
    assert len(load(DataConfig(), seed=0).train.labels) > 1000
    for name in ("cifar10", "fashion_mnist"):
        with pytest.raises(DataError, match=r"data\.root: .* has no home directory to be in, want a folder or"):
            load(DataConfig(source=name), seed=0)
