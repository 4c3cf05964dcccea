"""Methods: named sets of settings, and a config with all that a method leaves to be said filled in.

A method is a function without arguments that returns settings by dotted field. The switches of the search are open
(None) until `resolve` fills them with what the method says; other fields a method may set are applied by `with_method`.
"""

from __future__ import annotations

from typing import Any

from fednas_jax.config import bounds
from fednas_jax.config.checks import validate
from fednas_jax.config.files import from_json, to_json
from fednas_jax.config.registries import METHODS
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError

_OURS = ("preset", "command", "method")  # fields that no method sets


def fednas() -> dict[str, Any]:
    """All three optimisations of the paper: candidates on parts of the clients, early dropping, dynamic rounds."""
    return _switches("groups", partial_clients=True, early_dropping=True, dynamic_rounds=True)


def naive() -> dict[str, Any]:
    """The straightforward design: every candidate on all clients, until it has settled."""
    return _switches("groups")


def netadapt() -> dict[str, Any]:
    """NetAdapt, centralised: one client holds all data."""
    return _switches("groups", centralised=True)


def random() -> dict[str, Any]:
    """As fednas, of random widths."""
    return _switches("random", partial_clients=True, early_dropping=True, dynamic_rounds=True)


def uniform() -> dict[str, Any]:
    """A width multiplier, trained on all clients until it has settled."""
    return _switches("uniform")


def resolve(config: Config) -> Config:
    """Fills the switches left open (None) with what the method says; a value the user gave is kept.

    What the method leaves open too is as in fednas.

    Returns:
      A config without open switches that passed `validate`; resolving it again changes nothing.

    Raises:
      ConfigError: for an unknown method or a setting that no run can have.
    """
    bounds.check(config)
    now = _leaves(to_json(config))
    said = fednas() | _said(config.method)
    config = _changed(config, {path: value for path, value in said.items() if now[path] is None})
    validate(config)
    return config


def reopened(config: Config) -> Config:
    """A config that was resolved, with the switches open again that are as its method fills them.

    A run's config is resolved: without this, another method would have the first one's switches. Of a config with any
    switch open, and of switches that differ from what the method says, nothing changes: the user gave them.

    Raises:
      ConfigError: for an unknown method.
    """
    default, now = _leaves(to_json(Config())), _leaves(to_json(config))
    if any(now[path] is None for path in fednas()):
        return config
    said = fednas() | _said(config.method)
    return _changed(config, {p: None for p, value in said.items() if default[p] is None and now[p] == value})


def with_method(config: Config) -> Config:
    """The config with everything that its method sets beyond the open switches, such as {"search.groups": 4}.

    The command line calls it on a preset before options are read; in Python it is called before fields are changed:
    `resolve` cannot tell a field's default from a value that the user gave.

    Raises:
      ConfigError: for an unknown method, or a field that there is not.
    """
    default = _leaves(to_json(Config()))
    said = _said(config.method)
    return _changed(config, {path: value for path, value in said.items() if default[path] is not None})


def _switches(proposals: str, **on: bool) -> dict[str, Any]:
    """Every open switch of the search; those not named are off."""
    off = dict.fromkeys(("centralised", "partial_clients", "early_dropping", "dynamic_rounds"), False)
    said: dict[str, Any] = {"proposals": proposals, "policy": "rungs", **off, **on}
    return {f"search.{name}": value for name, value in said.items()}


def _said(method: str) -> dict[str, Any]:
    """What a method says, by dotted field.

    Raises:
      ConfigError: it is unknown, returns no such thing, or names a field that there is not.
    """
    said = METHODS.get(method)()
    if not isinstance(said, dict):
        got = type(said).__name__
        raise ConfigError(f"method: {method} returned {got}, want a dict such as {{'search.groups': 4}}")
    default = _leaves(to_json(Config()))
    for path, value in said.items():
        if path not in default or path in _OURS:
            near = [name for name in default if name.split(".")[-1] == str(path).split(".")[-1] and name not in _OURS]
            want = ", ".join(near) or "a field of the config with its section, such as search.groups"
            raise ConfigError(f"method: {method} sets {path!r}, want {want}")
        if default[path] is not None and isinstance(value, str) != isinstance(default[path], str):
            raise ConfigError(f"method: {method} sets {path} to {value!r}, want a value such as {default[path]!r}")
    return said


def _changed(config: Config, settings: dict[str, Any]) -> Config:
    """The config with other values of some fields."""
    if not settings:
        return config
    values = to_json(config)
    for path, value in settings.items():
        *sections, name = path.split(".")
        section = values
        for part in sections:
            section = section[part]
        section[name] = value
    return from_json(values)


def _leaves(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted field -> value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _leaves(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
