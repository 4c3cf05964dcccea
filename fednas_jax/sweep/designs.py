"""Trials as plain data: a trial is a dict of dotted config fields and values, a design a list of trials. No jax here.

grid({"method": ["fednas", "naive"], "data.alpha": [0.1, 1.0], "seed": range(3)})  # 12 trials
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from scipy.stats import qmc

from fednas_jax.config.bounds import shown
from fednas_jax.errors import ConfigError
from fednas_jax.forms import MOST

Trial = dict[str, Any]

MOST_TRIALS = 100_000  # of a sweep
_DIGITS = 4  # significant ones of a number that was drawn: enough to tell trials apart, few enough for their names


def grid(fields: Mapping[str, Iterable[Any]]) -> list[Trial]:
    """Every combination of the fields' values; the last field's change first.

    Args:
      fields: dotted field -> its values.

    Raises:
      ConfigError: there are no fields, a field has no values, or there would be more than 100,000 trials.
    """
    columns = _columns("grid", fields)
    _check_number("grid", math.prod(map(len, columns.values())))
    return [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]


def zipped(fields: Mapping[str, Iterable[Any]]) -> list[Trial]:
    """The fields' first values together, then their second ones, and so on.

    Args:
      fields: dotted field -> its values, as many of each.

    Raises:
      ConfigError: there are no fields or values, or of one field more than of another.
    """
    columns = _columns("zip", fields)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise ConfigError(f"zip: got {got}, want as many values of each field")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def crossed(*designs: Iterable[Trial]) -> list[Trial]:
    """Every trial of the first design with every one of the next, and so on; a later one's fields take precedence.

    Raises:
      ConfigError: a design has no trials, or there would be more than 100,000.
    """
    lists = [list(design) for design in designs]
    _check_number("crossed", math.prod(map(len, lists)))
    return [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*lists)]


def chained(*designs: Iterable[Trial]) -> list[Trial]:
    """The trials of the first design, then those of the next, and so on.

    Raises:
      ConfigError: there are no trials, or more than 100,000.
    """
    trials = [trial for design in designs for trial in design]
    _check_number("chained", len(trials))
    return trials


def sampled(fields: Mapping[str, Any], count: int, seed: int = 0) -> list[Trial]:
    """Trials with values drawn at random. More of them leave the first ones as they are.

    Args:
      fields: dotted field -> a list, of which each value is as likely; or {"low": a, "high": b}, a number between, with
        "log": True evenly by its logarithm, with "whole": True a whole number, both ends included. Numbers are rounded
        to four significant digits.
      count: number of trials.
      seed: of the draws; the trials' own seed is a field like any other.

    Raises:
      ConfigError: there are no fields, a field's values cannot be drawn from, or count is not 1 to 100,000.
    """
    return _drawn("random", fields, count, seed, lambda d: np.random.default_rng(seed).random((count, d)))


def sobol(fields: Mapping[str, Any], count: int, seed: int = 0) -> list[Trial]:
    """As `sampled`, of a scrambled Sobol sequence, which covers the space more evenly; best are powers of two.

    Args:
      fields: as of `sampled`.
      count: number of trials.
      seed: of the scrambling.

    Raises:
      ConfigError: as `sampled`.
    """

    def points(d: int) -> np.ndarray:
        return qmc.Sobol(d, scramble=True, seed=seed).random_base2(max(0, count - 1).bit_length())[:count]

    return _drawn("sobol", fields, count, seed, points)


def plain(value: Any) -> Any:
    """A value without numpy's types, tuples as lists."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _columns(what: str, fields: Any) -> dict[str, list[Any]]:
    if not isinstance(fields, Mapping) or not fields:
        raise ConfigError(f"{what}: got {shown(fields)}, want fields with their values")
    columns: dict[str, list[Any]] = {}
    for name, values in fields.items():
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise ConfigError(f"{what}: {str(name)[:100]}: got {shown(values)}, want a list of values")
        column = list(itertools.islice(values, MOST_TRIALS + 1))
        if len(column) > MOST_TRIALS:
            raise ConfigError(f"{what}: {str(name)[:100]}: got more than {MOST_TRIALS:,} values, want at most so many")
        if not column:
            raise ConfigError(f"{what}: {str(name)[:100]}: got no values, want at least one")
        columns[str(name)] = [plain(value) for value in column]
    return columns


def _check_number(what: str, number: int) -> None:
    if not 1 <= number <= MOST_TRIALS:
        raise ConfigError(f"{what}: got {number:,} trials, want 1 to {MOST_TRIALS:,}")


def _drawn(what: str, fields: Any, count: int, seed: int, points: Callable[[int], np.ndarray]) -> list[Trial]:
    if not isinstance(fields, Mapping) or not fields:
        raise ConfigError(f"{what}: got {shown(fields)}, want fields with what to draw from")
    for name, value in (("count", count), ("seed", seed)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{what}: {name}: got {shown(value)}, want a whole number from 0")
    _check_number(what, count)
    quantiles = {str(name): _quantile(f"{what}: {str(name)[:100]}", wanted) for name, wanted in fields.items()}
    return [
        {name: quantile(float(u)) for (name, quantile), u in zip(quantiles.items(), row, strict=True)}
        for row in points(len(quantiles))
    ]


def _quantile(what: str, wanted: Any) -> Callable[[float], Any]:
    """A number in [0, 1) -> the value at that share of the distribution."""
    if not isinstance(wanted, Mapping):
        if isinstance(wanted, str) or not isinstance(wanted, Iterable) or not (values := plain(list(wanted))):
            raise ConfigError(f"{what}: got {shown(wanted)}, want a list of values, or low and high")
        return lambda u: values[int(u * len(values))]
    known = {"low", "high", "log", "whole"}
    if set(wanted) - known or not {"low", "high"} <= set(wanted):
        raise ConfigError(f"{what}: got {', '.join(map(str, wanted)) or 'nothing'}, want low, high, log and whole")
    low, high, log, whole = (wanted.get(name, False) for name in ("low", "high", "log", "whole"))
    for name, value in (("low", low), ("high", high)):
        right = isinstance(value, int if whole is True else int | float) and not isinstance(value, bool)
        if not right or not -MOST <= value <= MOST:
            want = f"want a {'whole ' if whole is True else ''}number of at most {MOST:g}"
            raise ConfigError(f"{what}: {name}: got {shown(value)}, {want}")
    if not isinstance(log, bool) or not isinstance(whole, bool):
        raise ConfigError(f"{what}: got log {shown(log)} and whole {shown(whole)}, want true or false")
    if not low < high or (log and low <= 0):
        raise ConfigError(f"{what}: got {low} to {high}, want low below high{', both above 0' if log else ''}")
    first, last = (low, high + 1) if whole else (low, high)  # of whole numbers each has an interval of its own

    def quantile(u: float) -> float:
        value = first * (last / first) ** u if log else first + (last - first) * u
        # Rounding may lead out of the interval.
        return min(high, math.floor(value)) if whole else min(high, max(low, float(f"{value:.{_DIGITS}g}")))

    return quantile
