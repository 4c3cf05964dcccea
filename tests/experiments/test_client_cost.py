"""What theory says of a run is counted by hand here, and the table is the one that the README shows."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

import fednas_jax as fn
from fednas_jax.config.presets import preset
from fednas_jax.config.schema import Config, SearchConfig

HOME = Path(__file__).parent.parent.parent
spec = importlib.util.spec_from_file_location("client_cost", HOME / "experiments" / "client_cost.py")
client_cost = importlib.util.module_from_spec(spec)
spec.loader.exec_module(client_cost)

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
    assert client_cost.tasks_of_a_client(run) == pytest.approx((3 + 1 + 1 + 2) * share)


def test_fewer_examples_are_trained_on_for_more_rounds():
    args = client_cost.arguments(["--preset", "digits", "--examples", "719"])
    config, dataset = client_cost.prepared(args)
    assert len(dataset.train.labels) == 719  # half of the 1,438
    assert len(dataset.test.labels) == 359
    assert config.pretrain.rounds == 2 * preset("digits").pretrain.rounds
    assert config.finetune.rounds == 2 * preset("digits").finetune.rounds
    assert client_cost.prepared(client_cost.arguments(["--preset", "digits"]))[1] is None
    with pytest.raises(SystemExit, match=r"^--examples: got 12, want 160 to 1438$"):
        client_cost.prepared(client_cost.arguments(["--preset", "digits", "--examples", "12"]))


def test_ratios_are_against_the_straightforward_design(capsys):
    phases = {"train": 10.0, "evaluate": 1.0, "download": 4.0, "upload": 5.0}
    base = phases | {"seconds": 20.0, "megabytes": 8.0, "accuracy": 0.975, "tasks": 30.0}
    best = base | {"train": 2.0, "seconds": 4.0, "megabytes": 2.0, "accuracy": None, "tasks": 3.0}
    client_cost.show(
        {
            "preset": "digits",
            "seeds": [0, 1],
            "populations": {p: {"---": base, "PDR": best} for p in ("paper", "flash")},
        }
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert rows[0].endswith("| 20.0 | 1.0 | 1.0 | 1.0 | 8.00 | 1.0 | 97.5% |")
    assert rows[1] == "| `PDR` | 2.0 | 1.0 | 4.0 | 5.0 | 4.0 | 5.0 | 5.0 | 10.0 | 2.00 | 4.0 | none |"
    assert rows[3] == "| `PDR` | 2.0 | 1.0 | 4.0 | 5.0 | 4.0 | 5.0 | 5.0 |"
