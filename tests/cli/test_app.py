"""The command line as a user meets it: one line and exit code 2 for a mistake, resuming, signals."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from scripts_of_pages import check_page

from fednas_jax import data
from fednas_jax.cli.app import main
from fednas_jax.cli.parsing import one_line
from fednas_jax.config.files import from_json
from fednas_jax.files import write_json
from fednas_jax.run import manifest

TINY = shlex.split(
    "--data.clients 4 --net.widths 4 8 16 --pretrain.rounds 2 --finetune.rounds 1 --train.batch-size 60 "
    "--search.budget 0.5 --search.groups 2 --search.score-clients 0 --search.max-iterations 1"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["search", "digits", "--out", str(out), *TINY]) == 0
    return out


def refused(capsys, *args):
    """The one line that a mistake is answered with."""
    assert main(list(args)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


MISTAKES = {
    "unknown command": (
        ["serach"],
        "command: got 'serach', want one of search, pretrain, sweep, compare, report, verify, ",
    ),
    "unknown preset": (
        ["search", "digit", "--out", "x"],
        "preset: got 'digit', want one of digits, fashion_mnist",
    ),
    "no preset to pretrain": (["pretrain", "--out", "x"], "pretrain: got no preset, want one of digits"),
    "unknown network": (
        ["search", "digits", "--out", "x", "--net", "resnte"],
        "net.name: got 'resnte', want one of cnn, lenet5",
    ),
    "no such parent": (
        ["search", "digits", "--out", "x", "--parent", "nowhere"],
        "parent: got nowhere, want the folder of a run or model, an orbax checkpoint or a .safetensors file",
    ),
    "a parent's folder without a parent": (["search", "digits", "--out", "x", "--parent", "."], "it holds none"),
    "no preset": (["search", "--out", "x"], "got no preset, want one of digits"),
    "no folder": (["search", "digits"], "--out"),
    "unknown option": (["search", "digits", "--out", "x", "--bogus", "1"], "Unrecognized options: --bogus"),
    "mistyped option": (
        ["search", "digits", "--out", "x", "--serch.budget", "1"],
        "perhaps you meant --search.budget",
    ),
    "no number": (["search", "digits", "--out", "x", "--seed", "abc"], "--seed: invalid literal for int()"),
    "unknown choice": (
        ["search", "digits", "--out", "x", "--data.partition", "by_eye"],
        "data.partition: got 'by_eye', want one of iid, dirichlet",
    ),
    "budget above 1": (
        ["search", "digits", "--out", "x", "--search.budget", "1.5"],
        "search.budget: got 1.5, want",
    ),
    "seed too large": (["search", "digits", "--out", "x", "--seed", "4294967296"], "seed: got 4294967296, want 0 to"),
    "budget above the parent": (
        ["search", "digits", "--out", "x", "--search.budget-absolute", "1e15"],
        "search.budget_absolute: got 1000000000000000.0, want at most 239232, the macs of the parent",
    ),
    "members that cannot be": (
        ["search", "digits", "--out", "x", "--finetune.members", "3", "--search.max-iterations", "2"],
        "finetune.members: got 3, want at most search.max_iterations, which is 2",
    ),
    "groups above clients": (
        ["search", "digits", "--out", "x", "--search.budget", "0.5", "--search.groups", "41"],
        "search.groups: got 41, want at most data.clients, which is 40",
    ),
    "batch 0": (["search", "digits", "--out", "x", "--train.batch-size", "0"], "train.batch_size: got 0"),
    "NaN learning rate": (
        ["search", "digits", "--out", "x", "--train.learning-rate", "nan"],
        "train.learning_rate: got nan, want a finite number",
    ),
    "budget too small": (
        ["search", "digits", "--out", "x", "--search.budget", "0.0001"],
        "the macs of the smallest widths",
    ),
    "too many kept": (
        ["search", "digits", "--out", "x", "--search.rungs", "1", "9", "1", "1"],
        "search.rungs: got keep=9, want at most 3",
    ),
    "no such data folder": (
        ["search", "fashion_mnist", "--out", "x", "--data.root", "nowhere"],
        "fednas data prepare fashion_mnist --from DIR",
    ),
    "no such files": (["data", "prepare", "fashion_mnist", "--from", "nowhere", "--root", "data"], "nowhere"),
    "no run to compare": (["compare", "nowhere"], "nowhere: holds no run"),
    "nothing to compare": (["compare"], "compare: got no run"),
    "a host that is none of them": (
        ["search", "digits", "--out", "x", "--hosts.coordinator", "h:1", "--hosts.number", "2", "--hosts.index", "2"],
        "hosts.index: got 2, want 0 to hosts.number - 1, which is 1",
    ),
    "coordinator without port": (
        ["search", "digits", "--out", "x", "--hosts.coordinator", "h", "--hosts.number", "2"],
        "hosts.coordinator: got 'h', want HOST:PORT",
    ),
    "nothing to show": (["data", "show"], "data show: got no name, want a preset or a data set, one of digits"),
    "unknown data to show": (["data", "show", "digit"], "data show: got 'digit', want a preset or a data set"),
    "a picture of no clients": (["data", "show", "digits", "--out", "x.svg"], "--out: got x.svg without --clients"),
    "a picture of no known form": (
        ["data", "show", "digits", "--clients", "--out", "x.jpg"],
        "--out: got x.jpg, want a file that ends in .svg or .png",
    ),
    "a picture nowhere": (
        ["data", "show", "digits", "--clients", "--out", "nowhere/x.svg"],
        "--out: got nowhere/x.svg, want a file in a folder that is there: nowhere is none",
    ),
    "data that cannot be divided": (
        ["data", "show", "digits", "--clients", "--data.clients", "400"],
        "data.clients: got 400, want 1 to 359: there are 1438 training examples",
    ),
    "data options that cannot be": (
        ["data", "show", "digits", "--data.alpha", "0"],
        "data.alpha: got 0.0, want at least 1e-06",
    ),
    "unknown data command": (["data", "fetch"], "data: got 'fetch', want list, show, prepare or import"),
    "unknown resource": (
        ["search", "digits", "--out", "x", "--search.resource", "macs,watts"],
        "search.resource: got 'watts', want one of macs, params, bytes, memory, latency, energy, or MODULE:FUNCTION",
    ),
    "budgets for others": (
        ["search", "digits", "--out", "x", "--search.resource", "macs,params", "--search.budget", "0.5,0.5,0.5"],
        "search.budget: got 3 numbers, want 2, one for each of macs, params",
    ),
    "no number among budgets": (
        ["search", "digits", "--out", "x", "--search.budget", "0.5,half"],
        "--search.budget",
    ),
    "unknown phone": (
        ["search", "digits", "--out", "x", "--search.resource", "latency:pixel9"],
        "search.resource: got 'pixel9', want one of lg_g8, note10",
    ),
    "no such lookup table": (
        ["search", "digits", "--out", "x", "--search.resource", "latency:nowhere.json"],
        "nowhere.json cannot be read",
    ),
    "nothing to measure": (["latency", "--out", "x.json"], "latency: got no preset or network, want one of digits"),
    "no network to measure": (
        ["latency", "resnext", "--out", "x.json"],
        "latency: got 'resnext', want one of digits, fashion_mnist, cifar10,",
    ),
    "a table that is no JSON": (["latency", "digits", "--out", "x.csv"], "--out: got x.csv, want a file that ends in"),
    "one point": (["latency", "digits", "--out", "x.json", "--points", "1"], "--points: got 1, want at least 2"),
    "tiers that cannot be read, before anything is trained": (
        ["search", "digits", "--out", "x", "--tiers", "tiers.json"],
        "tiers: tiers.json: cannot be read",
    ),
    "tiers of a pretraining": (
        ["pretrain", "digits", "--out", "x", "--tiers", "t.json"],
        "--tiers: got t.json, want none",
    ),
    "tiers of no run": (["tiers", "nowhere", "tiers.json"], "tiers: tiers.json: cannot be read"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_inone_line(mistake, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, fragment = MISTAKES[mistake]
    assert fragment in refused(capsys, *args)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("top", ["╭─ Unrecognized options ─────╮", "╭────────────────────────────╮"])
def test_a_boxed_message_is_found_below_a_top_with_or_without_a_title(top):
    lines = (top, "│ Unrecognized: --bogus      │", "│ ────────────────────────── │", "│ For full helptext, run x   │")
    assert one_line("\n".join((*lines, "╰────────────────────────────╯"))) == "Unrecognized: --bogus"


def test_a_file_in_place_of_the_folder_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, "search", "digits", "--out", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_inside_a_file_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(capsys, "search", "digits", "--out", str(tmp_path / "file" / "run"))


def test_debug_shows_where_an_error_arose_and_exits_alike(capsys):
    assert main(["search", "digit", "--out", "x", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_damaged_result_is_refused(capsys, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    assert "cannot be read as JSON" in refused(capsys, "compare", str(tmp_path / "run"))


def test_a_folder_of_other_things_is_refused(capsys, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "holds files that are no run" in refused(capsys, "search", "digits", "--out", str(tmp_path))


def test_a_folder_of_another_config_is_refused_by_field(capsys, run):
    err = refused(capsys, "search", "digits", "--out", str(run), *TINY, "--train.momentum", "0.5")
    assert "train.momentum: 0.9, 0.5 now" in err


def test_a_finished_run_says_so_and_changes_nothing(capsys, run):
    before = (run / "result.json").read_bytes(), (run / "report.html").stat().st_mtime_ns
    assert main(["search", "digits", "--out", str(run), *TINY]) == 0
    assert "this run is finished; nothing was changed" in capsys.readouterr().out
    assert ((run / "result.json").read_bytes(), (run / "report.html").stat().st_mtime_ns) == before


def test_a_search_says_at_its_end_what_each_class_of_phones_runs(run, tmp_path, capsys):
    tiers = [{"name": "old", "device": "s7_edge", "budget_ratio": 1.0, "clients": 600}]
    (tmp_path / "phones.json").write_text(json.dumps(tiers))
    assert main(["search", "digits", "--out", str(run), *TINY, "--tiers", str(tmp_path / "phones.json")]) == 0
    assert "600 of 600 phones are served" in capsys.readouterr().out
    (chosen,) = json.loads((run / "tiers.json").read_text())["tiers"]
    assert chosen["tier"]["name"] == "old"


def test_the_report_is_one_page_that_needs_nothing_else(run):
    elements = check_page((run / "report.html").read_text())
    figures = {path.name for path in (run / "figures").iterdir()}
    names = ("bill", "candidates", "clients", "cuts", "front", "hours", "partition", "phases", "widths")
    assert figures == {f"{name}.svg" for name in names}
    assert [tag for tag, _ in elements].count("figure") == len(names)


def test_a_run_says_how_much_its_clients_differ(run):
    config = from_json(json.loads((run / "config.json").read_text())["config"])
    dataset = data.load(config.data, config.seed)
    divided = data.partition(dataset.train.labels, config.data, config.seed)
    expected = data.heterogeneity(dataset.train.labels[divided.rows], divided.offsets)
    start = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    result = json.loads((run / "result.json").read_text())
    assert start["heterogeneity"] == result["heterogeneity"] == pytest.approx(expected._asdict())
    assert expected.label_distance > 0.1
    assert f"label distance {expected.label_distance:.2f}" in (run / "report.html").read_text()


def test_compare_shows_accuracy_cost_and_phases(capsys, run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    config = (other / "config.json").read_text().replace('"seed": 0', '"seed": 7')
    (other / "config.json").write_text(config)
    seven = json.loads((other / "result.json").read_text()) | {"seed": 7}
    write_json(other / "result.json", manifest.sealed(seven))
    listed = [entry for entry in manifest.read(other) if entry["path"] != "config.json"]
    manifest.write(other, [*listed, manifest.entry(other, other / "config.json")])
    assert main(["compare", str(run), str(other), str(run)]) == 0
    out = capsys.readouterr().out
    assert "fednas, mean of 2 runs" in out
    assert "fednas, seed 7 (other)" in out
    assert "download" in out
    result = json.loads((run / "result.json").read_text())
    assert f"{result['client_cost']['search']['seconds']['mean']:,.1f}" in out


def test_help_names_every_command_and_every_field(capsys):
    assert main(["--help"]) == 0
    assert "compare RUN RUN" in capsys.readouterr().out
    assert main(["data", "--help"]) == 0
    for command in (
        ["compare"],
        ["report"],
        ["data", "list"],
        ["data", "show"],
        ["data", "prepare"],
        ["data", "import"],
        ["search", "digits"],
        ["pretrain"],
        ["search"],
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
    out = capsys.readouterr().out  # of search
    for option in (
        "--out",
        "--hosts.coordinator",
        "--method",
        "--search.rungs",
        "--cost.down-mbit-per-second",
        "--finetune.members",
        "--net",
        "--parent",
    ):
        assert option in out
    assert "--preset" not in out


def test_data_list_names_the_sources(capsys):
    assert main(["data", "list", "--root", "nowhere"]) == 0
    out = capsys.readouterr().out
    assert "digits:" in out
    assert "fashion_mnist:" in out
    (columns,) = [line for line in out.splitlines() if line.startswith("columns:")]
    assert "data.folder" in columns
    missing = [line.split(":")[0] for line in out.splitlines() if "(not prepared yet)" in line]
    assert {"fashion_mnist", "cifar10", "emnist/balanced"} <= set(missing)
    assert not {"digits", "columns", "synthetic"} & set(missing)
    assert "tfds:NAME:" in out


ROUNDS = 60
LONG = [sys.executable, "-m", "fednas_jax", "search", "digits", *TINY, "--pretrain.rounds", str(ROUNDS), "--out"]


def stopped(number, out):
    """A search in a process of its own that gets a signal in the midst of its pretraining: exit code and output."""
    process = subprocess.Popen(
        [*LONG, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    events = out / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.exists() and '"round"' in events.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    said, err = process.communicate(timeout=120)
    assert "the same command goes on" in said, err
    done = sum('"round"' in line for line in events.read_text().splitlines())
    assert 0 < done < ROUNDS
    assert not (out / "result.json").exists()
    return process.returncode


@pytest.mark.exhaustive
def test_ctrl_c_saves(tmp_path):
    assert stopped(signal.SIGINT, tmp_path / "run") == 130


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, capsys):
    out = tmp_path / "run"
    assert stopped(signal.SIGTERM, out) == 143
    assert main([*LONG[3:], str(out)]) == 0  # in this process, which has compiled most of it
    assert "going on from checkpoint" in capsys.readouterr().out
    events = (out / "events.jsonl").read_text().splitlines()
    rounds = [json.loads(line)["round"] for line in events if '"pretrain", "round"' in line]
    assert rounds == list(range(1, ROUNDS + 1))
