"""Methods: named settings of the search's switches, and a config with all of them filled."""

from __future__ import annotations

import dataclasses
from typing import Any

from fednas_jax.config import bounds
from fednas_jax.config.checks import (
    validate,
)
from fednas_jax.config.schema import (
    Config,
)
from fednas_jax.errors import ConfigError

# What each method says of the switches that the user left open.
METHODS: dict[str, dict[str, Any]] = {
    "fednas": dict(
        proposals="groups", centralised=False, partial_clients=True, early_dropping=True, dynamic_rounds=True
    ),
    "naive": dict(
        proposals="groups",
        centralised=False,
        partial_clients=False,
        early_dropping=False,
        dynamic_rounds=False,
    ),
    "netadapt": dict(
        proposals="groups",
        centralised=True,
        partial_clients=False,
        early_dropping=False,
        dynamic_rounds=False,
    ),
    "random": dict(
        proposals="random", centralised=False, partial_clients=True, early_dropping=True, dynamic_rounds=True
    ),
    "uniform": dict(
        proposals="uniform",
        centralised=False,
        partial_clients=False,
        early_dropping=False,
        dynamic_rounds=False,
    ),
}


def resolve(config: Config) -> Config:
    """Fills the switches left open (None) with what the method says; a value the user gave is kept.

    Returns:
      A config without open switches that passed `validate`.

    Raises:
      ConfigError: for an unknown method or a setting that no run can have.
    """
    bounds.check(config)
    if config.method not in METHODS:
        raise ConfigError(f"method: got {config.method!r}, want one of {', '.join(METHODS)}")
    said = {name: value for name, value in METHODS[config.method].items() if getattr(config.search, name) is None}
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, **said))
    validate(config)
    return config
