"""Nine uneven clients, a network and three candidates, for the tests of rounds."""

import sys

import jax
import pytest
from rounds import WIDTHS, ConvNorm

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import load, pack, partition
from fednas_jax.nets import from_nnx


@pytest.fixture(scope="module")
def dataset():
    return load(DataConfig(), 0)


@pytest.fixture(scope="module")
def packed(dataset):
    """Nine clients of very uneven sizes; the smallest holds fewer examples than a batch."""
    config = DataConfig(clients=9, size_sigma=1.0, min_examples=4)
    few = type(dataset.train)(dataset.train.inputs[:260], dataset.train.labels[:260])
    return pack(few, partition(few.labels, config, 1), 0.3, 1)


@pytest.fixture(scope="session")
def network():
    return from_nnx("conv_norm", ConvNorm, {"conv": 4, "dense": 6}, (8, 8, 1))


@pytest.fixture(scope="session")
def candidates(network):
    return [jax.device_get(network.init(WIDTHS, jax.random.key(k))) for k in range(3)]


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """Writes a user's module where a run would find it; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    names = []

    def write(source):
        name = f"own_{tmp_path.name}_{len(names)}"
        (tmp_path / f"{name}.py").write_text(source)
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)
