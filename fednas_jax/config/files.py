"""Configs as plain JSON values and back, and where two of them differ."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from fednas_jax.config.schema import (
    Config,
)
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


def from_json(values: dict[str, Any], cls: type = Config) -> Any:
    """The config that `to_json` wrote; unknown fields are refused by name.

    Raises:
      ConfigError: for a field that the config does not have.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such field in {cls.__name__}, want one of {', '.join(hints)}")

    def typed(value: Any, hint: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_json(value, typing.cast(type, hint))
        if isinstance(value, list):
            return tuple(typed(v, None) for v in value)
        paths = (Path, types.UnionType)
        return Path(value) if isinstance(hint, paths) and value is not None and Path in typing.get_args(hint) else value

    return cls(**{name: typed(value, hints[name]) for name, value in values.items()})


def differences(a: Config, b: Config) -> list[str]:
    """One 'field: value of a, value of b' text for each field in which two configs differ."""

    def walk(x: Any, y: Any, path: str) -> list[str]:
        if isinstance(x, dict) and isinstance(y, dict):
            inner = (walk(x.get(k), y.get(k), f"{path}.{k}" if path else k) for k in sorted({*x, *y}))
            return [line for lines in inner for line in lines]
        return [] if x == y else [f"{path}: {x!r}, {y!r}"]

    return walk(to_json(a), to_json(b), "")
