"""Texts are searched end to end: a classifier, and a tagger whose every position has a label."""

import dataclasses

import jax
import numpy as np
import pytest

import fednas_jax as fn
from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError, DataError
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search
from fednas_jax.run.verifying import verify_run


def small(name):
    config = fn.tiny(fn.preset(name))
    data = dataclasses.replace(config.data, synthetic_length=6, synthetic_tokens=12, synthetic_examples=120)
    net = NetConfig("lstm", widths=(8, 8, 8), multiple=(2,))
    engine = dataclasses.replace(config.engine, lanes=2)
    return dataclasses.replace(config, data=data, net=net, engine=engine)


@pytest.mark.parametrize("name", ["shakespeare", pytest.param("sent140", marks=pytest.mark.exhaustive)])
def test_a_search_finds_a_smaller_network_that_is_loaded_and_called_on_tokens(tmp_path, name):
    config = small(name)
    result = run_search(config, tmp_path / "run", devices=jax.devices()[:1])
    assert verify_run(tmp_path / "run").finished
    (model,) = result["models"]
    assert model["macs"] < result["parent"]["macs"]
    assert result["candidates"] == "masked"
    positions = name == "shakespeare"
    assert (result["data"]["tokens"], result["data"]["positions"]) == (12, positions)
    classes = result["data"]["classes"]
    network = fn.load_model(tmp_path / "run", 1)
    tokens = np.random.default_rng(0).integers(0, 12, (3, 6))
    assert network(tokens).shape == ((3, 6, classes) if positions else (3, classes))
    assert np.isfinite(network(tokens)).all()
    with pytest.raises(DataError, match=r"^inputs: got float64, want token ids, which are integers$"):
        network(tokens / 2)
    with pytest.raises(DataError, match=r"^inputs: got \[3, 5\], want \[B, 6\]$"):
        network(tokens[:, :5])
    # An example is what a client trains on and is paid for; a score counts labels.
    rows = fn.read_ledger(tmp_path / "run").to_pandas()
    packed = sum(e["examples"] for e in RunDir(tmp_path / "run").events() if e["event"] == "start")
    assert rows[(rows.stage == "pretrain") & (rows.phase == "evaluate")].examples.sum() < packed


def test_what_only_images_have_is_refused_for_texts(tmp_path):
    for change, said in (
        ({"train.augment.flip": True}, "train.augment"),
        ({"data.rotation_degrees": 5.0}, "data.rotation_degrees"),
        ({"net.name": "cnn", "net.widths": (), "net.multiple": (8,)}, "net.name: cnn takes images, got texts of 6"),
    ):
        with pytest.raises(ConfigError, match=f"^{said}"):
            run_search(fn.override(small("sent140"), change), tmp_path / "run", devices=jax.devices()[:1])
    assert not (tmp_path / "run").exists()
