"""The tables that a config names by file: a run keeps a copy of each, and does not go on with others."""

from __future__ import annotations

from pathlib import Path

from fednas_jax.config.checks import limits
from fednas_jax.config.registries import RESOURCES
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import checksum, write_bytes


def tables(config: Config) -> list[tuple[str, Path]]:
    """Field and file of each table that a run reads: lookup tables of latency, phones of one's own, a trace."""
    devices = (RESOURCES.parse(limit.resource).positional for limit in limits(config.search))
    named = [("search.resource", device) for positional in devices for device in positional]
    named += [("cost.population", config.cost.population)]
    if config.cost.population in ("uniform", "lognormal"):
        named += [("cost.phone", config.cost.phone)]
    # A table alone, or a phone of it: FILE:NAME.
    files = [(field, Path(part)) for field, name in named for part in (name, name.rpartition(":")[0])]
    found = [(field, path) for field, path in files if path.suffix in (".json", ".csv")]
    if config.participation.trace is not None:
        found.append(("participation.trace", config.participation.trace))
    return list(dict.fromkeys(found))


def keep(config: Config, folder: Path) -> None:
    """Copies the tables into a run's folder.

    Raises:
      ConfigError: one cannot be read.
      OSError: one cannot be written.
    """
    for kept, (field, path) in zip(_kept(config, folder), tables(config), strict=True):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{field}: {path} cannot be read: {error.strerror}") from None
        folder.mkdir(exist_ok=True)
        write_bytes(kept, content)


def check(config: Config, folder: Path) -> None:
    """Compares the tables with a run's copies, where it has them.

    Raises:
      RunError: one has changed since the run began.
    """
    for kept, (field, path) in zip(_kept(config, folder), tables(config), strict=True):
        if kept.exists() and path.exists() and checksum(kept) != checksum(path):
            raise RunError(f"{field}: {path} has changed since this run began with it, want {kept} or a new folder")


def _kept(config: Config, folder: Path) -> list[Path]:
    """Where the copies lie, in the order of the tables."""
    return [folder / f"{number}-{path.name}" for number, (_, path) in enumerate(tables(config))]
