"""Named starting points for a run; every field can still be set on the command line."""

import dataclasses
from pathlib import Path
from typing import Any

from fednas_jax.config.schema import (
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
    train=TrainConfig(batch_size=20, learning_rate=0.05, schedule="cosine"),
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
        score_clients=5,
        score_most=20,
        score_alone=False,
        compact_at=0.4,
    ),
    finetune=FinetuneConfig(rounds=10, clients_per_round=10),
)

# Settings of the paper's authors [FedNAS, section 5]: clients, groups, reduction, decay, learning rate, local epochs,
# iterations, batch and rungs are theirs. Rounds of pretraining and fine-tuning and the rungs' growth are ours. They are
# meant for accelerators.
_PAPER = SearchConfig(
    budget=0.25, groups=14, rungs=((2, 4), (10, 1)), growth=0.5, round_cap=20, settle_rounds=20, compact_at=0.2
)
_TWENTY = dataclasses.replace(_PAPER, reduction=0.05, decay=0.98, max_iterations=20)
_LONG = StageConfig(rounds=200, clients_per_round=100)
_PAPER_FINETUNE = FinetuneConfig(rounds=200, clients_per_round=100)

# Not told by the authors: that clients hold equal, identically distributed shares.
CIFAR10 = Config(
    preset="cifar10",
    data=DataConfig(source="cifar10", image_size=224, clients=140, partition="iid"),
    net=NetConfig(name="mobilenet_v1", multiple=(8,)),
    train=TrainConfig(batch_size=128, learning_rate=0.001),
    pretrain=_LONG,
    search=_TWENTY,
    finetune=_PAPER_FINETUNE,
)

# LEAF's writers, imported once (`fednas data import leaf`) at 28x28, for which the network's first stride is 1.
FEMNIST = Config(
    preset="femnist",
    data=DataConfig(source="columns", clients=3500, partition="natural"),
    net=NetConfig(name="mobilenet_v1", multiple=(8,), stem_stride=1),
    train=TrainConfig(batch_size=128, learning_rate=0.001),
    pretrain=_LONG,
    search=dataclasses.replace(_PAPER, reduction=0.025, decay=0.98, max_iterations=15),
    finetune=_PAPER_FINETUNE,
)

# LEAF's celebrities, imported once at 128x128 (`fednas data import leaf --image-size 128`).
CELEBA = Config(
    preset="celeba",
    data=DataConfig(source="columns", clients=9100, partition="natural"),
    net=NetConfig(name="celeba_cnn", multiple=(8,)),
    train=TrainConfig(batch_size=128, learning_rate=0.001, local_epochs=4),
    pretrain=_LONG,
    search=_TWENTY,
    finetune=_PAPER_FINETUNE,
)

IMAGENET = Config(
    preset="imagenet",
    data=DataConfig(source="imagenet2012", image_size=224, clients=1400, partition="iid"),
    net=NetConfig(name="mobilenet_v1", multiple=(8,)),
    train=TrainConfig(batch_size=128, learning_rate=0.0045, local_epochs=3),
    pretrain=_LONG,
    search=dataclasses.replace(_PAPER, reduction=0.05, decay=0.96, max_iterations=20),
    finetune=_PAPER_FINETUNE,
)

# LEAF's tweets, imported once (`fednas data import leaf`), of users with ten or more. LEAF's own rate is 0.0003
# (models/baseline_constants.py of its repository); that here is ours.
SENT140 = Config(
    preset="sent140",
    data=DataConfig(source="columns", clients=0, partition="natural", min_examples=10),
    net=NetConfig(name="lstm_sent140", multiple=(4,)),
    train=TrainConfig(batch_size=10, learning_rate=0.1),
    pretrain=_LONG,
    search=_TWENTY,
    finetune=_PAPER_FINETUNE,
)

# LEAF's plays, a client for each role; the next character, or with `--targets every` that after every position. Rates
# of the texts' presets are ours.
SHAKESPEARE = Config(
    preset="shakespeare",
    data=DataConfig(source="columns", clients=0, partition="natural"),
    net=NetConfig(name="lstm_shakespeare", multiple=(2, 8, 8)),
    train=TrainConfig(batch_size=4, learning_rate=1.0, momentum=0.0, weight_decay=0.0),
    pretrain=_LONG,
    search=_TWENTY,
    finetune=_PAPER_FINETUNE,
)

# Stack Overflow's questions in TFF's form (`fednas data import hdf5`): the word after every position, of 10,000.
STACKOVERFLOW = Config(
    preset="stackoverflow",
    data=DataConfig(source="columns", clients=0, partition="natural"),
    net=NetConfig(name="lstm_stackoverflow", multiple=(8, 10, 8)),
    train=TrainConfig(batch_size=16, learning_rate=0.3, momentum=0.0, weight_decay=0.0),
    pretrain=_LONG,
    search=_TWENTY,
    finetune=_PAPER_FINETUNE,
)

PRESETS = {
    config.preset: config
    for config in (
        DIGITS,
        FASHION_MNIST,
        CIFAR10,
        FEMNIST,
        CELEBA,
        IMAGENET,
        SENT140,
        SHAKESPEARE,
        STACKOVERFLOW,
    )
}

# Height, width and channels, and classes, of the data that `tiny` makes up: those of the set, but small. And a width
# multiplier, for networks that have no shallower form.
_FORMS = {
    "digits": ((8, 8, 1), 10, 0.25),
    "fashion_mnist": ((28, 28, 1), 10, 0.25),
    "cifar10": ((16, 16, 3), 10, 1.0),
    "femnist": ((28, 28, 1), 62, 1.0),
    "celeba": ((32, 32, 3), 2, 0.25),
    "imagenet": ((16, 16, 3), 1000, 1.0),
}
# Of texts: source, length, tokens, classes and the multiplier.
_TEXTS = {
    "sent140": ("synthetic_texts", 12, 40, 2, 0.25),
    "shakespeare": ("synthetic_tags", 20, 30, 30, 0.25),
    "stackoverflow": ("synthetic_tags", 12, 40, 40, 0.0625),
}


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


def tiny(config: Config) -> Config:
    """A preset that runs in a minute without its data: made-up data of that form, a shallow network, one iteration.

    Everything else is the preset's: partition, kind of network, optimisers, target, switches.

    Args:
      config: a preset, or one built by hand on the data of one.

    Raises:
      ConfigError: it is built by hand on other data.
    """
    source = config.data.source
    alike = [name for name, known in PRESETS.items() if known.data.source == source != "columns"]
    name = config.preset if config.preset in PRESETS else (*alike, "")[0]
    if not name:
        sources = ", ".join(dict.fromkeys(known.data.source for known in PRESETS.values()))
        raise ConfigError(f"tiny: got a config of no preset on {config.data.source!r}, want one on {sources}")
    if name in _TEXTS:
        source, length, tokens, classes, multiplier = _TEXTS[name]
        form: dict[str, Any] = {"source": source, "synthetic_length": length, "synthetic_tokens": tokens}
    else:
        shape, classes, multiplier = _FORMS[name]
        form = {"source": "synthetic", "synthetic_shape": shape}
    whole = config.data.partition == "natural"
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            **form,
            image_size=0,
            clients=0 if whole else 12,
            synthetic_classes=classes,
            synthetic_examples=240,
        ),
        net=dataclasses.replace(
            config.net, shallow=True, widths=(), width_multiplier=multiplier, multiple=(2,), stem_stride=1
        ),
        train=dataclasses.replace(config.train, batch_size=4, local_epochs=1.0),
        pretrain=StageConfig(rounds=1, clients_per_round=4),
        search=dataclasses.replace(
            config.search,
            groups=2,
            clients_per_group=0,
            rungs=((1, 2), (1, 1)),
            score_clients=0,
            score_most=0,
            max_iterations=1,
        ),
        finetune=FinetuneConfig(rounds=1, clients_per_round=4),
    )
