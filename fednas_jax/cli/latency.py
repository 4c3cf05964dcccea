"""`fednas latency`: measures a lookup table on this machine."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fednas_jax.cli.parsing import leading_name, parse_fitted, terminal
from fednas_jax.config import bounds
from fednas_jax.config.bounds import AtLeast, AtMost
from fednas_jax.config.methods import resolve
from fednas_jax.config.presets import PRESETS
from fednas_jax.config.schema import Config, NetConfig
from fednas_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class LatencyArgs:
    """Measure the latency of a network's layers on this machine, batch 1, as a lookup table for a search."""

    out: Path
    """The table's file, .json; `--search.resource latency:FILE` uses it."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    image: Annotated[tuple[int, int, int] | None, AtLeast(1), AtMost(10_000)] = None
    """Height, width and channels of the images (default: those of the data set)."""
    classes: Annotated[int | None, AtLeast(2), AtMost(10**5)] = None
    """Number of classes (default: those of the data set)."""
    points: Annotated[int, AtLeast(2), AtMost(1000)] = 5
    """Measured widths of a width group, from its multiple up to its width."""
    networks: Annotated[int, AtLeast(2), AtMost(1000)] = 8
    """Whole networks at random widths that the table is fitted to, and as many that check it."""
    repeats: Annotated[int, AtLeast(1), AtMost(10**6)] = 21
    """Timed runs of each layer and network."""
    statistic: Literal["median", "min"] = "median"
    """What is taken of them: the median, or the fastest, for a machine with other work."""


def run(args: list[str]) -> int:
    """Runs `fednas latency` with these arguments and returns the exit code."""
    want = f"preset or network, want one of {', '.join(PRESETS)}, or a network's name"
    name, rest = leading_name(args, "latency", want)
    named = name and name not in PRESETS  # a network
    start = dataclasses.replace(Config(), net=NetConfig(name)) if named else PRESETS[name or next(iter(PRESETS))]
    parsed = parse_fitted(LatencyArgs, rest, f"fednas latency {name or 'PRESET'}", start)
    for option in ("points", "networks", "repeats", "classes", "image"):
        bounds.check_value(f"--{option}", getattr(parsed, option), bounds.hints(LatencyArgs)[option])
    if parsed.out.suffix != ".json":
        raise ConfigError(f"--out: got {parsed.out}, want a file that ends in .json")
    if not parsed.out.resolve().parent.is_dir():
        raise ConfigError(f"--out: got {parsed.out}, want a file in a folder that is there")
    config = resolve(parsed.config)
    from fednas_jax import data, nets
    from fednas_jax.files import write_json
    from fednas_jax.report import tables
    from fednas_jax.runtime import timing
    from fednas_jax.search import latency, lut
    from fednas_jax.space import probing

    if named and name not in nets.NETWORKS and ":" not in name:  # MODULE:FUNCTION is a network of one's own
        raise ConfigError(f"latency: got {name!r}, want one of {', '.join(PRESETS)}, {', '.join(nets.NETWORKS)}")
    image, classes, form = parsed.image, parsed.classes, (0, False)
    if image is None or classes is None:
        dataset = data.load(config.data, config.seed)
        if image is None:
            image, form = dataset.train.inputs.shape[1:], (dataset.tokens, dataset.train.labels.ndim > 1)
        classes = classes or dataset.classes
    found = probing.probe(nets.build(config.net, image, classes, *form), config.net.multiple, check=False)
    console = terminal()
    with console.status("measuring") as status:
        pick = min if parsed.statistic == "min" else statistics.median
        timer = timing.stopwatch(parsed.repeats, pick, status.update)
        table = latency.measure(found, timer, parsed.points, parsed.networks, config.seed)
    write_json(parsed.out, lut.to_json(table))
    tables.print_table_check(console, table)
    print(parsed.out)
    return 0
