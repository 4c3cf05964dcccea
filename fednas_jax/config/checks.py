"""What no run can have, said in the user's words: one line with the field, the value got and the value wanted.

Bounds of one field stand beside it in `schema`; here is what depends on several.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from fednas_jax.config import bounds, needs
from fednas_jax.config.registries import POLICIES, PROPOSALS, RESOURCES
from fednas_jax.config.schema import (
    SYNTHETIC,
    Config,
    DataConfig,
    ParticipationConfig,
    SearchConfig,
)
from fednas_jax.errors import ConfigError

_COMMA = re.compile(r",(?![^()]*\))")  # between resources, not between a function's arguments

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
    names = tuple(name.strip() for name in _COMMA.split(search.resource))
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
    bounds.check(config)
    _validate_data(config.data)
    name = config.net.name
    if not name or (":" in name and not all(part.isidentifier() for part in name.replace(":", ".", 1).split("."))):
        raise ConfigError(f"net.name: got {name!r}, want MODULE:FUNCTION, as in my_module:make")
    most = config.search.max_iterations
    if max(config.finetune.members, default=0) > most:
        got = f"finetune.members: got {max(config.finetune.members)}"
        raise ConfigError(f"{got}, want at most search.max_iterations, which is {most}")
    limits(config.search)
    _validate_rungs(config.search)
    validate_clients(config, config.data.clients or None)
    _validate_participation(config.participation)
    needs.check(config)


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
        "search.score_most": s.score_most,
    }
    for name, value in cohorts.items():
        if not 0 <= value <= most:
            raise ConfigError(f"{name}: got {value}, want 0 (all) to {number}")
    if s.partial and s.groups > most:
        raise ConfigError(f"search.groups: got {s.groups}, want at most {number}")


def _validate_data(d: DataConfig) -> None:
    if (d.folder is None) == (d.source == "columns"):
        got, want = (d.folder, "none") if d.folder else ("none", "the folder with the columns")
        raise ConfigError(f"data.folder: got {got}, want {want}: data.source is {d.source}")
    if not d.clients and d.partition != "natural":
        raise ConfigError(f"data.clients: got 0, want at least 1: data.partition is {d.partition}")
    for name, value in (("size_sigma", d.size_sigma), ("size_power", d.size_power)):
        if value and d.partition in ("label_dirichlet", "classes"):
            why = f"sizes follow from the labels with data.partition={d.partition}"
            raise ConfigError(f"data.{name}: got {value}, want 0: {why}")
    if d.size_sigma and d.size_power:
        raise ConfigError(f"data.size_power: got {d.size_power}, want 0: data.size_sigma is {d.size_sigma}")
    if d.source in SYNTHETIC and d.clients * d.min_examples > d.synthetic_examples:
        least = f"data.clients times data.min_examples, which is {d.clients * d.min_examples}"
        raise ConfigError(f"data.synthetic_examples: got {d.synthetic_examples}, want at least {least}")


def _validate_rungs(s: SearchConfig) -> None:
    for chosen, got in (("metric", s.metric), ("select", s.select)):
        if s.growing_panel and got != "accuracy":
            raise ConfigError(f"search.{chosen}: got {got}, want accuracy: search.score_most is {s.score_most}")
    for registry, name in ((POLICIES, s.policy), (PROPOSALS, s.proposals)):
        if name is not None and registry.parse(name).positional:
            raise ConfigError(f"{registry.field}: got {name!r}, want {registry.parse(name).name}")
    for rounds, _ in s.rungs:
        if s.dynamic_rounds and rounds > s.round_cap:
            raise ConfigError(
                f"search.rungs: got {rounds} rounds, want at most search.round_cap, which is {s.round_cap}"
            )
    if s.rungs[-1][1] > 1:
        raise ConfigError(f"search.rungs: the last rung keeps {s.rungs[-1][1]:g}, want 1, the winner")
    numbers = [keep for _, keep in s.rungs[:-1] if keep >= 1]
    if numbers != sorted(numbers, reverse=True):
        raise ConfigError(f"search.rungs: got keep={numbers}, want no rung that keeps more than the one before")


def _validate_participation(p: ParticipationConfig) -> None:
    for name in ("ready_seconds", "away_seconds"):
        median, high = getattr(p, name)
        if not median < high:
            got = f"participation.{name}: got {median}, {high}"
            raise ConfigError(f"{got}, want a median above 0 and a larger 90th percentile")
    if (p.trace is None) == (p.availability == "trace"):
        got, want = (str(p.trace), "none") if p.trace else ("none", "the file of the trace")
        raise ConfigError(
            f"participation.trace: got {got}, want {want}: participation.availability is {p.availability}"
        )
