"""Two processes, two devices each, are one search: they equal one process, stop together, and others can go on."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import host_round
import jax
import numpy as np
import pytest

from fednas_jax import nets
from fednas_jax.cli.parsing import parse
from fednas_jax.cli.search import SearchArgs
from fednas_jax.config.presets import preset
from fednas_jax.errors import ConfigError, DeviceError, FednasError, Interrupted
from fednas_jax.phones import ledger
from fednas_jax.run import model_files
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search
from fednas_jax.runtime import hosts
from fednas_jax.runtime.hosts import Hosts

OPTIONS = shlex.split(
    "--data.clients 5 --data.size-sigma 0.3 --net.widths 4 8 16 --pretrain.rounds 3 --finetune.rounds 1 "
    "--train.batch-size 60 --train.server-optimizer momentum --search.reduction 0.2 --search.budget 0.5 "
    "--search.groups 2 --search.score-clients 2 --search.score-most 4 --search.max-iterations 1 "
    "--engine.lanes 2 --engine.checkpoint-rounds 2"
)
SECONDS = 240  # after which a process that hangs is ended


@contextlib.contextmanager
def processes(*commands):
    """Each command in a process of its own with two fake devices; all are ended in any case."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    pipe = subprocess.PIPE
    started = [subprocess.Popen([sys.executable, *c], stdout=pipe, stderr=pipe, text=True, env=env) for c in commands]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def ended(started):
    """Exit codes, what was said and the errors of processes that are about to end."""
    said = [process.communicate(timeout=SECONDS) for process in started]
    return [process.returncode for process in started], [out for out, _ in said], [err for _, err in said]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def two_hosts(out, *more):
    """The same command twice. The second host is shown another folder, to see that it writes none."""
    port = free_port()
    command = ["-m", "fednas_jax", "search", "digits", *OPTIONS, *more, "--hosts.coordinator", f"127.0.0.1:{port}"]
    folders = [out, out.with_name(out.name + "-not-made")]
    return [
        [*command, "--hosts.number", "2", "--hosts.index", str(n), "--out", str(folder)]
        for n, folder in enumerate(folders)
    ]


def one_device(out, *options, **more):
    args = ["--out", str(out), *OPTIONS, *options]
    config = parse(SearchArgs, args, "test", SearchArgs(out, preset("digits"))).config
    return run_search(config, out, devices=jax.devices()[:1], **more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    one_device(out)
    return out


def ledger_of(out):
    return ledger.read(RunDir(out).ledger).to_pandas().drop(columns=["stage", "phase"]).to_numpy()


def variables(out, result):
    """Every number of every saved model, as found and as fine-tuned."""
    found = []
    for model in (result["parent"], *result["models"]):
        widths = tuple(model["widths"].values())
        like = nets.build(RunDir(out).config().net, (8, 8, 1), 10).abstract(widths)
        for part in ("", "finetuned"):
            found += jax.tree.leaves(model_files.load_model(out / model["path"] / part, like))
    return found


def assert_same_search(out, other):
    mine, theirs = (RunDir(o).result() for o in (out, other))
    for a, b in zip((mine["parent"], *mine["models"]), (theirs["parent"], *theirs["models"]), strict=True):
        for name in ("score", "test_accuracy", "test_score"):
            assert a.pop(name) == pytest.approx(b.pop(name), abs=1e-5)
        assert a == b
    for name in mine.keys() - {"simulator", "checksum", "parent", "models"}:
        assert mine[name] == theirs[name]
    np.testing.assert_array_equal(ledger_of(out), ledger_of(other))
    for a, b in zip(variables(out, mine), variables(other, theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_round_on_two_hosts_equals_that_on_one_device(tmp_path):
    port = free_port()
    command = [str(Path(__file__).parents[1] / "host_round.py"), str(port), "2"]
    with processes(*([*command, str(n), str(tmp_path)] for n in range(2))) as started:
        codes, _, errors = ended(started)
    assert codes == [0, 0], errors
    expected = host_round.one_round(jax.devices()[:1])
    assert expected["total"].sum() > 0
    found = [np.load(tmp_path / f"{n}.npz") for n in range(2)]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[0][name], found[1][name])
        if name != "lane_steps":
            np.testing.assert_allclose(found[0][name], value, atol=1e-5)


@pytest.mark.exhaustive
def test_one_host_is_asked_to_stop_so_both_stop_and_one_process_goes_on(alone, tmp_path):
    out = tmp_path / "run"
    events, deadline = out / "events.jsonl", time.monotonic() + SECONDS
    with processes(*two_hosts(out)) as started:
        while not (events.exists() and events.read_text()) and time.monotonic() < deadline:
            assert [process.poll() for process in started] == [None, None]
            time.sleep(0.02)
        started[1].send_signal(signal.SIGTERM)
        codes, said, errors = ended(started)
    assert codes == [143, 143], errors
    assert "the same command goes on" in said[0]
    assert RunDir(out).result() is None
    one_device(out)
    assert_same_search(out, alone)


@pytest.mark.exhaustive
def test_two_hosts_go_on_with_the_run_of_one_process_and_equal_it(alone, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        one_device(out, should_stop=lambda: True)  # after the first round
    with processes(*two_hosts(out)) as started:
        codes, said, errors = ended(started)
    assert codes == [0, 0], errors
    assert "going on from checkpoint" in said[0]
    assert_same_search(out, alone)
    assert len(RunDir(out).result()["simulator"]["devices"]) == 4
    # Written once, shown once.
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    kinds = [[e["event"] for e in RunDir(o).events()] for o in (out, alone)]
    assert [k for k in kinds[0] if k not in ("resume", "checkpoint")] == [k for k in kinds[1] if k != "checkpoint"]
    assert "The family of networks" in said[0]
    # jaxlib's own lines about Gloo may be woven into each other.
    assert not re.search("family|pretrain|iteration|report", said[1])


@pytest.mark.exhaustive
def test_sliced_candidates_on_two_hosts_are_those_of_one_process(tmp_path):
    """Each candidate is a program of its own, and all hosts come to them in the same order."""
    sliced = ("--search.candidates", "sliced", "--search.proposals", "random(candidates=2)")
    with processes(*two_hosts(tmp_path / "run", *sliced)) as started:
        one_device(tmp_path / "alone", *sliced)
        codes, _, errors = ended(started)
    assert codes == [0, 0], errors
    assert_same_search(tmp_path / "run", tmp_path / "alone")
    assert RunDir(tmp_path / "run").result()["candidates"] == "sliced"


@pytest.mark.exhaustive
def test_what_one_host_is_refused_for_ends_both_in_one_line(alone, tmp_path):
    """The first host's folder holds another run; then the second host has another command."""
    first, second = two_hosts(alone, "--seed", "5")
    with processes(first, second) as started:
        codes, _, errors = ended(started)
    assert codes == [2, 2]
    assert all("holds a run of another config" in e and "seed: 0, 5 now" in e for e in errors), errors
    first, second = two_hosts(tmp_path / "run")
    with processes(first, [*second, "--train.momentum", "0.5"]) as started:
        codes, _, errors = ended(started)
    assert codes == [2, 2]
    assert all("host 1: has another config than host 0" in e and "momentum: 0.9, 0.5 there" in e for e in errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Hosts("there:80", number=0), r"hosts\.number: got 0, want at least 1"),
        (Hosts("there:80", number=2, index=2), r"hosts\.index: got 2, want 0 to hosts\.number - 1, which is 1"),
        (Hosts("there:80", number=2, index=-1), r"hosts\.index: got -1"),
        (Hosts("there", number=2), r"hosts\.coordinator: got 'there', want HOST:PORT"),
        (Hosts(":80", number=2), r"hosts\.coordinator: got ':80', want HOST:PORT"),
        (Hosts("there:99999", number=2), r"hosts\.coordinator: got 'there:99999', want HOST:PORT, port 1 to 65535"),
        (Hosts(number=2), r"hosts\.coordinator: got none, want HOST:PORT of host 0 for 2 hosts"),
        (Hosts("there:80", auto=True), r"hosts\.auto: got other --hosts options too"),
    ],
)
def test_hosts_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        hosts.start(options)
    assert "\n" not in str(caught.value)


def test_a_first_host_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "MEETING_SECONDS", 0.3)
    with pytest.raises(DeviceError, match=r"hosts\.coordinator: no host 0 at 127\.0\.0\.1:\d+: Connection refused"):
        hosts.start(Hosts(f"127.0.0.1:{free_port()}", number=2, index=1))


def test_one_process_agrees_with_itself():
    assert hosts.first()
    assert hosts.agree(True)
    assert not hosts.agree(False)
    assert hosts.allgather(3) == [3]
    assert hosts.run_on_all(lambda: 4) == hosts.from_first_host(lambda: 4) == 4
    hosts.wait("nowhere")
    with pytest.raises(FednasError, match="mine"):
        hosts.run_on_all(lambda: (_ for _ in ()).throw(FednasError("mine")))
