"""The table of one accelerator: parts that fail or take too long are said, and the rest is measured."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "experiments" / "bench_gpu.py"


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location("bench_gpu", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_gpu"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_gpu"]


def report(rows, ladder=(), best=None):
    workload = {"rows": rows, "best": best, "definition": {"ladder": list(ladder)}}
    workload |= {"product_limit_flop_per_second": 4e14, "copy_limit_bytes_per_second": 4.3e12}
    machine = {"devices": 1, "device_kind": "a card", "jax": "0.0", "jaxlib": "0.0"}
    return {"machine": machine, "workloads": [workload]}


def row(**changes):
    other = {"examples_per_second": 5e5, "ratio": 2.0, "ratio_least": 1.9, "ratio_most": 2.1, "seconds": [1.0] * 3}
    return {
        "clients": 64,
        "lanes": 32,
        "examples_per_second": 1e6,
        "share_of_product_limit": 0.25,
        "share_of_roofline": 0.5,
        "padding": 0.1,
        "compile_seconds": 9.5,
        "sequential": None,
        "peers": {"pytorch-graph": other},
        "peers_left_out": {"pytorch-func-256": "out of memory"},
    } | changes


@pytest.fixture
def answers(bench, monkeypatch):
    """Parts answer with what stands here by a word of their command, instead of being run."""
    said, asked = {}, []

    def done(command, timeout, env, cwd, **_):
        asked.append((command, timeout, env))
        assert env["PYTHONPATH"].split(os.pathsep)[0] == str(cwd), (
            "what is measured lies there, wherever this is started"
        )
        answer = next(value for word, value in said.items() if any(word in part for part in command))
        if isinstance(answer, float):
            raise subprocess.TimeoutExpired(command, timeout)
        if isinstance(answer, str):
            return subprocess.CompletedProcess(command, 1, "", f"a warning\n{answer}\n")
        Path(command[-1]).write_text(json.dumps(answer))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(bench.subprocess, "run", done)
    return said, asked


def test_every_part_is_in_the_table_and_others_beside_it(bench, answers, tmp_path, capsys):
    said, asked = answers
    many = [row(lanes=n, peers={}) for n in (32, 128)]
    said["512"] = report(many, best=row(lanes=128, peers={}, peers_left_out={}))
    said["scale"] = report([row(clients=c) for c in (100, 1000)], ladder=(100, 1000))
    said["search"], said["bench"] = {}, report([row()])
    out = tmp_path / "gpu.json"
    assert bench.main(["--torch-python", sys.executable, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "1 x a card; jax 0.0" in shown
    assert "matrix products reach 400.00 TFLOP/s, copies 4.300 TB/s" in shown
    assert "scale, 1,000 clients" in shown
    assert "pytorch-graph: 500,000 examples/s; the fleet is 2.00 times as fast (1.90 to 2.10, 3 pairs)" in shown
    assert "pytorch-func-256 is not measured: out of memory" in shown
    found = json.loads(out.read_text())
    assert [part["name"] for part in found["parts"]] == [part.name for part in bench.PARTS]
    with_peers = [command for command, _, _ in asked if "--peers" in command]
    assert len(with_peers) == sum(part.peers for part in bench.PARTS) == 3
    assert all(command[command.index("--torch-python") + 1] == sys.executable for command in with_peers)
    assert len({env["XDG_CACHE_HOME"] for _, _, env in asked}) == 1  # a fresh cache for all


def test_a_part_that_fails_or_takes_too_long_is_said_and_the_rest_goes_on(bench, answers, capsys):
    said, _ = answers
    said["scale"], said["search"], said["bench"] = "lanes: too many", 1.0, report([row()])
    assert bench.main([]) == 1
    shown = capsys.readouterr().out
    assert "scale: lanes: too many" in shown
    assert "search digits: not done after " in shown
    assert shown.count("1,000,000") == len(bench.PARTS) - 2


def test_parts_end_when_the_time_is_up(bench, answers, monkeypatch, capsys):
    said, asked = answers
    said["bench"], said["search"] = report([row()]), {}
    clock = iter(range(0, 10_000, 10))  # every look at the clock finds ten seconds gone
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    assert bench.main(["--seconds", "100"]) == 1
    assert 0 < len(asked) < len(bench.PARTS)
    assert all(timeout <= 100 for _, timeout, _ in asked)
    assert "left out: no time" in capsys.readouterr().out


def test_a_part_may_take_what_others_left_over_and_nothing_that_others_need(bench, answers):
    said, asked = answers
    said["bench"], said["search"] = report([row()]), {}
    assert bench.main([]) == 0
    planned = [part.seconds for part in bench.PARTS]
    left = bench.SECONDS - sum(planned)  # answers take no time, so all of it is left over
    for number, (_, timeout, _) in enumerate(asked):
        assert timeout == pytest.approx(left + sum(planned[: number + 1]), abs=1)


def test_main_parts_run_before_and_with_other_flags_beside_what_they_are_now(
    bench, answers, monkeypatch, tmp_path, capsys
):
    said, asked = answers
    slow = report([row(examples_per_second=8e5, compile_seconds=20.0)])
    for missing in ("peers", "peers_left_out", "share_of_roofline"):  # what an earlier version did not know
        del slow["workloads"][0]["rows"][0][missing]
    said["before"], said["flags"], said["search"], said["bench"] = slow, report([row()]), {}, report([row()])
    monkeypatch.setenv("XLA_FLAGS", "--xla_here")
    monkeypatch.setenv("PYTHONPATH", "/where/jax/is")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "of the user"))
    (tmp_path / "fednas_jax").mkdir()
    (tmp_path / "fednas_jax" / "__main__.py").touch()
    out = tmp_path / "gpu.json"
    assert bench.main(["--before", str(tmp_path), "--flags=--xla_there", "--out", str(out), "--seconds", "999"]) == 0
    shown = capsys.readouterr().out
    beside = "mobilenet, beside before: 1.25 times the examples/s, 9.5 s of compilation and not 20.0"
    assert beside in shown
    assert "mobilenet, beside other flags: 1.00 times the examples/s" in shown
    assert "search digits, beside before: " in shown
    again = sum(part.again for part in bench.PARTS)
    assert len(asked) == len(bench.PARTS) + 2 * again
    sources = [env["PYTHONPATH"] == f"{tmp_path}{os.pathsep}/where/jax/is" for _, _, env in asked]
    assert sum(sources) == sum(env["XLA_FLAGS"] == "--xla_here --xla_there" for _, _, env in asked) == again
    for cache in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        assert len({env[cache] for _, _, env in asked} - {str(tmp_path / "of the user")}) == 3  # a fresh one for each
    parts = json.loads(out.read_text())["parts"]
    assert [part["setting"] for part in parts[:3]] == ["", "before", "other flags"]
    assert not any("--peers" in part["command"] for part in parts if part["setting"])


def test_the_whole_takes_less_than_six_minutes_and_every_command_is_understood(bench):
    from fednas_jax.bench import options

    assert sum(part.seconds for part in bench.PARTS) <= bench.SECONDS < 360
    for part in (*bench.PARTS, *bench.TINY):
        if not part.searches:
            names = {name for name in part.command.split()[1:] if not name.startswith("-")}
            assert names & set(options.WORKLOADS), part


@pytest.mark.parametrize(
    ("args", "fragment"),
    [
        (["--out", "nowhere/gpu.json"], "--out: got nowhere/gpu.json, want a file in a folder that exists"),
        (["--torch-python", "nowhere/python"], "--torch-python: got nowhere/python, want the Python of"),
        (["--before", "nowhere"], "--before: got nowhere, want a folder with the project"),
        (["--seconds", "0"], "--seconds: got 0.0, want above 0"),
    ],
)
def test_a_mistake_is_answered_with_exit_code_2(bench, args, fragment, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(args)
    assert stop.value.code == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.exhaustive
def test_the_tiny_table_is_measured_on_a_cpu(bench, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    assert bench.main(["--tiny", "--out", str(out)]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert all(row["examples_per_second"] > 0 for part in parts for row in part["report"]["workloads"][0]["rows"])
    assert "fedavg, 1 client, beside one after another: " in capsys.readouterr().out
