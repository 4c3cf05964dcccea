"""The display on a terminal and elsewhere shows what happened, with the clients' seconds so far."""

import io

import pytest
from rich.console import Console

from fednas_jax.report.progress import Display

EVENTS = [
    {
        **{"event": "start", "clients": 40, "examples": 1437, "network": "cnn", "macs": 9, "params": 8},
        **{"heterogeneity": {"label_distance": 0.357, "size_gini": 0.125}, "devices": "cpu"},
    },
    *(
        {"event": "round", "stage": "pretrain", "round": n, "rounds": 20, "bucket": 0, "client_seconds": 10.0}
        for n in range(1, 21)
    ),
    {"event": "parent", "score": 0.9, "macs": 9000, "client_seconds": 5.0},
    {
        **{"event": "round", "stage": "search", "iteration": 1, "rung": 1, "rungs": 2, "round": 1, "rounds": 2},
        **{"alive": 3, "scores": {"conv1": 0.8, "conv2": 0.85}, "client_seconds": 20.0},
    },
    {"event": "drop", "iteration": 1, "round": 1, "candidates": ["conv1"]},
    {
        **{"event": "select", "iteration": 1, "winner": "conv2", "widths": [4, 2], "score": 0.85, "macs": 8000},
        "progress": 0.5,
    },
    {"event": "stop", "reason": "budget reached", "iteration": 1},
]


def shown(events, terminal, metric="accuracy"):
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=terminal, width=200), metric) as display:
        for event in events:
            display.observe(event)
        if display.bar:
            display.bar.refresh()
            text.write(str(display.bar.tasks[0].description))
    return text.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_milestones_are_said_on_a_terminal_and_elsewhere(terminal):
    said = shown(EVENTS, terminal)
    assert "parent: validation accuracy 0.900" in said
    assert "conv2 wins, widths 4-2, 8,000 MACs, validation accuracy 0.850, all clients' seconds 225" in said
    assert "search over after 1 iterations: budget reached" in said


def test_scores_are_named_by_their_metric():
    said = shown(EVENTS, False, "macro_f1")
    assert "parent: validation macro_f1 0.900" in said
    assert "8,000 MACs, validation macro_f1 0.850," in said


def test_rounds_are_lines_now_and_then_where_there_is_no_terminal():
    said = shown(EVENTS, False).splitlines()
    assert [line.split(",")[0] for line in said if line.startswith("pretrain")] == [
        "pretrain round 10/20",
        "pretrain round 20/20",
    ]
    assert "iteration 1: dropped conv1 early" in said


def test_a_terminal_shows_the_round_that_is_running():
    said = shown(EVENTS[:-4], True)
    assert "pretrain round 20/20" in said
    said = shown(EVENTS[:-3], True)
    assert "search iteration 1, rung 1/2, round 1/2, 3 alive, best 0.850, all clients' seconds 225" in said


def test_a_resumed_run_goes_on_counting():
    resume = {"event": "resume", "step": 3, "client_seconds": 1000.0, "progress": 0.25}
    assert "all clients' seconds 1,020" in shown([resume, EVENTS[-4], EVENTS[-2]], False)
