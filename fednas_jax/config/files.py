"""Configs as plain JSON values and back, changed by field, and where two of them differ."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fednas_jax.config import bounds
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError


def to_json(config: Any) -> dict[str, Any]:
    """The config as plain JSON values: paths as text, tuples as lists."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, tuple):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(config)


def from_json(values: Any, cls: type = Config, path: str = "") -> Any:
    """The config that `to_json` wrote. Types are checked, bounds are not: an old run may have others.

    Args:
      values: as JSON has them; fields left out keep their defaults.
      cls: the record that they describe.
      path: what stands before its fields' names in messages.

    Raises:
      ConfigError: for a field that the config does not have, or a value of another type, in one line.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{path.removesuffix('.') or 'config'}: got {bounds.shown(values)}, want its fields")
    hints = bounds.hints(cls)
    for name in values:
        _known(name, hints, cls, path)
    return cls(**{name: _typed(value, hints[name], f"{path}{name}") for name, value in values.items()})


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """The config with other values in some fields; not resolved, so that open switches stay open.

    override(config, {"search.groups": 4, "data.alpha": 0.1})

    Args:
      config: the run.
      changes: dotted field -> value. Lists are taken for tuples and texts for paths, as in JSON.

    Raises:
      ConfigError: there is no such field, or it cannot have this value, in one line.
    """
    for field, value in changes.items():
        config = _overridden(config, str(field).split("."), value, "")
    return config


def differences(a: Config, b: Config) -> list[str]:
    """One 'field: value of a, value of b' text for each field in which two configs differ."""

    def walk(x: Any, y: Any, path: str) -> list[str]:
        if isinstance(x, dict) and isinstance(y, dict):
            inner = (walk(x.get(k), y.get(k), f"{path}.{k}" if path else k) for k in sorted({*x, *y}))
            return [line for lines in inner for line in lines]
        return [] if x == y else [f"{path}: {x!r}, {y!r}"]

    return walk(to_json(a), to_json(b), "")


def _known(name: Any, hints: Mapping[str, Any], cls: type, path: str) -> None:
    if name not in hints:
        got = f"{path}{str(name)[:100]!r}" if not str(name).isidentifier() else f"{path}{str(name)[:100]}"
        raise ConfigError(f"{got}: no such field in {cls.__name__}, want one of {', '.join(hints)}")


def _overridden(record: Any, field: list[str], value: Any, path: str) -> Any:
    """A record with one field changed, which may lie in one of its sections."""
    (name, *rest), hints = field, bounds.hints(type(record))
    _known(name, hints, type(record), path)
    at, hint = f"{path}{name}", hints[name]
    if rest:
        if not dataclasses.is_dataclass(hint):
            raise ConfigError(f"{at}.{'.'.join(rest)}: no such field, want {at}, which has none inside")
        value = _overridden(getattr(record, name), rest, value, f"{at}.")
    elif dataclasses.is_dataclass(hint):
        if type(value) is not hint:
            raise ConfigError(f"{at}: got {bounds.shown(value)}, want {bounds.spelled(hint)}, or one of its fields")
    else:
        value = _typed(value, hint, at)
        bounds.check_value(at, value, hint)
    return dataclasses.replace(record, **{name: value})


def _typed(value: Any, hint: Any, field: str) -> Any:
    """A value of JSON as the field's type has it."""
    if dataclasses.is_dataclass(hint):
        return from_json(value, typing.cast(type, hint), f"{field}.")
    value = _tuples(value)
    if isinstance(value, str) and _takes_path(hint):
        value = Path(value)
    bounds.check_type(field, value, hint)
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list | tuple) else value


def _takes_path(hint: Any) -> bool:
    """Whether a field holds a path where it holds anything."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _takes_path(args[0])
    return hint is Path or (origin in (typing.Union, types.UnionType) and Path in args)
