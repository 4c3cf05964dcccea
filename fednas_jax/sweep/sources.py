"""Files that say a sweep: .toml, which is data, or .py, which is code of the user's own and is run as such.

Both give a base and trials. No jax here.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fednas_jax.config.bounds import shown
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError
from fednas_jax.files import opened
from fednas_jax.registry import attempt, said_of
from fednas_jax.sweep import designs

MOST_BYTES = 16 << 20  # of a sweep file

_DESIGNS: dict[str, Callable[..., list[designs.Trial]]] = {
    "grid": designs.grid,
    "zip": designs.zipped,
    "random": designs.sampled,
    "sobol": designs.sobol,
}
_DRAWN = ("random", "sobol")
_BLOCK = (*_DESIGNS, "list", "count", "draw_seed")


class Source(NamedTuple):
    """What a sweep file says."""

    base: Config | str | None
    trials: Any  # to be checked by `plan`


def read(path: Path) -> Source:
    """What a sweep file says.

    Raises:
      ConfigError: it is neither .toml nor .py, cannot be read, says what it cannot, or its code raises.
    """
    if path.suffix == ".toml":
        return _toml(path)
    if path.suffix == ".py":
        return _python(path)
    raise ConfigError(f"sweep: got {shown(path)}, want a .toml or .py file")


def _python(path: Path) -> Source:
    with opened(path, ConfigError):
        pass  # it is there, and a plain file
    spec = importlib.util.spec_from_file_location("fednas_sweep_file", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[spec.name] = module  # dataclasses look there for the module they are in
    try:
        spec.loader.exec_module(module)
    except ConfigError as error:  # of a design
        raise ConfigError(f"{path}: {error}") from None
    except (Exception, SystemExit) as error:  # whatever the file does
        raise ConfigError(f"{path}: {said_of(error, module)}") from error
    trials = getattr(module, "trials", None)
    if trials is None:
        raise ConfigError(f"{path}: trials: got none, want a list of trials, or a function that returns one")
    if callable(trials):
        trials = attempt(f"{path}: trials()", module, trials)
    return Source(getattr(module, "base", None), _walked(path, module, trials))


def _walked(path: Path, module: ModuleType, trials: Any) -> Any:
    """The trials of a generator, whose code raises where it is walked."""
    if not hasattr(trials, "__next__"):
        return trials
    return attempt(f"{path}: trials", module, lambda: list(itertools.islice(trials, designs.MOST_TRIALS + 1)))


def _toml(path: Path) -> Source:
    with opened(path, ConfigError) as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{path}: got more than {MOST_BYTES:,} bytes, want at most so many")
    try:
        values = tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {' '.join(str(error).split())}") from None
    for name in values:
        if name not in ("preset", "fields", "trials"):
            raise ConfigError(f"{path}: {shown(name)}: no such part of a sweep, want preset, fields and trials")
    blocks = values.get("trials", [])
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise ConfigError(f"{path}: trials: got {shown(blocks)}, want blocks [[trials]]")
    try:
        fields = _flat(values.get("fields", {}), "fields")
        chain = designs.chained(*(_block(block, number) for number, block in enumerate(blocks)))
        return Source(values.get("preset"), designs.crossed([fields], chain))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _block(block: Mapping[str, Any], number: int) -> list[designs.Trial]:
    """The trials of a [[trials]]: the product of the designs in it."""
    where = f"trials[{number}]"
    for name in block:
        if name not in _BLOCK:
            raise ConfigError(f"{where}: {shown(name)}: no such design, want {', '.join(_BLOCK)}")
    drawn = {"count": block.get("count"), "seed": block.get("draw_seed", 0)}
    parts = []
    for name, value in block.items():
        try:
            if name == "list":
                if not isinstance(value, list):
                    raise ConfigError(f"list: got {shown(value)}, want a list of trials")
                parts.append([_flat(trial, "list") for trial in value])
            elif name in _DRAWN and drawn["count"] is None:
                raise ConfigError(f"{name}: count: got none, want the number of draws")
            elif name in _DESIGNS:
                parts.append(_DESIGNS[name](_flat(value, name), **(drawn if name in _DRAWN else {})))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
    if not parts:
        raise ConfigError(f"{where}: got no design, want one of {', '.join((*_DESIGNS, 'list'))}")
    unused = [name for name in ("count", "draw_seed") if name in block and not {*_DRAWN} & {*block}]
    if unused:
        got = f"{unused[0]}: got {shown(block[unused[0]])}"
        raise ConfigError(f"{where}: {got}, want it with {' or '.join(_DRAWN)} only")
    return designs.crossed(*parts)


def _flat(values: Any, what: str) -> dict[str, Any]:
    """Fields by their dotted names, written as "data.alpha" or as a table; one with low and high is a value."""
    if not isinstance(values, dict):
        raise ConfigError(f"{what}: got {shown(values)}, want fields with their values")
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, dict) and not {"low", "high"} & set(value)
        found |= {f"{name}.{n}": v for n, v in _flat(value, what).items()} if inner else {name: value}
    return found
