"""Phones and their links: measured tables with unit, source and licence beside each; one seed draws one population.

No jax here. Letters: C clients. A phone's forward pass of a network takes base + ms per MMAC x its millions of
multiply-accumulates; how much more training is, the network's own count says (see `cost`), unless the table does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.config.schema import CostConfig
from fednas_jax.errors import ConfigError
from fednas_jax.files import csv_rows, text_of
from fednas_jax.seeds import Purpose, generator

COUNTED = math.nan  # training costs what the network's own count of MACs says
# What FedScale charges for training: forward, gradient to the inputs, gradient to the weights, of every layer.
THREE_PASSES = 3.0


class Link(NamedTuple):
    """One direction of the clients' links, in megabits (10^6 bits) a second."""

    mbit: tuple[float, ...]
    """The clients' mean speeds at the quantiles LEVELS; one number: the same for all."""
    variation: float = 0.0
    """Coefficient of variation of a client's speed from round to round."""


LEVELS = (0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95)


class Phone(NamedTuple):
    """One kind of phone."""

    name: str
    base_ms: float
    """Milliseconds of a forward pass of one example, however small the network."""
    ms_per_mmac: float
    """Further milliseconds for each million multiply-accumulates of it."""
    training: float = COUNTED
    """Forward passes that training one example takes."""
    spread: float = 0.0
    """Standard deviation of the log of the time between phones of this kind."""
    down: Link | None = None  # None: as `cost.down_mbit_per_second` says
    up: Link | None = None
    watts: float | None = None  # None: as `cost.watts` says
    joules_per_megabyte: float | None = None

    def latency_ms(self, macs: Any) -> Any:
        """Milliseconds of a forward pass at batch 1 of a network of so many multiply-accumulates (number or array)."""
        return self.base_ms + self.ms_per_mmac * macs / 1e6


class Population(NamedTuple):
    """Kinds of phones and how common they are."""

    name: str
    phones: tuple[Phone, ...]
    shares: tuple[float, ...]
    source: str
    licence: str


class Devices(NamedTuple):
    """The phones of C clients, all arrays [C] float64."""

    kind: np.ndarray  # number of the phone in the population
    base: np.ndarray  # seconds of a forward pass of one example, apart from its MACs
    per_mac: np.ndarray  # seconds
    training: np.ndarray  # forward passes that training an example takes; NaN: as the network's count says
    down: np.ndarray  # mean bytes a second
    up: np.ndarray
    down_variation: np.ndarray  # coefficient of variation from round to round
    up_variation: np.ndarray
    watts: np.ndarray  # while computing
    joules_per_byte: np.ndarray


# Milliseconds at batch 1 of searched networks of ImageNet size: fits over each phone's measured points, R^2 >= 0.999.
# MobileNetV1 is off the line. Source: README tables of Once-for-All (Cai et al. 2020, arXiv 1908.09791), licence MIT.
# MnasNet's table (arXiv 1807.11626) gives Pixel 1 a slope of 0.214 independently.
PHONES = {
    phone.name: phone
    for phone in (
        Phone("lg_g8", 0.4, 0.103),
        Phone("note10", 1.8, 0.085),
        Phone("pixel1", 4.9, 0.215),
        Phone("note8", 2.8, 0.282),
        Phone("pixel2", 2.5, 0.286),
        Phone("s7_edge", 3.6, 0.383),
    )
}

# Mean speeds of 19 users in FLASH's speed table (Yang et al. 2021, arXiv 2006.06983), licence BSD-2; the table says
# 'kb/s'. Median coefficients of variation 0.37 and 0.40.
FLASH_DOWN = (3096, 3274, 3718, 4318, 7243, 9091, 10655)
FLASH_UP = (641, 2002, 2703, 3286, 5038, 5850, 6314)
# Milliseconds of training a batch of 10 of FLASH's FEMNIST network on its three classes of phones, mean and standard
# deviation; and how its 35,407 unknown phones divide among the classes. Same source and licence.
FLASH_BATCH_MS = {"low": (1642.0, 99.5), "mid": (588.0, 23.9), "high": (179.0, 2.3)}
FLASH_MIX = (18820.0, 16428.0, 159.0)
# That network's forward pass, in millions of MACs: 5x5 convolutions 1-32 at 28x28 and 32-64 at 14x14, 3136-2048-62.
FLASH_MMACS = (784 * 25 * 32 + 196 * 25 * 32 * 64 + 3136 * 2048 + 2048 * 62) / 1e6

# Standard deviation of the log of the time that 957 phones take to train a ResNet: a statistic of FLHetBench's
# measurements, which come without a licence.
FLHETBENCH_SIGMA = 0.78

OFA = ("README tables of Once-for-All, arXiv 1908.09791", "MIT")
FLASH = ("FLASH, arXiv 2006.06983", "BSD-2-Clause")


def _flash(name: str, megabits: float) -> Population:
    """FLASH's classes and links, with its 'kb' read as so many megabits."""
    down, up = (
        Link(tuple(v * megabits for v in values), variation)
        for values, variation in ((FLASH_DOWN, 0.37), (FLASH_UP, 0.40))
    )
    phones = tuple(
        # FLASH measured training alone; its forward pass is taken to be a third of it, as FedScale does.
        Phone(kind, 0.0, mean / 10 / THREE_PASSES / FLASH_MMACS, THREE_PASSES, deviation / mean, down, up)
        for kind, (mean, deviation) in FLASH_BATCH_MS.items()
    )
    return Population(name, phones, FLASH_MIX, *FLASH)


POPULATIONS = ("paper", "uniform", "phones", "flash", "flash_kilobytes", "lognormal")


def phone(name: str, field: str = "cost.phone") -> Phone:
    """A measured phone by its name, or one of a table of one's own: FILE:NAME.

    Args:
      name: of PHONES, or such as 'phones.csv:slow'.
      field: that named it, for the message.

    Raises:
      ConfigError: there is none of that name, or the table cannot be read.
    """
    if name in PHONES:
        return PHONES[name]
    file, _, own = name.rpartition(":")
    if Path(file).suffix not in TABLES:
        want = f"want one of {', '.join(PHONES)}, or FILE.csv:NAME of a table of your own"
        if field != "cost.phone":
            want += ", or the .json of fednas latency"
        raise ConfigError(f"{field}: got {name!r}, {want}")
    phones = {p.name: p for p in read_table(Path(file), field).phones}
    if own not in phones:
        raise ConfigError(f"{field}: got {own!r} of {file}, want one of {', '.join(phones)}")
    return phones[own]


def _origin(name: str) -> tuple[str, str]:
    """Source and licence of a phone by its name."""
    return OFA if name in PHONES else (name.rpartition(":")[0], OWN)


def population(config: CostConfig, parent_macs: int) -> Population:
    """The population that `cost.population` names, or the table in the file of that name.

    `flash` reads the links' 'kb/s' as kilobits, 4.3 Mbit/s down in the median: that is what the letters say, what
    FLHetBench does, and near FedScale's 6.1 and the paper's 2. FLASH's own code divides by them as kilobytes, 34.5
    Mbit/s: `flash_kilobytes`.

    Args:
      config: the simulated phones.
      parent_macs: of the parent's forward pass; `paper` measures in it.

    Raises:
      ConfigError: no such population, phone or file, or a table that cannot be read.
    """
    name = config.population
    if name == "paper":
        # [FedNAS, section 5]: training one example of the parent takes 0.1 s on a Pixel, others in proportion.
        ms = 1e3 * config.seconds_per_example / THREE_PASSES / (parent_macs / 1e6)
        pixel = Phone("pixel", 0.0, ms, THREE_PASSES)
        return Population(name, (pixel,), (1.0,), "FedNAS, arXiv 2002.06352, section 5", "figures quoted")
    if name == "uniform":
        return Population(name, (phone(config.phone),), (1.0,), *_origin(config.phone))
    if name == "phones":
        return Population(name, tuple(PHONES.values()), (1.0,) * len(PHONES), *OFA)
    if name == "lognormal":
        source, licence = _origin(config.phone)
        source += "; spread: statistic of FLHetBench's 957 phones"
        return Population(name, (phone(config.phone)._replace(spread=config.sigma),), (1.0,), source, licence)
    if name == "flash":
        return _flash(name, 1e-3)
    if name == "flash_kilobytes":
        return _flash(name, 8e-3)
    path = Path(name)
    if path.suffix not in TABLES:
        raise ConfigError(
            f"cost.population: got {name!r}, want one of {', '.join(POPULATIONS)}, or a table's file, .csv or .json"
        )
    return read_table(path)


def sample(chosen: Population, config: CostConfig, clients: int, seed: int) -> Devices:
    """Deals phones and links to clients.

    A client's two directions have one rank among all clients: who has a bad link has it both ways (an assumption; the
    tables give each direction by itself). Speeds between quantiles are interpolated on a log scale, and end at the
    outermost.

    Args:
      chosen: the population.
      config: says what the population leaves open.
      clients: C.
      seed: the run's.
    """
    rng = generator(seed, Purpose.DEVICES)
    shares = np.asarray(chosen.shares, np.float64)
    kind = rng.choice(len(shares), clients, p=shares / shares.sum())
    slower = np.exp(rng.standard_normal(clients) * np.asarray([p.spread for p in chosen.phones])[kind])
    rank = rng.uniform(size=clients)

    def of_kind(values: list[float]) -> np.ndarray:
        return np.asarray(values, np.float64)[kind]

    def speeds(links: list[Link]) -> np.ndarray:
        found = np.stack([quantile(link, rank) for link in links])
        return found[kind, np.arange(clients)] * 1e6 / 8

    down = [p.down or Link((config.down_mbit_per_second,)) for p in chosen.phones]
    up = [p.up or Link((config.up_mbit_per_second,)) for p in chosen.phones]
    watts = [config.watts if p.watts is None else p.watts for p in chosen.phones]
    joules = [
        config.joules_per_megabyte if p.joules_per_megabyte is None else p.joules_per_megabyte for p in chosen.phones
    ]
    return Devices(
        kind,
        of_kind([p.base_ms / 1e3 for p in chosen.phones]) * slower,
        of_kind([p.ms_per_mmac / 1e9 for p in chosen.phones]) * slower,
        of_kind([p.training for p in chosen.phones]),
        speeds(down),
        speeds(up),
        of_kind([link.variation for link in down]),
        of_kind([link.variation for link in up]),
        of_kind(watts),
        of_kind(joules) / 1e6,
    )


def quantile(link: Link, rank: np.ndarray) -> np.ndarray:
    """Megabits a second of the clients of these ranks [C], 0 to 1, among all."""
    if len(link.mbit) == 1:
        return np.full(len(rank), link.mbit[0])
    return np.exp(np.interp(rank, LEVELS, np.log(link.mbit)))


def links(devices: Devices, seed: int, *moment: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes a second down and up of each client [C] in one round.

    Speeds vary by a lognormal factor of mean 1, so they stay positive, and a client's factor does not depend on who
    else takes part.

    Args:
      devices: the clients' phones.
      seed: the run's.
      *moment: numbers of the round.
    """
    if not (devices.down_variation.any() or devices.up_variation.any()):
        return devices.down, devices.up
    draws = generator(seed, Purpose.LINKS, *moment).standard_normal((2, len(devices.down)))

    def varied(mean: np.ndarray, variation: np.ndarray, normal: np.ndarray) -> np.ndarray:
        sigma = np.sqrt(np.log1p(variation**2))
        return mean * np.exp(sigma * normal - sigma**2 / 2)

    return (
        varied(devices.down, devices.down_variation, draws[0]),
        varied(devices.up, devices.up_variation, draws[1]),
    )


# Columns of a table of one's own: its units, and what one of them is in those used here.
UNITS: dict[str, dict[str, float]] = {
    "base": {"ms": 1.0, "s": 1e3},
    "speed": {"ms/MMAC": 1.0, "s/MMAC": 1e3, "ns/MAC": 1.0, "s/GMAC": 1.0},
    "down": {"Mbit/s": 1.0, "kbit/s": 1e-3, "MB/s": 8.0, "kB/s": 8e-3},
    "up": {"Mbit/s": 1.0, "kbit/s": 1e-3, "MB/s": 8.0, "kB/s": 8e-3},
    "power": {"W": 1.0, "mW": 1e-3},
    "energy": {"J/MB": 1.0, "J/kB": 1e3},
}
TABLES = (".csv", ".json")  # files of tables of one's own
OWN = "the user's"  # their licence
PLAIN = ("name", "share", "training", "spread", "variation")  # columns without a unit
REQUIRED = ("name", "base", "speed", "down", "up")


def read_table(path: Path, field: str = "cost.population") -> Population:
    """A table of one's own: CSV with a header, or JSON, a list of objects; a row is a kind of phone.

    Columns are `name`, `base [ms]`, `speed [ms/MMAC]`, `down [Mbit/s]`, `up [Mbit/s]`, and where wanted `share` (1),
    `training` (forward passes that training takes; counted from the network), `spread` (of the log of the time; 0),
    `variation` (of the links between rounds; 0), `power [W]` and `energy [J/MB]`. UNITS has the units to choose from.

    Args:
      path: of the file.
      field: that named it, for messages.

    Raises:
      ConfigError: the file, a column, its unit or a value cannot be used.
    """
    try:
        rows = json.loads(text_of(path, field)) if path.suffix == ".json" else csv_rows(path, field)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{field}: {path} cannot be read: {error}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{field}: {path} got no rows, want one for each kind of phone")
    kinds = [_kind(f"{field}: {path}", number, row) for number, row in enumerate(rows, 1)]
    names = [kind.name for kind, _ in kinds]
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ConfigError(f"{field}: {path} got two phones named {twice[0]!r}, want different names")
    shares = tuple(share for _, share in kinds)
    if not sum(shares):
        raise ConfigError(f"{field}: {path}, column 'share': got only 0, want one above 0")
    return Population(str(path), tuple(k for k, _ in kinds), shares, str(path), OWN)


def _kind(table: str, number: int, row: Mapping[str, Any]) -> tuple[Phone, float]:
    """One row of a table: the phone and its share."""
    found: dict[str, Any] = {}
    for header, value in row.items():
        column, _, unit = (part.strip() for part in str(header).partition("["))
        where = f"{table}, column {column!r}"
        if column in UNITS:
            unit, known = unit.rstrip("]").strip(), UNITS[column]
            if unit not in known:
                example = f"'{column} [{next(iter(known))}]'"
                got = repr(unit) if unit else "no unit"
                raise ConfigError(f"{where}: got {got}, want one of {', '.join(known)}, as in {example}")
            scale = known[unit]
        elif column in PLAIN:
            scale = 1.0
        else:
            raise ConfigError(f"{where}: got no such column, want one of {', '.join((*PLAIN, *UNITS))}")
        if column in found:
            raise ConfigError(f"{where}: got it twice, want it once")
        if column == "name":
            found[column] = str(value)
            continue
        try:
            found[column] = float(value) * scale
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: got {value!r} in row {number}, want a number") from None
        zero = column in ("base", "share", "spread", "variation", "power", "energy")
        if not math.isfinite(found[column]) or found[column] < 0 or (found[column] == 0 and not zero):
            want = "at least 0" if zero else "above 0"
            raise ConfigError(f"{where}: got {value} in row {number}, want {want}")
    missing = [column for column in REQUIRED if column not in found]
    if missing:
        raise ConfigError(f"{table} got no column {missing[0]!r}, want {', '.join(REQUIRED)}")
    variation = found.get("variation", 0.0)
    built = Phone(
        found["name"],
        found["base"],
        found["speed"],
        found.get("training", COUNTED),
        found.get("spread", 0.0),
        Link((found["down"],), variation),
        Link((found["up"],), variation),
        found.get("power"),
        found.get("energy"),
    )
    return built, found.get("share", 1.0)
