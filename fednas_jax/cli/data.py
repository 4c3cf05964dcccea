"""`fednas data`: the data sets there are, and files of your own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from fednas_jax.cli.parsing import parse, terminal
from fednas_jax.config.presets import PRESETS, preset
from fednas_jax.config.schema import DataConfig
from fednas_jax.data.options import ImportOptions
from fednas_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ListArgs:
    """The data sets there are."""

    root: Path | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""


@dataclasses.dataclass(frozen=True)
class ShowArgs:
    """What a data set holds, and how it is divided among clients."""

    clients: bool = False
    """Divide it among clients, as a search with these options would."""
    out: Path | None = None
    """File of a picture of the division, .svg or .png. Only with --clients."""
    seed: int = 0
    """The run's seed."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


@dataclasses.dataclass(frozen=True)
class PrepareArgs:
    """Prepare a data set once from its original files."""

    name: tyro.conf.Positional[str]
    """Data set (`fednas data list`)."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Folder of the original files, where they are not downloaded."""
    root: Path | None = None
    """Folder of prepared data sets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""


@dataclasses.dataclass(frozen=True)
class ImportArgs:
    """Import files of yours into a folder of columns, for `--data.source columns --data.folder DIR`."""

    kind: tyro.conf.Positional[str]
    """leaf (LEAF's JSON), folder (CLASS/IMAGE or CLIENT/CLASS/IMAGE), npz (x, y, client_ids), hdf5 or sqlite (of TFF),
    table (Parquet or CSV), huggingface (save_to_disk) or webdataset (tar shards)."""
    path: tyro.conf.Positional[Path]
    """The files: a folder or a file."""
    to: Path
    """Folder of the columns; must not exist yet."""
    options: Annotated[ImportOptions, tyro.conf.arg(name="")] = dataclasses.field(default_factory=ImportOptions)


def run(args: list[str]) -> int:
    """Runs `fednas data` with these arguments and returns the exit code."""
    from fednas_jax import data

    if args[:1] in (["-h"], ["--help"]):
        print(
            "usage: fednas data list | show NAME | prepare NAME [--from DIR] | import KIND PATH --to DIR; "
            "each has a --help of its own"
        )
        return 0
    if args[:1] == ["list"]:
        parsed = parse(ListArgs, args[1:], "fednas data list")
        for name, status in data.list_sources(parsed.root).items():
            print(f"{name}: {status.description}{'' if status.prepared else ' (not prepared yet)'}")
        print(f"{data.ANY_TFDS}: any other set of TensorFlow Datasets with images and labels, by its name there")
        return 0
    if args[:1] == ["show"]:
        return _show(args[1:])
    if args[:1] == ["prepare"]:
        prepared = parse(PrepareArgs, args[1:], "fednas data prepare")
        print(data.prepare(prepared.name, prepared.source, prepared.root))
        return 0
    if args[:1] == ["import"]:
        asked = parse(ImportArgs, args[1:], "fednas data import")
        print(data.import_data(asked.kind, asked.path, asked.to, asked.options))
        return 0
    raise ConfigError(f"data: got {args[0] if args else 'nothing'!r}, want list, show, prepare or import")


def _show(args: list[str]) -> int:
    from fednas_jax import data

    name, rest = (args[0], args[1:]) if args and not args[0].startswith("-") else ("", args)
    if name in PRESETS:
        default = ShowArgs(seed=preset(name).seed, data=preset(name).data)
    elif ":" in name or name.partition("(")[0] in data.list_sources():
        default = ShowArgs(data=DataConfig(source=name))
    elif "--help" in rest or "-h" in rest:
        default = ShowArgs()
    else:
        known = ", ".join(dict.fromkeys([*PRESETS, *data.list_sources()]))
        got = repr(name) if name else "no name"
        raise ConfigError(f"data show: got {got}, want a preset or a data set, one of {known}")
    parsed = parse(ShowArgs, rest, f"fednas data show {name or 'NAME'}", default)
    from fednas_jax.report.data_view import show

    show(terminal(), parsed.data, parsed.seed, parsed.clients, parsed.out)
    return 0
