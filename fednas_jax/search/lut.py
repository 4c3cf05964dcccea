"""A lookup table of latency by layer: kept as JSON, read back, interpolated between measured widths. No jax here.

Letters: G width groups, P measured widths of a group. `latency.py` measures such a table.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from fednas_jax.errors import ConfigError
from fednas_jax.files import text_of
from fednas_jax.phones.devices import Phone, phone

SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """A layer's latency on a grid of the widths it depends on."""

    name: str  # what it computes, at the parent's widths
    groups: tuple[str, ...]  # the width groups it depends on
    points: tuple[tuple[int, ...], ...]  # for each of them the measured widths [P], rising
    ms: tuple[Any, ...]  # nested [P of the first group][P of the second]...: milliseconds, without the call's own


@dataclass(frozen=True)
class Whole:
    """A whole network at random widths: measured, and what the table says of it."""

    widths: tuple[int, ...]  # [G]
    measured_ms: float
    predicted_ms: float


@dataclass(frozen=True)
class Table:
    """Latency of a family of networks at batch 1 on one device: base_ms + scale x the sum of its layers'."""

    network: str
    input_shape: tuple[int, ...]
    groups: tuple[str, ...]  # [G]
    widths: tuple[int, ...]  # [G] the largest measured
    macs: int  # of one forward pass at those widths: tells whether another network is the same
    device: str
    layers: tuple[Layer, ...]
    base_ms: float  # fitted to whole networks: the call, and what layers side by side save or cost
    scale: float  # fitted to whole networks
    checked: tuple[Whole, ...]  # networks that the fit has not seen

    @property
    def errors(self) -> np.ndarray:
        """Relative errors of the checked networks: predicted / measured - 1."""
        return np.asarray([w.predicted_ms / w.measured_ms - 1 for w in self.checked])

    def __call__(self, widths: Any) -> Any:
        """Milliseconds at widths [..., G]: a float, or float64 [...]. See `layers_ms` for what lies between points."""
        total = self.base_ms + self.scale * layers_ms(self.groups, self.layers, widths)
        return float(total) if total.ndim == 0 else total


def layers_ms(groups: tuple[str, ...], layers: tuple[Layer, ...], widths: Any) -> np.ndarray:
    """Sum of the layers' milliseconds at widths [..., G], float64 [...].

    Linear between measured widths and constant beyond them. Times are taken as measured: a narrower layer can be
    slower, where the compiler has a worse program for it. A layer without channels (a removed block) takes no time.
    """
    w = np.asarray(widths, np.float64)
    total = np.zeros(w.shape[:-1])
    for layer in layers:
        grid = np.asarray(layer.ms, np.float64)
        # A group measured at one width says nothing about others.
        many = [n for n, points in enumerate(layer.points) if len(points) > 1]
        grid = grid.reshape([len(layer.points[n]) for n in many])
        own = w[..., [groups.index(name) for name in layer.groups]]
        if many:
            points = [layer.points[n] for n in many]
            inside = np.clip(own[..., many], [p[0] for p in points], [p[-1] for p in points])
            ms = RegularGridInterpolator(points, grid)(inside).reshape(w.shape[:-1])
        else:
            ms = grid
        total = total + np.where((own > 0).all(-1), ms, 0.0)
    return total


def to_json(table: Table) -> dict[str, Any]:
    """The table as JSON values, with its errors."""
    errors = np.abs(table.errors)
    about = {"mean_absolute": float(errors.mean()), "largest": float(errors.max())} if len(errors) else {}
    return {"schema": SCHEMA, "unit": "ms", "batch": 1} | asdict(table) | {"relative_error": about}


def read(path: Path, field: str) -> Table:
    """The table that `fednas latency` wrote.

    Args:
      path: of the file.
      field: that named it, for the message.

    Raises:
      ConfigError: the file is missing or no such table.
    """
    want = "want a table that fednas latency wrote"
    try:
        text = text_of(path, field)
    except ConfigError as error:
        raise ConfigError(f"{error}; {want}") from None
    try:
        about = json.loads(text)
        if about.pop("schema") != SCHEMA or about.pop("unit") != "ms" or about.pop("batch") != 1:
            raise ValueError("another schema or unit")
        about.pop("relative_error")
        layers = tuple(Layer(**_tuples(layer)) for layer in about.pop("layers"))
        checked = tuple(Whole(**_tuples(whole)) for whole in about.pop("checked"))
        table = Table(layers=layers, checked=checked, **_tuples(about))
        least = table(table.widths)
        if not math.isfinite(least) or least <= 0:
            raise ValueError(f"{least} ms at its own widths")
        return table
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{field}: {path} got {said or 'no JSON'}, {want}") from None


def on_device(device: str, field: str) -> Phone | Table:
    """What says the latency on a device: a measured phone's fit, or the lookup table that a .json file holds.

    Args:
      device: a phone, FILE:NAME of a table of one's own, or the .json of `fednas latency`.
      field: that named it, for the message.

    Raises:
      ConfigError: there is no such phone, or the file cannot be used.
    """
    return read(Path(device), field) if Path(device).suffix == ".json" else phone(device, field)


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, all the way down."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
