"""Which trials may train in one program: those that differ only in what it takes as data, or what the host decides.

No jax here: a worker finds out by itself which of a pack's trials share programs, and how many fit into memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from fednas_jax.config.bounds import shown
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError
from fednas_jax.sweep.planning import leaves

MOST = 64  # trials of a pack that nobody gave a size
T = TypeVar("T")

PackSize = int | Literal["auto", "off"]  # trials of a pack; 1 and off: each by itself

FREE = (
    "seed",
    "method",
    "preset",
    "parent",
    *(f"train.{name}" for name in ("learning_rate", "learning_rate_decay", "schedule")),
    *(f"train.{name}" for name in ("momentum", "weight_decay", "proximal")),
    *(f"data.{name}" for name in ("clients", "partition", "alpha", "shards_per_client", "classes_per_client")),
    *(f"data.{name}" for name in ("size_sigma", "size_power", "min_examples", "validation")),
    *(f"data.{name}" for name in ("brightness_sigma", "rotation_degrees")),
)
FREE_SECTIONS = ("search.", "pretrain.", "finetune.", "participation.", "cost.")
FIXED = ("search.metric", "search.depth", "search.candidates", "participation.attack", "participation.attack_scale")


def check(pack: Any) -> None:
    """Refuses what is no size of a pack.

    Raises:
      ConfigError: it is neither a number from 1 on, nor 'auto' or 'off'.
    """
    number = isinstance(pack, int) and not isinstance(pack, bool) and 1 <= pack <= 10_000
    if not number and pack not in ("auto", "off"):
        raise ConfigError(f"pack: got {shown(pack)}, want auto, off, or trials in a program, 1 to 10000")


def packed(trials: Iterable[T], configs: Iterable[Config], pack: PackSize, workers: int) -> Iterator[tuple[T, ...]]:
    """The trials in packs, in their order.

    Args:
      trials: to be run.
      configs: of each, resolved.
      pack: trials of a pack at most; 'auto': as many as there are for each worker; 'off': one.
      workers: that run at the same time.
    """
    if pack in ("off", 1):
        yield from ((trial,) for trial in trials)
        return
    alike: dict[str, list[T]] = {}
    for trial, config in zip(trials, configs, strict=True):
        alike.setdefault(kind_of(config), []).append(trial)
    for some in alike.values():
        most = min(MOST, -(-len(some) // max(1, workers))) if pack == "auto" else int(pack)
        yield from _cut(some, most)


def kind_of(config: Config) -> str:
    """What of a config a pack's trials have in common, as text."""

    def fixed(field: str) -> bool:
        return field in FIXED or not (field in FREE or field.startswith(FREE_SECTIONS))

    return json.dumps(
        {field: value for field, value in leaves(to_json(config)).items() if fixed(field)}, sort_keys=True
    )


def _cut(trials: Sequence[T], most: int) -> Iterator[tuple[T, ...]]:
    """Packs of nearly equal size."""
    number = -(-len(trials) // most)
    for n in range(number):
        yield tuple(trials[n * len(trials) // number : (n + 1) * len(trials) // number])
