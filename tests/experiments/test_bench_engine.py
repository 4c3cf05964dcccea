"""The comparison with PyTorch: its weights' layout, its protocol, and that it runs without PyTorch."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent.parent / "experiments"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_engine", FOLDER / "bench_engine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def worker(folder, lines):
    """A Python that is no Python: it answers with these lines and ends."""
    script = folder / "python"
    answers = "\n".join(f"read request; echo '{json.dumps(line)}'" for line in lines)
    script.write_text(f"#!/bin/sh\n{answers}\n")
    script.chmod(0o755)
    return str(script)


def has_torch():
    return importlib.util.find_spec("torch") is not None


def test_without_pytorch_the_fleet_is_measured_alone(bench, tmp_path, capsys):
    out = tmp_path / "pairs.json"
    lacks = worker(tmp_path, [{"error": "python has no torch"}])
    asked = ["fedavg-round", "--tiny", "--pairs", "2", "--lanes", "2", "--torch-python", lacks, "--out", str(out)]
    assert bench.main(asked) == 0
    said = capsys.readouterr().out
    assert said.startswith("no comparison: python has no torch")
    (row,) = json.loads(out.read_text())["workloads"]
    assert len(row["fleet_seconds"]) == 2
    assert row["examples"] > 0
    assert "ratio" not in row


@pytest.mark.skipif(has_torch(), reason="this environment has PyTorch")
def test_the_worker_says_that_it_has_no_pytorch(bench):
    torch = bench.Torch(sys.executable)
    with pytest.raises(bench.NoTorch, match="has no torch"):
        torch.ask(do="version")
    torch.close()


@pytest.mark.skipif(not has_torch(), reason="PyTorch is in no environment of ours")
def test_both_compute_the_same_round(bench, tmp_path):
    out = tmp_path / "pairs.json"
    assert bench.main(["--tiny", "--pairs", "1", "--lanes", "2", "--torch-threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["workloads"]
    assert [row["workload"] for row in rows] == ["fedavg-round", "nas-round"]
    assert all(row["difference"] < 1e-5 and row["ratio"] > 0 for row in rows)


def test_requests_and_answers_are_lines_and_an_error_is_raised(bench, tmp_path):
    torch = bench.Torch(worker(tmp_path, [{"threads": 2}, {"error": "ValueError: broken"}]))
    assert torch.ask(do="load") == {"threads": 2}
    with pytest.raises(bench.NoTorch, match="ValueError: broken"):
        torch.ask(do="round")
    with pytest.raises(bench.NoTorch, match="ended without a word"):
        torch.ask(do="round")
    torch.close()


def test_a_round_that_differs_is_an_error_and_not_a_result(bench, tmp_path, capsys):
    broken = worker(tmp_path, [{"torch": "0"}, {"torch": "0"}, {"error": "the averaged weights differ"}])
    assert bench.main(["fedavg-round", "--tiny", "--lanes", "2", "--torch-python", broken]) == 1
    assert capsys.readouterr().err == "bench_engine: the averaged weights differ\n"


def test_weights_in_pytorch_s_layout_compute_the_same(bench):
    """By hand in numpy: a dense layer on channels-first features equals ours on channels-last ones."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (5, 5, 1, 2), "conv2": (5, 5, 2, 3), "dense": (2 * 2 * 3, 4), "classifier": (4, 10)}
    params = {f"{name}/kernel": rng.normal(size=(2, *shape)) for name, shape in shapes.items()}
    params |= {f"{name}/bias": rng.normal(size=(2, shape[-1])) for name, shape in shapes.items()}
    there = bench.to_torch(params, (2, 2))
    features = rng.normal(size=(2, 2, 3))  # height, width, channels
    ours = features.ravel() @ params["dense/kernel"][1]
    np.testing.assert_allclose(there["dense.weight"][1] @ features.transpose(2, 0, 1).ravel(), ours)
    assert there["conv2.weight"].shape == (2, 3, 2, 5, 5)
    assert np.array_equal(there["conv2.weight"][1, 2, 0], params["conv2/kernel"][1, :, :, 0, 2])
    assert np.array_equal(there["classifier.weight"][0], params["classifier/kernel"][0].T)
    assert set(there) == {f"{name}.{part}" for name in shapes for part in ("weight", "bias")}


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (["scale"], "workload: got 'scale', want one of fedavg-round, nas-round"),
        (["--pairs", "0"], "--pairs: got 0, want at least 1"),
        (["--torch-threads", "0"], "--torch-threads: got 0, want at least 1"),
        (["--out", "nowhere/pairs.json"], "--out: got nowhere/pairs.json, want a file in a folder that exists"),
        (["--torch-python", "nowhere/python"], "--torch-python: got nowhere/python: No such file"),
    ],
)
def test_a_mistake_is_answered_with_exit_code_2(bench, args, fragment, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(args)
    assert stop.value.code == 2
    assert fragment in capsys.readouterr().err


def test_tiny_workloads_are_those_of_the_bench_but_small(bench):
    for name in bench.NAMES:
        tiny = bench.tiny(bench.WORKLOADS[name])
        assert (tiny.train, tiny.rounds, tiny.scored) == tuple(
            getattr(bench.WORKLOADS[name], field) for field in ("train", "rounds", "scored")
        )
        federation = bench.Federation(tiny, tiny.clients, 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(federation.start().params)) < 5_000
