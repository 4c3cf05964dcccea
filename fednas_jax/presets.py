"""Named starting points for a run; every field can still be set on the command line."""

import dataclasses
from pathlib import Path

from fednas_jax.config import (
    Config,
    DataConfig,
    FinetuneConfig,
    NetConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.errors import ConfigError

# Small enough for about a minute on a laptop: 40 phones with some 36 handwritten digits each, label mixes uneven.
DIGITS = Config(
    preset="digits",
    data=DataConfig(source="digits", clients=40, partition="dirichlet", alpha=1.0),
    net=NetConfig(name="cnn", widths=(16, 32, 64), multiple=(2, 4, 8)),
    train=TrainConfig(batch_size=10, learning_rate=0.1),
    pretrain=StageConfig(rounds=40),
    search=SearchConfig(
        reduction=0.1,
        decay=0.97,
        groups=8,
        rungs=((1, 1), (1, 1)),
        growth=0.2,
        round_cap=10,
        settle_rounds=10,
        score_clients=10,
        compact_at=0.5,
    ),
    finetune=FinetuneConfig(rounds=20),
)

# 60,000 real images on 100 phones of very uneven label mixes; under 20 minutes on 2 cores.
FASHION_MNIST = Config(
    preset="fashion_mnist",
    data=DataConfig(source="fashion_mnist", clients=100, partition="dirichlet", alpha=0.5),
    net=NetConfig(name="cnn", widths=(16, 32, 128), multiple=(2, 4, 16)),
    train=TrainConfig(batch_size=20, learning_rate=0.05),
    pretrain=StageConfig(rounds=40, clients_per_round=10),
    search=SearchConfig(
        reduction=0.08,
        decay=0.97,
        groups=10,
        clients_per_group=3,
        rungs=((1, 1), (1, 1)),
        growth=0.2,
        round_cap=10,
        settle_rounds=10,
        score_clients=20,
        compact_at=0.4,
    ),
    finetune=FinetuneConfig(rounds=10, clients_per_round=10),
)

PRESETS = {config.preset: config for config in (DIGITS, FASHION_MNIST)}


def preset(name: str) -> Config:
    """The preset of a name.

    Raises:
      ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: got {name!r}, want one of {', '.join(PRESETS)}")
    return PRESETS[name]


def fitted(config: Config, net: str, parent: Path | None) -> Config:
    """A preset for another network or with a trained parent: fields that would no longer fit give way.

    Args:
      config: a preset.
      net: name of the network. Where it isn't the preset's, so are the preset's widths and multiples: defaults again.
      parent: a trained parent. A search then pretrains for 0 rounds; None changes nothing.
    """
    if net != config.net.name:
        config = dataclasses.replace(config, net=NetConfig(name=net))
    if parent is not None:
        rounds = 0 if config.command == "search" else config.pretrain.rounds
        pretrain = dataclasses.replace(config.pretrain, rounds=rounds)
        config = dataclasses.replace(config, parent=parent, pretrain=pretrain)
    return config
