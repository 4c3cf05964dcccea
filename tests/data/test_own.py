"""Partitions and data sources of users pass the contracts of the project's own; what they do wrong is one line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fednas_jax as fn
from fednas_jax.cli.app import main
from fednas_jax.config.registries import PARTITIONS
from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Dataset, list_sources, load, partition, register_source, source_checksum
from fednas_jax.data.sources import OWN
from fednas_jax.errors import ConfigError, DataError, FednasError

LABELS = np.random.default_rng(0).permutation(np.arange(600, dtype=np.int32) % 7)
NATURAL = np.arange(0, 601, 20)

# What a researcher writes, in a file of her own.
MINE = '''
import numpy as np
import fednas_jax as fn

def by_label(labels, clients, rng, share=1.0):
    """Each client holds neighbours in the order of labels, of which a share is kept."""
    pieces = np.array_split(np.argsort(labels, kind="stable"), clients)
    return [rng.permutation(piece)[: round(share * len(piece))] for piece in pieces]

def half_of_each(labels, clients, rng, config, natural):
    return [np.arange(a, (a + b) // 2) for a, b in zip(natural[:clients], natural[1:])]

def stripes(seed, examples=60):
    x = np.random.default_rng(seed).integers(0, 256, (examples, 4, 4), dtype=np.uint8)
    return fn.from_arrays(x, np.arange(examples) % 3, np.arange(examples) // 10, name="stripes")

def from_folder(seed, config):
    return fn.from_arrays(np.load(config.root / "x.npy"), np.arange(20) % 2)

def broken(*given):
    return {}["nowhere"]

def nothing(*given):
    return None

def returns(labels, clients, rng, value="short"):
    whole = np.arange(len(labels)).reshape(clients, -1)
    return {
        "text": "abc", "number": 7, "short": list(whole[1:]), "floats": list(whole / 2), "flat": list(whole[..., None]),
        "large": list(whole + 1), "negative": list(whole - 1), "few": [whole[0][:1], *whole[1:]],
        "empty": [[], *whole[1:]], "ragged": [[1, [2]], *whole[1:]], "twice": [whole[0], whole[0], *whole[2:]],
        "within": [np.append(whole[0], whole[0][:1]), *whole[1:]],
    }[value]

def sorts_in_place(labels, clients, rng):
    labels.sort()
    return np.array_split(np.arange(len(labels)), clients)
'''


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of the user's in the current folder, and registries that forget what a test registers."""
    (tmp_path / "fednas_test_mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (PARTITIONS, OWN):
        monkeypatch.setattr(registry, "_homes", dict(registry._homes))
    import fednas_test_mine  # type: ignore[import-not-found, unused-ignore]

    PARTITIONS.register("mine", fednas_test_mine.by_label)
    register_source("striped", fednas_test_mine.stripes, "stripes of noise")
    yield
    import sys

    del sys.modules["fednas_test_mine"]


OF_USERS = ("mine", "mine(share=0.5)", "fednas_test_mine:by_label", "fednas_test_mine:half_of_each")


@pytest.mark.parametrize("name", [*PARTITIONS, *OF_USERS])
def test_every_partition_gives_each_example_at_most_once_and_no_client_too_few(name: str) -> None:
    config = DataConfig(partition=name, clients=20)
    divided = partition(LABELS, config, 3, NATURAL)
    assert divided.rows.dtype == divided.offsets.dtype == np.int64
    assert (divided.offsets[0], divided.offsets[-1]) == (0, len(divided.rows))
    assert len(divided.offsets) == 21
    assert np.diff(divided.offsets).min() >= config.min_examples
    assert len(np.unique(divided.rows)) == len(divided.rows)
    assert set(divided.rows) <= set(range(600))
    again = partition(LABELS, config, 3, NATURAL)
    np.testing.assert_array_equal(divided.rows, again.rows)
    np.testing.assert_array_equal(divided.offsets, again.offsets)


def test_a_users_partition_gets_its_arguments_and_what_it_asks_for_by_name() -> None:
    whole, half, natural = (
        partition(LABELS, DataConfig(partition=name, clients=20), 0, NATURAL) for name in OF_USERS[1:]
    )
    assert (len(whole.rows), len(half.rows)) == (300, 600)
    assert natural.rows[natural.offsets[:-1]].tolist() == NATURAL[:20].tolist()
    assert PARTITIONS.checksum("mine") == PARTITIONS.checksum("fednas_test_mine:by_label") is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"data.partition: fednas_test_mine:broken: KeyError: 'nowhere' \(fednas_test_mine.py, line \d+\)"),
        ("nothing", "data.partition: fednas_test_mine:nothing: got NoneType, want a list of arrays"),
        ("nowhere", "data.partition: got 'fednas_test_mine:nowhere', want one of the functions of fednas_test_mine"),
        ("by_label(part=1)", "data.partition: got .*by_label.* with the argument 'part', want share"),
        ("returns(value='text')", ".*got str, want a list of arrays of example numbers, one for each client"),
        ("returns(value='number')", ".*got int, want a list of arrays"),
        ("returns(value='short')", ".*got 19 clients, want 20, as data.clients says"),
        ("returns(value='floats')", r".*got \[30\] float64 for client 0, want \[n\] example numbers"),
        ("returns(value='flat')", r".*got \[30, 1\] int64 for client 0, want \[n\] example numbers"),
        ("returns(value='ragged')", r".*for client 0, want \[n\] example numbers"),
        ("returns(value='large')", ".*got 571 to 600 for client 19, want example numbers 0 to 599"),
        ("returns(value='negative')", ".*got -1 to 28 for client 0, want example numbers 0 to 599"),
        ("returns(value='few')", ".*got 1 examples for client 0, want at least data.min_examples, which is 4"),
        ("returns(value='empty')", ".*got 0 examples for client 0, want at least data.min_examples"),
        ("returns(value='twice')", ".*got example 0 for the clients 0 and 1, want each at most once"),
        ("returns(value='within')", ".*got example 0 for the clients 0 and 0, want each at most once"),
        ("sorts_in_place", ".*ValueError: .*read-only"),
    ],
)
def test_what_a_users_partition_does_wrong_is_one_line(name: str, message: str) -> None:
    with pytest.raises(FednasError, match=f"^{message}") as error:
        partition(LABELS, DataConfig(partition=f"fednas_test_mine:{name}", clients=20), 0)
    assert "\n" not in str(error.value)


def test_a_colon_after_one_of_the_projects_own_is_refused() -> None:
    with pytest.raises(DataError, match=r"data\.partition: got 'iid:2', want 'iid', which has nothing after a colon"):
        partition(LABELS, DataConfig(partition="iid:2"), 0)


@pytest.mark.parametrize("name", ["striped", "striped(examples=90)", "fednas_test_mine:stripes"])
def test_a_users_source_loads_as_the_projects_own_do(name: str) -> None:
    config = DataConfig(source=name)
    data = load(config, seed=1)
    assert isinstance(data, Dataset)
    assert (data.name, data.classes, data.train.inputs.shape[1:]) == ("stripes", 3, (4, 4, 1))
    assert len(data.train.labels) + len(data.test.labels) == (90 if "90" in name else 60)
    assert data.natural is not None
    np.testing.assert_array_equal(data.train.inputs, load(config, seed=1).train.inputs)
    assert not np.array_equal(data.train.inputs, load(config, seed=2).train.inputs)
    assert source_checksum(name) == OWN.checksum(name) is not None
    assert source_checksum("digits") is source_checksum("tfds:mnist") is None


def test_a_users_source_may_ask_for_the_config(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 2, 2), np.uint8))
    config = DataConfig(source="fednas_test_mine:from_folder", root=tmp_path)
    assert len(load(config, 0).train.labels) == 18
    (tmp_path / "x.npy").unlink()
    with pytest.raises(ConfigError, match=r"data.source: fednas_test_mine:from_folder: FileNotFoundError: .* line \d"):
        load(config, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"source": "fednas_test_mine:nothing"},
            "data.source: .*got NoneType, want a Dataset, as fn.from_arrays makes",
        ),
        ({"source": "fednas_test_mine:broken"}, "data.source: fednas_test_mine:broken: KeyError: 'nowhere'"),
        ({"source": "fednas_test_mine:none"}, "data.source: got 'fednas_test_mine:none', want one of the functions"),
        ({"source": "fednas_no_such:one"}, "data.source: got 'fednas_no_such:one', want MODULE:FUNCTION"),
        ({"source": "striped(example=1)"}, r"data.source: got 'striped\(example=1\)' with the argument 'example'"),
        ({"source": "stripes"}, "data.source: got 'stripes', want one of digits, .*striped, tfds:NAME, or MODULE:"),
        ({"source": "striped", "image_size": 8}, "data.image_size: got 8, want 0: data.source striped does not take"),
    ],
)
def test_what_is_wrong_with_a_users_source_is_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FednasError, match=f"^{message}") as error:
        load(DataConfig(**fields), 0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["digits", "striped", "no name"])
def test_names_that_are_taken_or_none_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"data.source: got '{name}'"):
        register_source(name, lambda seed: None)  # type: ignore[arg-type, return-value]


def test_the_list_and_the_command_line_know_what_is_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_sources()["striped"] == ("stripes of noise", True)
    options = ["--clients", "--data.clients", "3", "--data.partition", "fednas_test_mine:by_label(share=0.5)"]
    assert main(["data", "show", "fednas_test_mine:stripes", *options]) == 0
    assert "stripes" in capsys.readouterr().out
    assert fn.from_arrays


def test_the_ten_lines_of_the_documentation_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (tmp_path / "mine_of_docs.py").write_text(
        page.partition("```python\nimport numpy")[2].partition("```")[0].join(["import numpy", ""])
    )
    data = load(DataConfig(source="mine_of_docs:rings(examples=400)"), 0)
    divided = partition(data.train.labels, DataConfig(partition="mine_of_docs:by_label(share=0.8)", clients=10), 0)
    assert len(divided.rows) == pytest.approx(0.8 * len(data.train.labels), rel=0.02)
