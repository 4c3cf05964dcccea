"""What no run can have, said in the user's words: one line with the field, the value got and the value wanted."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any, Literal, NamedTuple

from fednas_jax.config.files import to_json
from fednas_jax.config.registries import POLICIES, PROPOSALS, RESOURCES
from fednas_jax.config.schema import (
    Config,
    ParticipationConfig,
    SearchConfig,
)
from fednas_jax.errors import ConfigError

# Whether a resource of the project's own is named with a device after a colon; a user's is free to.
_ON_DEVICE = {"macs": False, "params": False, "bytes": False, "memory": False, "latency": True, "energy": True}


class Limit(NamedTuple):
    """A resource and its budget: a number in its unit or, where there is none, a fraction of the parent's."""

    resource: str
    ratio: float
    absolute: float | None


def limits(search: SearchConfig) -> tuple[Limit, ...]:
    """Each resource of a search with its budget.

    Raises:
      ConfigError: a resource is unknown or named twice, or the budgets are not as many.
    """
    # Not at the commas between arguments, as in my_module:flash(bits=4, banks=2).
    names = tuple(name.strip() for name in re.split(r",(?![^()]*\))", search.resource))
    for name in names:
        spec = RESOURCES.parse(name)
        on_device = _ON_DEVICE.get(spec.name)
        if on_device is not None and on_device != any(spec.positional):
            raise ConfigError(f"search.resource: got {name!r}, want {spec.name}{':DEVICE' * on_device}")
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ConfigError(f"search.resource: got {twice[0]!r} twice, want each once")
    ratios: Any = search.budget if isinstance(search.budget, tuple) else (search.budget,) * len(names)
    fixed: Any = search.budget_absolute
    if not isinstance(fixed, tuple):
        fixed = (fixed,) * (len(names) if fixed is None else 1)
    for field_, values in (("search.budget", ratios), ("search.budget_absolute", fixed)):
        if len(values) != len(names):
            want = f"want {len(names)}, one for each of {', '.join(names)}"
            raise ConfigError(f"{field_}: got {len(values)} number{'s' * (len(values) > 1)}, {want}")
    return tuple(Limit(*limit) for limit in zip(names, ratios, fixed, strict=True))


def validate(config: Config) -> None:
    """Checks every setting that can be judged without data or network.

    Raises:
      ConfigError: one line that names the field, the value got and the value wanted.
    """
    _no_nan(to_json(config), "")
    _choices(config, "")
    d, n, t, s, c, e = config.data, config.net, config.train, config.search, config.cost, config.engine
    if not 0 <= config.seed < 2**32:
        raise ConfigError(f"seed: got {config.seed}, want 0 to 4294967295: jax keys take 32 bits")
    if (d.folder is None) == (d.source == "columns"):
        got, want = (d.folder, "none") if d.folder else ("none", "the folder with the columns")
        raise ConfigError(f"data.folder: got {got}, want {want}: data.source is {d.source}")
    _at_least("data.image_size", d.image_size, 0)
    _at_least("data.clients", d.clients, 0 if d.partition == "natural" else 1)
    _above("data.alpha", d.alpha, 0)
    _at_least("data.shards_per_client", d.shards_per_client, 1)
    _at_least("data.classes_per_client", d.classes_per_client, 1)
    _at_least("data.size_sigma", d.size_sigma, 0)
    _at_least("data.size_power", d.size_power, 0)
    for name, value in (("size_sigma", d.size_sigma), ("size_power", d.size_power)):
        if value and d.partition in ("label_dirichlet", "classes"):
            why = f"sizes follow from the labels with data.partition={d.partition}"
            raise ConfigError(f"data.{name}: got {value}, want 0: {why}")
    if d.size_sigma and d.size_power:
        raise ConfigError(f"data.size_power: got {d.size_power}, want 0: data.size_sigma is {d.size_sigma}")
    _at_least("data.min_examples", d.min_examples, 2, "one to train on and one to validate with")
    _at_least("data.brightness_sigma", d.brightness_sigma, 0)
    if not 0 <= d.rotation_degrees <= 180:
        raise ConfigError(f"data.rotation_degrees: got {d.rotation_degrees}, want 0 to 180")
    _between("data.validation", d.validation, 0, 1)
    _at_least("data.synthetic_examples", d.synthetic_examples, 1)
    _at_least("data.synthetic_classes", d.synthetic_classes, 2)
    _every("data.synthetic_shape", d.synthetic_shape, 1)
    if ":" in n.name and not all(part.isidentifier() for part in n.name.replace(":", ".", 1).split(".")):
        raise ConfigError(f"net.name: got {n.name!r}, want MODULE:FUNCTION, as in my_module:make")
    _every("net.widths", n.widths, 1)
    _every("net.multiple", n.multiple or (0,), 1)
    _above("net.width_multiplier", n.width_multiplier, 0)
    _at_least("net.stem_stride", n.stem_stride, 1)
    _at_least("net.group_size", n.group_size, 1)
    if n.dropout is not None and not 0 <= n.dropout < 1:
        raise ConfigError(f"net.dropout: got {n.dropout}, want at least 0 and below 1")
    _above("train.local_epochs", t.local_epochs, 0)
    _at_least("train.batch_size", t.batch_size, 1)
    _above("train.learning_rate", t.learning_rate, 0)
    _above("train.learning_rate_decay", t.learning_rate_decay, 0)
    if not 0 <= t.momentum < 1:
        raise ConfigError(f"train.momentum: got {t.momentum}, want at least 0 and below 1")
    _at_least("train.weight_decay", t.weight_decay, 0)
    _at_least("train.proximal", t.proximal, 0)
    _above("train.server_learning_rate", t.server_learning_rate, 0)
    if not 0 < t.compression_keep <= 1:
        raise ConfigError(f"train.compression_keep: got {t.compression_keep}, want above 0 and at most 1")
    _at_least("train.augment.crop", t.augment.crop, 0)
    _at_least("train.augment.cutout", t.augment.cutout, 0)
    for name, stage in (("pretrain", config.pretrain), ("finetune", config.finetune)):
        _at_least(f"{name}.rounds", stage.rounds, 0)
    _every("finetune.members", config.finetune.members, 0)
    if max(config.finetune.members, default=0) > s.max_iterations:
        got = f"finetune.members: got {max(config.finetune.members)}"
        raise ConfigError(f"{got}, want at most search.max_iterations, which is {s.max_iterations}")
    for share in config.finetune.shares:
        if not 0 < share <= 1:
            raise ConfigError(f"finetune.shares: got {share}, want above 0 and at most 1")
    _validate_search(s)
    validate_clients(config, d.clients or None)
    _above("cost.seconds_per_example", c.seconds_per_example, 0)
    _above("cost.down_mbit_per_second", c.down_mbit_per_second, 0)
    _above("cost.up_mbit_per_second", c.up_mbit_per_second, 0)
    _at_least("cost.watts", c.watts, 0)
    _at_least("cost.joules_per_megabyte", c.joules_per_megabyte, 0)
    _at_least("cost.sigma", c.sigma, 0)
    _at_least("cost.server_seconds", c.server_seconds, 0)
    _validate_participation(config.participation)
    _at_least("engine.lanes", e.lanes, 0)
    _at_least("engine.eval_batch", e.eval_batch, 1)
    if not 0 <= e.data_share <= 1:
        raise ConfigError(f"engine.data_share: got {e.data_share}, want 0 to 1")
    _at_least("engine.checkpoint_rounds", e.checkpoint_rounds, 1)


def validate_clients(config: Config, clients: int | None) -> None:
    """Checks every setting that depends on the number of clients; `validate` calls it with `data.clients`.

    Args:
      config: the run.
      clients: number of clients C, before any merging; None while `data.clients=0` (all that the data has) leaves it
        open: then it is to be called again once the data is divided.

    Raises:
      ConfigError: one line that names the field, the value got and the value wanted.
    """
    s, most = config.search, math.inf if clients is None else clients
    number = "data.clients" if config.data.clients else "the number of the data's clients"
    number += "" if clients is None else f", which is {clients}"
    cohorts = {
        "pretrain.clients_per_round": config.pretrain.clients_per_round,
        "finetune.clients_per_round": config.finetune.clients_per_round,
        "search.clients_per_group": s.clients_per_group if s.partial else 0,
        "search.score_clients": s.score_clients,
    }
    for name, value in cohorts.items():
        if not 0 <= value <= most:
            raise ConfigError(f"{name}: got {value}, want 0 (all) to {number}")
    if s.partial and s.groups > most:
        raise ConfigError(f"search.groups: got {s.groups}, want at most {number}")


def _validate_search(s: SearchConfig) -> None:
    for limit in limits(s):
        if limit.absolute is not None:
            _above("search.budget_absolute", limit.absolute, 0)
        if limit.ratio is None or not 0 < limit.ratio <= 1:
            want = "want above 0 and at most 1, a fraction of the parent's (search.budget_absolute takes a number)"
            raise ConfigError(f"search.budget: got {limit.ratio}, {want}")
    for registry, name in ((POLICIES, s.policy), (PROPOSALS, s.proposals)):
        if name is not None and registry.parse(name).positional:
            raise ConfigError(f"{registry.field}: got {name!r}, want {registry.parse(name).name}")
    _between("search.reduction", s.reduction, 0, 1)
    if not 0 < s.decay <= 1:
        raise ConfigError(f"search.decay: got {s.decay}, want above 0 and at most 1")
    _at_least("search.max_iterations", s.max_iterations, 1)
    _at_least("search.random_candidates", s.random_candidates, 1)
    _at_least("search.groups", s.groups, 1)
    _at_least("search.growth", s.growth, 0)
    _at_least("search.round_cap", s.round_cap, 1)
    _at_least("search.settle_rounds", s.settle_rounds, 1)
    _between("search.compact_at", s.compact_at, 0, 1)
    if not s.rungs:
        raise ConfigError("search.rungs: got none, want at least one pair (rounds, keep)")
    for rounds, keep in s.rungs:
        _at_least("search.rungs", rounds, 1, "rounds in a rung")
        if s.dynamic_rounds and rounds > s.round_cap:
            raise ConfigError(
                f"search.rungs: got {rounds} rounds, want at most search.round_cap, which is {s.round_cap}"
            )
        if keep <= 0 or (keep > 1 and keep != int(keep)):
            raise ConfigError(f"search.rungs: got keep={keep}, want a whole number or a fraction between 0 and 1")
    if s.rungs[-1][1] > 1:
        raise ConfigError(f"search.rungs: the last rung keeps {s.rungs[-1][1]:g}, want 1, the winner")
    numbers = [keep for _, keep in s.rungs[:-1] if keep >= 1]
    if numbers != sorted(numbers, reverse=True):
        raise ConfigError(f"search.rungs: got keep={numbers}, want no rung that keeps more than the one before")


def _validate_participation(p: ParticipationConfig) -> None:
    if not 0 < p.available <= 1:
        raise ConfigError(f"participation.available: got {p.available}, want above 0 and at most 1")
    for name in ("ready_seconds", "away_seconds"):
        median, high = getattr(p, name)
        if not 0 < median < high:
            got = f"participation.{name}: got {median}, {high}"
            raise ConfigError(f"{got}, want a median above 0 and a larger 90th percentile")
    if (p.trace is None) == (p.availability == "trace"):
        got, want = (str(p.trace), "none") if p.trace else ("none", "the file of the trace")
        raise ConfigError(
            f"participation.trace: got {got}, want {want}: participation.availability is {p.availability}"
        )
    _above("participation.wait_seconds", p.wait_seconds, 0)
    _at_least("participation.overcommit", p.overcommit, 1)
    if p.deadline_seconds is not None:
        _above("participation.deadline_seconds", p.deadline_seconds, 0)
    if not 0 <= p.dropout < 1:
        raise ConfigError(f"participation.dropout: got {p.dropout}, want at least 0 and below 1")


def _no_nan(value: Any, path: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _no_nan(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            _no_nan(inner, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: got {value}, want a finite number")


def _choices(config: Any, path: str) -> None:
    """Every field with a fixed set of values has one of them; None where the field may be left open."""
    hints = typing.get_type_hints(type(config))
    for name, hint in hints.items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            _choices(value, f"{path}{name}.")
        for part in (hint, *typing.get_args(hint)):
            options = typing.get_args(part) if typing.get_origin(part) is Literal else ()
            if options and value not in options and not (value is None and type(None) in typing.get_args(hint)):
                raise ConfigError(f"{path}{name}: got {value!r}, want one of {', '.join(options)}")


def _at_least(name: str, value: float, least: float, why: str = "") -> None:
    if value < least:
        raise ConfigError(f"{name}: got {value}, want at least {least}{f' ({why})' if why else ''}")


def _above(name: str, value: float, bound: float) -> None:
    if value <= bound:
        raise ConfigError(f"{name}: got {value}, want above {bound}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ConfigError(f"{name}: got {value}, want between {low} and {high}")


def _every(name: str, values: tuple[int, ...], least: int) -> None:
    if any(v < least for v in values):
        raise ConfigError(f"{name}: got {values}, want every one at least {least}")
