"""Ordinary kinds of networks, as users write them, are searched masked, or sliced for the cause that is true."""

import re
import shlex

import pytest

from fednas_jax import nets
from fednas_jax.cli.app import main
from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError, NetworkError
from fednas_jax.run.folder import RunDir
from fednas_jax.space.probing import probe

MEAN = "a mean over the channels of {} counts those that are removed, as in LayerNorm"
CAUSES = {  # why a network is trained sliced; none: it is trained masked
    "concatenation": "",
    "beside_the_input": "",
    "inception": "",
    "unet": "",
    "channel_shuffle": "",
    "channel_split": "which layers read a channel of half depends on the width",
    "grouped": "",
    "depthwise_multiplier": "",
    "maxout": "",
    "attention": "a scale depends on the width of head_width",
    "layer_norm": MEAN.format("a"),
    "layer_norm_of_a_concatenation": MEAN.format("a and b"),
    "rms_norm": MEAN.format("a"),
    "softmax": "a softmax over the channels of a counts those that are removed",
    "scaled": "a scale depends on the width of a: ",
    "scaled_concatenation": "a scale depends on the width of a and b: ",
}
QUICK = ("unet", "channel_split", "scaled_concatenation")
SEARCHED = ("inception", "attention")  # masked and sliced; ShuffleNetV2 is searched as registered
TINY = shlex.split(
    "--data.clients 2 --train.batch-size 200 --pretrain.rounds 1 --finetune.rounds 0 --search.groups 2 "
    "--search.score-clients 0 --search.max-iterations 1 --search.budget 0.9 --engine.lanes 1 --net.multiple 2"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.exhaustive) for name in CAUSES]
)
def test_a_network_is_masked_or_sliced_for_the_true_cause(name):
    space = probe(nets.build(NetConfig(f"users_networks:{name}"), (8, 8, 1), 10), (2,))
    assert re.match(f"users: {CAUSES[name]}" if CAUSES[name] else "$", space.inexact)


def test_a_grouped_convolution_of_the_whole_width_is_refused_with_what_to_write_instead():
    want = r"is the width of a in 2 parts; want the width of one part as the group, and 2 x its width where all parts"
    with pytest.raises(NetworkError, match=want):
        probe(nets.build(NetConfig("users_networks:grouped_whole"), (8, 8, 1), 10), (2,))


@pytest.mark.parametrize(("field", "value"), [("norm", "group"), ("dropout", 0.5)])
def test_what_the_users_function_is_not_told_is_refused(field, value):
    config = NetConfig(name="users_networks:unet", **{field: value})
    with pytest.raises(
        ConfigError, match=rf"^net\.{field}: got {value}, want none given: users_networks:unet is made by"
    ):
        nets.build(config, (8, 8, 1), 10)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SEARCHED)
def test_a_network_is_searched_end_to_end(name, tmp_path):
    out = tmp_path / "run"
    assert main(["search", "digits", "--net", f"users_networks:{name}", "--out", str(out), *TINY]) == 0
    result = RunDir(out).result()
    assert result["candidates"] == ("sliced" if CAUSES[name] else "masked")
    assert result["models"][0]["macs"] < result["parent"]["macs"]
