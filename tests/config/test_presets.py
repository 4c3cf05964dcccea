"""Presets are configs, the paper's have its authors' settings, and tiny forms have the form of their data.

That the tiny forms run is tried by the gate (`.ci/run`), in processes of their own.
"""

import pytest

from fednas_jax import nets
from fednas_jax.config import presets
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config, DataConfig
from fednas_jax.data import load
from fednas_jax.errors import ConfigError


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_is_a_config_and_its_tiny_form_too(name):
    config = presets.preset(name)
    if config.data.source != "columns":  # those want the user's folder
        resolve(config)
    small = resolve(presets.tiny(config))
    assert small.data.partition == config.data.partition
    assert small.net.name == config.net.name
    assert small.search.reduction == config.search.reduction


@pytest.mark.parametrize("name", ["cifar10", "femnist", "celeba", "imagenet"])
def test_the_settings_of_the_papers_authors_are_there(name):
    # [FedNAS, section 5]: clients, groups, reduction, decay, learning rate, local epochs, iterations.
    authors = {
        "cifar10": (140, 14, None, None, None, None, None),
        "femnist": (3500, 14, 0.025, 0.98, 0.001, None, 15),
        "celeba": (9100, 14, 0.05, 0.98, 0.001, 4, 20),
        "imagenet": (1400, 14, 0.05, 0.96, 0.0045, 3, 20),
    }[name]
    config = presets.preset(name)
    s, t = config.search, config.train
    ours = (
        config.data.clients,
        s.groups,
        s.reduction,
        s.decay,
        t.learning_rate,
        t.local_epochs,
        s.max_iterations,
    )
    assert all(theirs in (None, mine) for mine, theirs in zip(ours, authors, strict=True))
    assert (s.rungs, s.budget, t.batch_size, config.net.multiple) == (((2, 4), (10, 1)), 0.25, 128, (8,))
    assert config.finetune.clients_per_round == 100


@pytest.mark.parametrize("name", ["femnist", "celeba", "imagenet", "cifar10"])
def test_a_tiny_preset_has_the_form_of_its_data(name):
    config = presets.tiny(presets.preset(name))
    dataset = load(config.data, 0)
    channels, classes = {"femnist": (1, 62), "celeba": (3, 2), "imagenet": (3, 1000), "cifar10": (3, 10)}[name]
    assert (dataset.train.inputs.shape[-1], dataset.classes) == (channels, classes)
    assert (dataset.natural is not None) == (name in ("femnist", "celeba"))
    network = nets.build(config.net, dataset.train.inputs.shape[1:], classes)
    assert len(network.widths) <= len(nets.NETWORKS[config.net.name].widths)


def test_a_config_built_by_hand_is_tried_on_the_data_of_a_preset():
    by_hand = Config(data=DataConfig(source="cifar10"))
    assert presets.tiny(by_hand).data.synthetic_shape == presets.tiny(presets.preset("cifar10")).data.synthetic_shape
    with pytest.raises(ConfigError, match=r"^tiny: got a config of no preset on 'mine', want one on digits, "):
        presets.tiny(Config(data=DataConfig(source="mine")))
