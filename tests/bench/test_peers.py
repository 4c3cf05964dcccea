"""Who the fleet is held against: PyTorch's process and layout, what is left out and why, and what a row says."""

import importlib.util
import io
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from small_rounds import NETS, small

from fednas_jax.bench import machine, options, peers, run, torch_peers
from fednas_jax.bench.rounds import Federation, FleetRounds
from fednas_jax.bench.workloads import WORKLOADS
from fednas_jax.config.schema import EngineConfig
from fednas_jax.errors import ConfigError, TrainingError

# An environment with PyTorch, where one is at hand; without one what PyTorch computes is not tested.
TORCH_PYTHON = os.environ.get("FEDNAS_TORCH_PYTHON", sys.executable if importlib.util.find_spec("torch") else "")


def python(folder, lines):
    """A Python that is no Python: it answers with these lines and ends."""
    script = folder / "python"
    answers = "\n".join(f"read request; echo '{json.dumps(line)}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{answers}\n")
    script.chmod(0o755)
    return str(script)


def rounds(name="nas-round"):
    return FleetRounds(Federation(small(name, 5), 5, 1), EngineConfig(lanes=2), jax.devices()[:1])


VERSION = {"torch": "0", "cuda": False}


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="this environment has PyTorch")
def test_the_worker_says_that_it_has_no_pytorch():
    with pytest.raises(torch_peers.NoTorch, match="has no torch"):
        torch_peers.TorchWorker(sys.executable)


def test_a_python_that_is_not_there_is_said(tmp_path):
    with pytest.raises(torch_peers.NoTorch, match=r"nothing: No such file or directory"):
        torch_peers.TorchWorker(str(tmp_path / "nothing"))


def test_requests_and_answers_are_lines_and_an_error_is_raised(tmp_path):
    worker = torch_peers.TorchWorker(python(tmp_path, [VERSION, {"threads": 2}, {"error": "ValueError: broken"}]))
    assert worker.version == "0"
    assert worker.ask(do="load") == {"threads": 2}
    with pytest.raises(torch_peers.NoTorch, match="ValueError: broken"):
        worker.round("sequential")
    with pytest.raises(torch_peers.NoTorch, match="ended without a word"):
        worker.round("sequential")
    folder = worker.folder
    assert folder.is_dir()
    worker.close()
    assert not folder.exists()


def test_a_pytorch_that_cannot_use_the_fleet_s_device_is_refused(tmp_path):
    worker = torch_peers.TorchWorker(python(tmp_path, [VERSION]))
    with pytest.raises(torch_peers.NoTorch, match="torch 0 cannot use this gpu"):
        worker.load(Federation(small("nas-round", 5), 5, 1), "gpu")
    worker.close()


def test_weights_in_pytorch_s_layout_compute_the_same():
    """By hand in numpy: a dense layer on channels-first features equals ours on channels-last ones."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (5, 5, 1, 2), "conv2": (5, 5, 2, 3), "dense": (2 * 2 * 3, 4), "classifier": (4, 10)}
    params = {f"{name}/kernel": rng.normal(size=(2, *shape)) for name, shape in shapes.items()}
    params |= {f"{name}/bias": rng.normal(size=(2, shape[-1])) for name, shape in shapes.items()}
    there = torch_peers.to_torch(params | {"blocks/0/norm/scale": np.ones((2, 3))}, (2, 2))
    features = rng.normal(size=(2, 2, 3))  # height, width, channels
    ours = features.ravel() @ params["dense/kernel"][1]
    np.testing.assert_allclose(there["dense.weight"][1] @ features.transpose(2, 0, 1).ravel(), ours)
    assert there["conv2.weight"].shape == (2, 3, 2, 5, 5)
    assert np.array_equal(there["conv2.weight"][1, 2, 0], params["conv2/kernel"][1, :, :, 0, 2])
    assert np.array_equal(there["classifier.weight"][0], params["classifier/kernel"][0].T)
    named = {f"{name}.{part}" for name in shapes for part in ("weight", "bias")}
    assert set(there) == named | {"blocks.0.norm.weight"}


def test_without_pytorch_jax_s_own_vmap_is_still_measured(tmp_path):
    held = peers.Peers(python(tmp_path, [{"error": "python has no torch"}]))
    found, left_out = held.of(rounds())
    held.close()
    assert [peer.name for peer in found] == ["jax-vmap-4"]
    assert found[0].work() > 0
    assert left_out == {"pytorch": "python has no torch; --torch-python names a Python that has it"}


def test_want_of_memory_leaves_a_peer_out_and_any_other_failure_ends_the_bench(monkeypatch):
    held = peers.Peers("nowhere/python")
    work = rounds()

    def fails(text):
        def make(name):
            raise jax.errors.JaxRuntimeError(text)

        return lambda work, lanes: make

    monkeypatch.setattr(peers, "_vmapped", fails("RESOURCE_EXHAUSTED: Out of memory"))
    assert held.of(work)[1]["jax-vmap-4"] == "out of memory"
    monkeypatch.setattr(peers, "_vmapped", fails("INTERNAL: broken"))
    with pytest.raises(TrainingError, match="peers: jax-vmap-4: INTERNAL: broken"):
        held.of(work)


def test_fewer_clients_than_lanes_train_side_by_side_all_at_once():
    assert peers._fitting((32, 256), 2_048) == [32, 256]
    assert peers._fitting((32, 256), 64) == [32]
    assert peers._fitting((32, 256), 10) == [10]


def test_the_ratio_is_of_examples_a_second_turn_by_turn():
    found = peers.compared(np.asarray([1.0, 2.0, 1.0]), 100, [1.0, 1.0, 4.0], 50, 1e-6)
    assert (found["ratio"], found["ratio_least"], found["ratio_most"]) == (2.0, 1.0, 8.0)
    assert (found["examples_per_second"], found["difference"]) == (50.0, 1e-6)


@pytest.mark.skipif(not TORCH_PYTHON, reason="no environment with PyTorch: FEDNAS_TORCH_PYTHON names one")
@pytest.mark.parametrize("name", NETS)
def test_pytorch_computes_the_fleet_s_step_one_after_another_and_side_by_side(name):
    held = peers.Peers(TORCH_PYTHON)
    found, left_out = held.of(rounds(name))
    held.close()
    assert left_out == {}
    assert [peer.name for peer in found] == ["pytorch", "pytorch-func-4", "jax-vmap-4"]
    assert all(peer.difference < 1e-3 for peer in found[:2])


@pytest.mark.skipif(not TORCH_PYTHON, reason="no environment with PyTorch: FEDNAS_TORCH_PYTHON names one")
def test_another_learning_rate_is_found_to_be_another_step(monkeypatch):
    work = rounds()
    monkeypatch.setattr(work.fleet, "train", lambda *a, train=work.fleet.train: train(*a[:-1], 1.01 * a[-1]))
    held = peers.Peers(TORCH_PYTHON)
    with pytest.raises(TrainingError, match=r"pytorch: nas-round, PyTorch sequential: the averaged updates differ"):
        held.of(work)
    held.close()


def test_a_report_has_the_peers_and_says_who_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "SIDE", {"cpu": 32})
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**16})
    monkeypatch.setitem(WORKLOADS, "nas-round", small("nas-round", 5))
    lacks = python(tmp_path, [{"error": "python has no torch"}])
    said = io.StringIO()
    asked = options.BenchOptions(
        ("nas-round",), lanes="2", devices=1, repeats=2, peers=True, torch_python=tmp_path / "python"
    )
    assert lacks == str(asked.torch_python)
    (row,) = run.run_bench(asked, Console(file=said, width=100))["workloads"][0]["rows"]
    assert list(row["peers"]) == ["jax-vmap-4"]
    assert len(row["peers"]["jax-vmap-4"]["seconds"]) == len(row["seconds"])
    assert row["peers"]["jax-vmap-4"]["ratio"] > 0
    assert "jax-vmap-4: " in said.getvalue()
    assert "pytorch is not measured: python has no torch; --torch-python names" in said.getvalue()


@pytest.mark.parametrize(
    ("asked", "fragment"),
    [
        ({"torch_python": "python"}, "torch_python: got python, want it with --peers"),
        ({"torch_python": "nowhere/python", "peers": True}, "torch_python: got nowhere/python, want the Python"),
        ({"peers": True, "precision": "bfloat16"}, "peers: got --peers with --precision bfloat16, want float32"),
    ],
)
def test_what_peers_cannot_do_is_refused(asked, fragment):
    if "torch_python" in asked:
        asked = asked | {"torch_python": Path(asked["torch_python"])}
    with pytest.raises(ConfigError, match=fragment):
        options.check(options.BenchOptions(**asked))
