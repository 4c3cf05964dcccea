"""What is said of a run in which not every network was tested."""

import json

import pytest
from rich.console import Console

from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.files import write_json
from fednas_jax.phones import ledger, totals
from fednas_jax.report import comparing, page


def member(iteration, macs, test):
    about = {"iteration": iteration, "widths": {"conv": macs}, "macs": macs, "params": macs, "score": 0.9}
    return about | {"test_accuracy": test, "client_seconds": 0.0}


@pytest.fixture
def run(tmp_path):
    """Only the network at half the MACs was tested, as `finetune.shares` asks for."""
    result = {
        "parent": member(0, 100, None),
        "models": [member(1, 70, None), member(2, 50, 0.8125)],
        **{"method": "fednas", "preset": "digits", "seed": 0, "clients": 4, "stop_reason": "budget reached"},
        "client_cost": totals.client_cost(ledger.SCHEMA.empty_table(), 4),
    }
    write_json(tmp_path / "config.json", {"config": to_json(Config())})
    write_json(tmp_path / "result.json", result)
    return tmp_path


def test_a_comparison_does_not_take_another_network_for_the_parent(run):
    console = Console(width=200, record=True)
    comparing.print_comparison(console, [run])
    (line,) = [line for line in console.export_text().splitlines() if "0.8125" in line]
    assert line.split()[-6:] == ["-", "0.8125", "0.8125", "-", "0.0", "-"]  # parent, 75, 50, 25 %, seconds, ratio


@pytest.mark.parametrize("tested", [None, 0.875])
def test_a_figure_names_the_parent_where_it_is_shown(tested, run):
    result = json.loads((run / "result.json").read_text())
    result["parent"]["test_accuracy"] = tested
    write_json(run / "result.json", result)
    page.write_report(run)
    assert ("<!-- parent -->" in (run / "figures" / "front.svg").read_text()) == (tested is not None)
