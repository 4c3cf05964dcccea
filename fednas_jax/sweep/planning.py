"""The trials of a sweep with their names and configs, and how they differ from those it was begun with. No jax here.

A trial's config is what `fednas search PRESET --field value ...` makes of the same fields. Its checksum is its
identity: a trial that is known keeps its name, whatever tells trials apart by now.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.config.bounds import shown
from fednas_jax.config.files import override, to_json
from fednas_jax.config.methods import reopened, resolve, with_method
from fednas_jax.config.presets import fitted, preset
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError
from fednas_jax.sweep import designs, naming

_TOLD = 5  # trials that a message names


class Planned(NamedTuple):
    """One trial."""

    name: str
    fields: designs.Trial  # as given
    checksum: str  # SHA-256 of the resolved config
    differs: dict[str, Any]  # dotted field -> value, of the fields in which the sweep's trials differ


class Plan(NamedTuple):
    """All trials of a sweep."""

    base: Config | None
    trials: tuple[Planned, ...]
    fields: tuple[str, ...]  # of those given, the ones in which trials differ

    def config(self, trial: Planned) -> Config:
        """The trial's resolved config."""
        return config_of(self.base, trial.fields)


def config_of(base: Config | None, fields: Mapping[str, Any]) -> Config:
    """The resolved config of a trial.

    Args:
      base: what the fields change; None where they name a preset.
      fields: dotted field -> value. `preset` takes another base; another network, a parent or a method changes what
        goes with it, as on the command line, before the other fields are set.

    Raises:
      ConfigError: there is no base, no such field, or no run can have these values.
    """
    left = dict(fields)
    if "preset" in left:
        base = _preset(left.pop("preset"))
    if base is None:
        raise ConfigError("preset: got none, want a base for the sweep, or a preset in each trial")
    if "command" in left:
        raise ConfigError("command: got it in a trial, want a base that is a search, or a pretraining")
    first: designs.Trial = {name: left[name] for name in ("net.name", "parent", "method") if name in left}
    typed = override(base, first)
    base = fitted(base, typed.net.name, typed.parent if "parent" in first else None)
    if "method" in first:
        base = with_method(dataclasses.replace(reopened(base), method=typed.method))
    return resolve(override(base, left))


def plan(base: Config | str | None, trials: Iterable[Any], known: Mapping[str, str] | None = None) -> Plan:
    """Names and checks every trial.

    Args:
      base: a config, or a preset's name; None where each trial names its preset.
      trials: each a dict of dotted fields.
      known: checksum -> name of the trials that the sweep has already.

    Raises:
      ConfigError: there are none or too many, one is none, or two are alike; says which.
    """
    base = _preset(base) if isinstance(base, str) else base
    if base is not None and not isinstance(base, Config):
        raise ConfigError(f"base: got {shown(base)}, want a config or the name of a preset")
    given, checksums, seen = _listed(trials), [], dict[str, int]()
    first: dict[str, Any] = {}
    changes: list[dict[str, Any]] = []  # of each trial against the first: most fields are the same in all
    for number, trial in enumerate(given):
        try:
            values = to_json(config_of(base, trial))
        except ConfigError as error:
            raise ConfigError(f"trials[{number}]: {error}") from None
        checksum = checksum_of(values)
        if checksum in seen:
            said = ", ".join(f"{name} {shown(value)}" for name, value in trial.items()) or "no fields"
            raise ConfigError(f"trials[{number}]: is the same run as trials[{seen[checksum]}], want each once: {said}")
        seen[checksum] = number
        checksums.append(checksum)
        now = leaves(values)
        first = first or now
        changes.append({name: value for name, value in now.items() if value != first[name]})
    ever = dict.fromkeys(name for trial in given for name in trial)
    fields = tuple(name for name in ever if any(name in change for change in changes))
    differs = [{name: change.get(name, first[name]) for name in fields} for change in changes]
    found = _named(differs, checksums, known or {})
    return Plan(base, tuple(map(Planned, found, given, checksums, differs)), fields)


def checksum_of(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config's JSON values; numbers that are equal are one, 1 and 1.0."""
    return hashlib.sha256(json.dumps(_alike(config), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def leaves(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted field -> value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= leaves(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """`leaves` the other way."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        inside = found
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[name] = value
    return found


def told(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _TOLD:,} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def _preset(name: Any) -> Config:
    if not isinstance(name, str):
        raise ConfigError(f"preset: got {shown(name)}, want the name of a preset")
    return preset(name)


def _listed(trials: Any) -> list[designs.Trial]:
    """The trials as dicts.

    Raises:
      ConfigError: they are none, too many, or one is no dict.
    """
    if isinstance(trials, str | Mapping) or not isinstance(trials, Iterable):
        raise ConfigError(f"trials: got {shown(trials)}, want a list of trials")
    found: list[designs.Trial] = []
    for number, fields in enumerate(trials):
        if number >= designs.MOST_TRIALS:
            raise ConfigError(f"trials: got more than {designs.MOST_TRIALS:,}, want at most so many in a sweep")
        if not isinstance(fields, Mapping):
            raise ConfigError(f"trials[{number}]: got {shown(fields)}, want a dict of fields and values")
        found.append({str(name): _plain(value) for name, value in fields.items()})
    if not found:
        raise ConfigError("trials: got none, want at least one")
    return found


def _alike(value: Any) -> Any:
    """JSON values with every whole number as an int."""
    if isinstance(value, Mapping):
        return {name: _alike(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_alike(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else designs.plain(value)


def _named(differs: Sequence[Mapping[str, Any]], checksums: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """A name for each trial: that which it has, or one of what tells it from the others."""
    fresh = zip(naming.names(differs, checksums), checksums, strict=True)
    found = [known.get(checksum, name) for name, checksum in fresh]
    often = Counter(found)
    return [
        name if often[name] == 1 or checksum in known else f"{name}-{checksum[:8]}"
        for name, checksum in zip(found, checksums, strict=True)
    ]
