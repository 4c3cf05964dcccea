"""Networks that concatenate, split and shuffle are searched end to end, and the winner is one that was asked for."""

import pytest

import fednas_jax as fn

SMALL = {
    "data.clients": 4,
    "net.shallow": True,
    "net.multiple": (4,),
    "train.batch_size": 100,
    "pretrain.rounds": 1,
    "finetune.rounds": 1,
    "search.budget": 0.9,
    "search.groups": 2,
    "search.score_clients": 2,
    "search.max_iterations": 1,
    "engine.lanes": 1,
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "candidates"), [("densenet100", "masked"), ("shufflenet_v2", "sliced")])
def test_a_network_of_segments_is_searched(name, candidates, tmp_path):
    config = fn.override(fn.preset("digits"), {"net.name": name, "net.widths": ()})
    result = fn.run_search(fn.override(config, SMALL), tmp_path / "run")
    (winner,) = result["models"]
    assert result["candidates"] == candidates
    assert winner["macs"] < result["parent"]["macs"]
    assert sum(a != b for a, b in zip(winner["widths"].values(), result["parent"]["widths"].values(), strict=True)) == 1
    model = fn.load_model(tmp_path / "run", 1)
    assert model(fn.load_data(config.data, 0).test.inputs[:3]).shape == (3, 10)
