"""The comparison with PyTorch in pairs, and that it runs without PyTorch."""

import importlib.util
import json
from pathlib import Path

import jax
import pytest

import fednas_jax as fn

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


@pytest.mark.skipif(not has_torch(), reason="PyTorch is in no environment of ours")
def test_both_compute_the_same_round(bench, tmp_path):
    out = tmp_path / "pairs.json"
    assert bench.main(["--tiny", "--pairs", "1", "--lanes", "2", "--torch-threads", "1", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["workloads"]
    assert [row["workload"] for row in rows] == ["fedavg-round", "nas-round"]
    assert all(row["difference"] < 1e-4 and row["ratio"] > 0 for row in rows)


def test_a_round_that_differs_is_an_error_and_not_a_result(bench, tmp_path, capsys):
    broken = worker(tmp_path, [{"torch": "0", "cuda": False}, {"threads": 1}, {"error": "the averaged weights differ"}])
    assert bench.main(["fedavg-round", "--tiny", "--lanes", "2", "--torch-python", broken]) == 1
    assert capsys.readouterr().err == "bench_engine: the averaged weights differ\n"


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (["scale"], "workload: got 'scale', want one of fedavg-round, nas-round"),
        (["--pairs", "0"], "--pairs: got 0, want at least 1"),
        (["--torch-threads", "-1"], "--torch-threads: got -1, want at least 0"),
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
        tiny = bench.tiny(fn.WORKLOADS[name])
        assert (tiny.train, tiny.rounds, tiny.scored) == tuple(
            getattr(fn.WORKLOADS[name], field) for field in ("train", "rounds", "scored")
        )
        federation = fn.Federation(tiny, tiny.clients, 0)
        assert sum(leaf.size for leaf in jax.tree.leaves(federation.start().params)) < 5_000
