"""Every claim's experiment runs from beginning to end in its tiny form; what they add up is held by hand."""

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import fednas_jax as fn
from fednas_jax.config.schema import Config, SearchConfig

FOLDER = Path(__file__).parents[2] / "experiments"
NOT_CLAIMS = ("bench_engine", "bench_gpu", "bench_sweep", "settle_rounds", "claims", "fashion_part")
CLAIMS = sorted({path.stem for path in FOLDER.glob("*.py")} - set(NOT_CLAIMS))


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    """An experiment is started in its folder: what it imports lies beside it."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder that all experiments share: in their tiny forms the parents are the same."""
    return tmp_path_factory.mktemp("claims")


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_runs_in_its_tiny_form(name, out, capsys):
    importlib.import_module(name).main(["--tiny", "--preset", "digits", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert (out / f"{name}.md").read_text().splitlines() == lines
    columns = lines[0].count("|")
    assert lines[1].count("---") == columns - 1
    assert len(lines) > 2 or name == "policies"  # of two rounds perhaps no policy is as good
    assert all(line.count("|") == columns for line in lines if line.startswith("|"))


@pytest.mark.parametrize("name", CLAIMS)
def test_a_header_says_command_hardware_minutes_and_what_to_expect(name):
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    for word in (
        "Claim",
        f"Command:  python experiments/{name}.py",
        "--tiny",
        "Hardware: ",
        "Minutes:  ",
        "Expected: ",
    ):
        assert word in header


# Two iterations: three candidates for a round, then one for two; then two candidates for a round.
EVENTS = [
    {"event": "round", "stage": "pretrain"},
    {"event": "iteration", "candidates": [{}] * 3},
    {"event": "round", "stage": "search", "alive": 1},
    {"event": "round", "stage": "search", "alive": 1},
    {"event": "round", "stage": "search", "alive": 1},
    {"event": "iteration", "candidates": [{}] * 2},
    {"event": "round", "stage": "search", "alive": 1},
    {"event": "round", "stage": "finetune"},
]


@pytest.mark.parametrize(
    ("search", "share"),
    [
        ({"partial_clients": False, "clients_per_group": 2}, 1),
        ({"partial_clients": True, "groups": 8}, 1 / 8),
        ({"partial_clients": True, "groups": 8, "clients_per_group": 2}, 2 / 40),
        ({"partial_clients": True, "groups": 8, "clients_per_group": 9}, 1 / 8),  # a group has five
    ],
)
def test_theory_counts_candidates_alive_in_each_round_and_the_share_of_clients_that_train_each(search, share, tmp_path):
    config = dataclasses.replace(Config(), search=SearchConfig(**search))
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    run = fn.Run(tmp_path, config, {"clients": 40, "models": [{}, {}]})
    switches = importlib.import_module("ablate_optimisations")
    assert switches.tasks_of_a_client(run) == pytest.approx((3 + 1 + 1 + 2) * share)
    assert [switches.name_of(on) for on in switches.ALL][::7] == ["---", "PDR"]


def test_ratios_and_points_are_paired_by_seed():
    claims = importlib.import_module("claims")
    base = pd.DataFrame({"accuracy_50": [0.8, 0.9], "search_seconds": [100.0, 200.0]})
    best = base.assign(accuracy_50=[0.81, 0.91], search_seconds=[10.0, 20.0])
    lines = claims.compared({"a": base, "b": best}, "a", "method", {"more": {"b": "7"}}).splitlines()
    assert lines[0] == "| method | accuracy at 50 % MACs | points | s of a client | times cheaper | more |"
    cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert cells[0] == "b"
    assert cells[2] == "1.0 ± 0.0"
    assert cells[4:] == ["10.0 (10.0 to 10.0)", "7"]
    assert claims.interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # t of two degrees of freedom, 4.303 / sqrt(3)
    assert claims.interval([1.5]) == "1.5"
    assert claims.interval([1.0, None]) == "-"


def test_fewer_images_are_trained_on_for_more_rounds(capsys):
    claims = importlib.import_module("claims")
    part = claims.arguments("", ["--preset", "fashion_mnist", "--examples", "7500"], "x")
    whole = fn.preset("fashion_mnist")
    assert part.base.data.source == "fashion_part:images"
    assert part.base.pretrain.rounds == 8 * whole.pretrain.rounds
    assert part.base.finetune.rounds == 8 * whole.finetune.rounds
    assert part.seeds == (0, 1, 2)
    with pytest.raises(SystemExit):
        claims.arguments("", ["--examples", "7500"], "x")
    assert "--examples: got 7500, want 1000 to 60000 of --preset fashion_mnist" in capsys.readouterr().err


def teardown_module():
    for name in (*CLAIMS, "claims"):
        sys.modules.pop(name, None)
