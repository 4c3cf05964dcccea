"""fednas bench: what its workloads are, that the baseline computes the fleet's round, and what a report holds."""

import dataclasses
import io
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from fednas_jax import nets
from fednas_jax.bench import machine, options, run, tables
from fednas_jax.bench import measuring as measure
from fednas_jax.bench.sequential import Sequential
from fednas_jax.bench.workloads import USUAL, WORKLOADS, Sizes, make_clients
from fednas_jax.cli.app import main
from fednas_jax.config.schema import AugmentConfig, EngineConfig, NetConfig
from fednas_jax.errors import ConfigError, TrainingError
from fednas_jax.space import jaxprs

SMALL = {"net": NetConfig(name="cnn", widths=(2, 2, 4)), "shape": (8, 8, 1), "sizes": Sizes(4, 30, 12, 0.5)}


def small(name, **changes):
    """A workload that compiles and runs at once."""
    return dataclasses.replace(WORKLOADS[name], **{**SMALL, "clients": 3, **changes})


@pytest.fixture
def workloads(monkeypatch):
    """Every named workload small, and matrices too."""
    monkeypatch.setattr(machine, "SIDE", {"cpu": 32})
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**16})
    ones = {
        "fedavg-round": small("fedavg-round"),
        "nas-round": small("nas-round", candidates=2),
        "scale": small("scale", ladder=(2, 3), sizes=Sizes(4, 9)),
    }
    for name, workload in ones.items():
        monkeypatch.setitem(WORKLOADS, name, workload)
    return ones


@pytest.mark.parametrize("name", USUAL)
def test_clients_hold_as_many_examples_as_the_workload_says(name):
    workload = WORKLOADS[name]
    data, mean, std = make_clients(workload, 60, 3)
    trains = data.train_count
    assert workload.sizes.low <= trains.min() < trains.max() <= workload.sizes.high
    assert np.array_equal(data.val_count, trains // 4 if workload.scored else 0 * trains)
    assert data.inputs.shape == (data.offsets[-1], *workload.shape)
    assert len(data.labels) == len(data.inputs)
    assert len(mean) == len(std) == workload.shape[-1]
    again = make_clients(workload, 60, 3)[0]
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True))
    assert not np.array_equal(trains, make_clients(workload, 60, 4)[0].train_count)


def test_the_clients_of_million_stay_on_disk_and_each_round_samples_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workload = small("million", clients=40, cohort=6, sizes=Sizes(10, 30))
    federation = measure.Federation(workload, 40, 3)
    data = federation.data
    assert not list(tmp_path.iterdir())
    assert data.on_disk
    assert data.clients == 40
    sizes = np.diff(data.offsets)
    assert 10 <= sizes.min() < sizes.max() <= 30
    assert np.array_equal(data.val_count, np.clip(np.rint(0.2 * sizes), 1, None))
    first, second, again = (federation.tasks_of(n).client for n in (1, 2, 1))
    assert len(set(first.tolist())) == 6
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    work = measure.FleetRounds(federation, EngineConfig(lanes=2), jax.devices()[:1])
    assert work.fleet.streams
    work()
    assert work.effort.steps == work.fleet.steps[first].sum()


def test_lognormal_sizes_have_their_median_and_are_clipped():
    sizes = WORKLOADS["fedavg-round"].sizes.draw(20_000, np.random.default_rng(0))
    assert np.median(sizes) == pytest.approx(120, rel=0.02)
    assert sizes.min() == 20
    assert sizes.max() == 500
    assert np.log(sizes[(sizes > 20) & (sizes < 500)]).std() == pytest.approx(0.5, rel=0.05)


def test_clients_beyond_the_images_drawn_hold_them_over_again(monkeypatch):
    monkeypatch.setattr("fednas_jax.bench.workloads.DISTINCT", 10)
    data, _, _ = make_clients(small("scale"), 4, 0)
    assert len(data.inputs) == data.offsets[-1] > 10
    assert np.array_equal(data.inputs[10], data.inputs[0])


def test_the_paper_s_network_takes_73_6_mflop_an_example_to_train():
    workload = WORKLOADS["fedavg-round"]
    network = nets.build(workload.net, workload.shape, 10)
    cost = measure.flop(network, tuple(network.widths.values()))
    first = 28 * 28 * 25 * 32
    macs = first + 14 * 14 * 25 * 32 * 64 + 7 * 7 * 64 * 512 + 512 * 10
    assert cost == measure.Flop(6 * macs, 6 * macs - 2 * first, 2 * macs)
    assert cost.counted == pytest.approx(73.6e6, rel=0.01)


def test_every_network_s_first_layer_is_the_one_that_sees_the_image():
    workload = WORKLOADS["mobilenet-round"]
    network = nets.build(workload.net, workload.shape, 10)
    widths = tuple(network.widths.values())
    layers = jaxprs.layer_macs(network, widths)
    assert layers[0] == 32 * 32 * 9 * 3 * 16
    assert sum(layers) == jaxprs.count_macs(network, widths)


def test_the_number_of_clients_cuts_a_ladder_or_adds_a_rung():
    scale = WORKLOADS["scale"]
    assert scale.with_clients(0) is scale
    assert scale.with_clients(1_000).ladder == (100, 1_000)
    assert scale.with_clients(1_500).ladder == (100, 1_000, 1_500)
    assert scale.with_clients(50).ladder == (50,)
    assert WORKLOADS["nas-round"].with_clients(4).ladder == ()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "augment"), [("nas-round", (2, True, 3))])
def test_the_sequential_baseline_computes_the_fleet_s_round(name, augment):
    workload = small(name, sizes=Sizes(5, 70, 25, 0.9))
    train = dataclasses.replace(workload.train, augment=AugmentConfig(*augment))
    federation = measure.Federation(dataclasses.replace(workload, train=train), 5, 1)
    f, train = federation, federation.workload.train
    assert f.data.train_count.min() < train.batch_size < f.data.train_count.max()
    work = measure.FleetRounds(f, EngineConfig(lanes=3), jax.devices()[:1])
    start = work.stack
    some = type(f.tasks)(*(column[:-2] for column in f.tasks))  # the last candidate trains on fewer
    asked = (some, f.moment(1), f.names, train.learning_rate)
    fleet = work.fleet.train(f.widths, start, work.server, *asked).stack
    sequential = Sequential(f.network, f.widths, f.data, f.mean, f.std, train, f.seed).train(start, *asked)
    for ours, theirs in zip(jax.tree.leaves(fleet), jax.tree.leaves(sequential), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), sequential.params, start.params)
    assert min(moved.values()) > 0


def test_works_take_turns_until_the_time_or_the_turns_are_over():
    order = []
    works = [lambda n=n: order.append(n) or float(n) for n in (1, 2)]
    assert measure.in_turns(works, 60.0, 3) == [[1.0] * 3, [2.0] * 3]
    assert order == [1, 2] * 3
    assert measure.in_turns(works, 1e-9, 3) == [[1.0], [2.0]]  # one turn in any case


def test_a_report_is_complete_and_sane(workloads, tmp_path, capsys):
    out = tmp_path / "bench.json"
    args = ["nas-round", "scale", "--clients", "2", "--devices", "1", "--lanes", "2", "--repeats", "2", "--sequential"]
    assert main(["bench", *args, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert set(report["machine"]) >= {"jax", "jaxlib", "platform", "device_kind", "cpu", "cores", "devices"}
    assert report["machine"]["devices"] == 1
    assert report["options"]["lanes"] == "2"
    assert [w["name"] for w in report["workloads"]] == ["nas-round", "scale"]
    for found in report["workloads"]:
        workload = workloads[found["name"]]
        assert found["definition"]["train"]["batch_size"] == workload.train.batch_size
        assert [row["clients"] for row in found["rows"]] == [2]
        for row in found["rows"]:
            check_row(row, workload, found["product_limit_flop_per_second"], found["copy_limit_bytes_per_second"])
        sequential = found["rows"][0]["sequential"]
        assert (sequential is None) == bool(workload.ladder)
        if sequential:
            assert sequential["ratio_least"] <= sequential["ratio"] <= sequential["ratio_most"]
            assert len(sequential["seconds"]) == len(found["rows"][0]["seconds"])
    said = capsys.readouterr().out
    assert "sequential: " in said
    assert list(tmp_path.iterdir()) == [out]  # nothing unfinished is left


def check_row(row, workload, limit, copies):
    data = make_clients(workload, row["clients"], 0)[0]
    batches = -(-data.train_count // workload.train.batch_size)
    pieces = workload.candidates * workload.rounds
    assert row["steps"] == pieces * batches.sum()
    assert row["examples"] == row["steps"] * workload.train.batch_size
    assert row["scored_examples"] == pieces * data.val_count.sum()
    assert (row["lanes"], row["devices"], row["compilations"]) == (2, 1, 1)
    assert row["compile_seconds"] > 0
    assert 0 <= row["padding"] < 1
    assert 1 <= len(row["seconds"]) <= 2
    assert all(0 <= s < t for s, t in zip(row["scoring_seconds"], row["seconds"], strict=True))
    assert row["examples_per_second"] == pytest.approx(row["examples"] / min(row["seconds"]))
    assert row["examples_per_second"] >= row["examples_per_second_median"]
    assert row["flop_per_example_done"] < row["flop_per_example"]
    assert row["share_of_product_limit"] == pytest.approx(row["flop_per_second"] / limit)
    assert row["peak_host_mib"] > 10
    judged = [row["training"], *([row["scoring"]] if workload.scored else [])]
    assert (row["scoring"] is None) == (not workload.scored)
    assert row["training"]["bytes"] == row["steps"] * row["bytes_per_step"]
    assert sum(part["flop"] for part in judged) == pytest.approx(row["flop_per_second"] * min(row["seconds"]))
    assert sum(part["seconds"] for part in judged) == pytest.approx(min(row["seconds"]))
    for part in judged:
        assert part["least_seconds"] == pytest.approx(max(part["flop"] / limit, part["bytes"] / copies))
        assert part["share_of_roofline"] == pytest.approx(part["least_seconds"] / part["seconds"])
    assert row["share_of_roofline"] == pytest.approx(sum(p["least_seconds"] for p in judged) / min(row["seconds"]))


@pytest.mark.exhaustive
def test_a_sweep_measures_every_number_of_lanes_and_compares_the_best(workloads, tmp_path):
    asked = options.BenchOptions(
        ("fedavg-round",), lanes="2,1", devices=1, repeats=1, sequential=True, profile=tmp_path / "trace"
    )
    report = run.run_bench(asked, Console(file=io.StringIO()))
    (found,) = report["workloads"]
    assert [row["lanes"] for row in found["rows"]] == [1, 2]  # smallest first: peak memory only grows
    assert found["best"]["lanes"] == max(found["rows"], key=lambda row: row["examples_per_second"])["lanes"]
    assert found["best"]["sequential"]["ratio"] > 0
    assert all(row["sequential"] is None for row in found["rows"])
    assert list((tmp_path / "trace" / "fedavg-round").rglob("*.xplane.pb"))


def test_lanes_that_do_not_fit_the_memory_end_a_sweep(workloads, monkeypatch):
    real = run.measure

    def fits(federation, engine, *rest):
        if engine.lanes > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(federation, engine, *rest)

    monkeypatch.setattr(run, "measure", fits)
    said = io.StringIO()
    asked = options.BenchOptions(("fedavg-round",), lanes="1,2,4", devices=1, repeats=1)
    report = run.run_bench(asked, Console(file=said, width=100))
    assert [row.get("error") for row in report["workloads"][0]["rows"]] == [None, "out of memory"]
    assert "no memory" in said.getvalue()
    with pytest.raises(TrainingError, match="lanes: 2 of fedavg-round, 3 clients, need more memory"):
        run.run_bench(dataclasses.replace(asked, lanes="2"), Console(file=said))


def test_evenness_compares_large_numbers_of_clients_at_their_best_lanes():
    pairs = ((100, 9.0), (1_000, 2.0), (1_000, 8.0), (10_000, 3.0))
    rows = [{"clients": clients, "seconds_per_client": seconds} for clients, seconds in pairs]
    assert run._evenness(rows) == 1.5
    assert run._evenness(rows[:3]) is None


def test_tables_fit_into_100_columns():
    other = {"seconds": [1.0], "examples_per_second": 1e6, "ratio": 9.87, "ratio_least": 9, "ratio_most": 10}
    other |= {"difference": None}
    row = {
        "clients": 100_000,
        "lanes": 1024,
        "examples_per_second": 12_345_678.0,
        "examples_per_second_median": 12_345_678.0,
        "seconds_per_client": 0.6475,
        "padding": 0.292,
        "flop_per_second": 123_456.7e9,
        "share_of_product_limit": 0.123,
        "share_of_roofline": 0.456,
        "bytes_per_step": 123_456_789,
        "training": {"share_of_roofline": 0.5, "bound_by": "arithmetic"},
        "scoring": {"share_of_roofline": 0.4, "bound_by": "memory"},
        "compile_seconds": 123.4,
        "compilations": 1,
        "peak_host_mib": 123_456.0,
        "peak_device_mib": 81_920.0,
        "sequential": other,
        "peers": {"pytorch-func-256": other | {"difference": 1e-6}},
        "peers_left_out": {"jax-vmap-32": "out of memory"},
    }
    result = {
        "definition": {"train": {"precision": "float32"}},
        "product_limit_flop_per_second": 1e15,
        "copy_limit_bytes_per_second": 4.3e12,
        "rows": [row, {"clients": 100_000, "lanes": 2048, "error": "out of memory"}],
        "best": None,
        "evenness": 1.2,
    }
    for workload in WORKLOADS.values():
        said = io.StringIO()
        tables.print_workload(Console(file=said, width=100), result | vars(workload))
        assert max(map(len, said.getvalue().splitlines())) <= 100
        assert "12,345,678" in said.getvalue()
        assert "no memory" in said.getvalue()
        assert "…" not in said.getvalue()


def test_bfloat16_is_what_networks_and_their_limit_compute_in(workloads):
    (workload,) = options.chosen(options.BenchOptions(("fedavg-round",), precision="bfloat16"))
    assert workload.train.precision == "bfloat16"
    assert machine.product_limit(jax.devices()[:1], workload.train) > 0


MISTAKES = {
    "unknown workload": (["fedavg"], "workload: got 'fedavg', want one of fedavg-round, nas-round"),
    "lanes 0 among others": (["--lanes", "0,2"], "lanes: got '0,2', want 0 (chooses), or numbers above 0"),
    "negative lanes": (["--lanes", "-1"], "lanes"),
    "no number of lanes": (["--lanes", "many"], "lanes: got 'many'"),
    "lanes said twice": (["--lanes", "2", "--engine.lanes", "4"], "engine.lanes: got 4, want 0"),
    "negative clients": (["--clients", "-3"], "clients: got -3, want at least 1"),
    "too many clients": (["--clients", "99999999999"], "clients: got 99999999999, want at most 10000000"),
    "too many lanes": (["--lanes", "1,99999999"], "engine.lanes: got 99999999, want"),
    "negative devices": (["--devices", "-1"], "devices: got -1, want at least 1"),
    "no repeats": (["--repeats", "0"], "repeats: got 0, want at least 1"),
    "no time": (["--seconds", "0"], "seconds: got 0.0, want above 0"),
    "NaN seconds": (["--seconds", "nan"], "seconds: got nan"),
    "no folder": (["--out", "nowhere/bench.json"], "out: got nowhere/bench.json, want a file in a folder that exists"),
    "a folder as file": (["--out", "."], "out: got ., want a file"),
    "engine option": (["--engine.eval-batch", "0"], "engine.eval_batch: got 0"),
    "unknown option": (["--bogus"], "Unrecognized options: --bogus"),
    "unknown precision": (["--precision", "int8"], "--precision"),
    "too many devices": (["fedavg-round", "--devices", "99"], "devices: got 99, want at most 8: so many cpu devices"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line(mistake, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, fragment = MISTAKES[mistake]
    assert main(["bench", *args]) == 2
    said = capsys.readouterr()
    assert fragment in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_trace_s_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"profile: got .*file/trace, want a folder"):
        options.check(options.BenchOptions(profile=tmp_path / "file" / "trace"))


def test_help_shows_the_options_and_needs_no_jax():
    code = (
        "import sys\nfrom fednas_jax.cli.app import main\n"
        "try:\n    main(['bench', '--help'])\n"
        "finally:\n    assert not {'jax', 'flax', 'optax'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    for part in ("--sequential", "--profile DIR", "--engine.eval-batch", "fedavg-round --clients 512 --lanes 1,2,4"):
        assert part in text
