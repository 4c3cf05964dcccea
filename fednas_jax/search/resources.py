"""What a budget can limit: resources as functions of the widths, with units, and the goal made of one or several.

Letters: G width groups; a resource takes widths [..., G] on the host and gives a number, or numbers [...].
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fednas_jax.config.checks import Limit, limits
from fednas_jax.config.registries import RESOURCES
from fednas_jax.config.schema import CostConfig, SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.phones import devices
from fednas_jax.registry import attempt, own_module
from fednas_jax.search import lut
from fednas_jax.search.memory import peak_table
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths

FIELD = RESOURCES.field  # whose value a message is about


@dataclass(frozen=True)
class Resource:
    """A resource by its name in the config; `of` gives R of widths [..., G]."""

    name: str
    unit: str
    of: Callable[[Any], Any]

    def __call__(self, widths: Any) -> Any:
        """R of widths [..., G]."""
        return self.of(widths)


@dataclass(frozen=True)
class Goal:
    """Resources and the budget of each, in its unit. All must hold at the end."""

    resources: tuple[Resource, ...]
    budgets: tuple[float, ...]
    whole: tuple[float, ...]  # what the parent of the search needs

    def most_exceeded(self, widths: Widths) -> Resource:
        """The resource that exceeds its budget by the largest factor: the one that is brought down next."""
        excess = [resource(widths) / budget for resource, budget in zip(self.resources, self.budgets, strict=True)]
        return self.resources[excess.index(max(excess))]

    def reached(self, widths: Widths) -> bool:
        """Whether every budget holds."""
        return all(resource(widths) <= budget for resource, budget in zip(self.resources, self.budgets, strict=True))

    def progress(self, widths: Widths) -> float:
        """How much of the way to the budget that is farthest is done, 0 to 1."""
        return min(
            min(1.0, max(0.0, (whole - resource(widths)) / ((whole - budget) or 1.0)))  # a latency may rise meanwhile
            for resource, budget, whole in zip(self.resources, self.budgets, self.whole, strict=True)
        )


def resource_of(space: Space, name: str, cost: CostConfig) -> Resource:
    """A resource by its name in the config.

    One of the user's own is a function (space, cost) -> Resource, or (device, space, cost) where it is registered and
    named with a device after a colon. Its `of` is given int64 [..., G] and returns numbers [...].

    Args:
      space: the network and its costs.
      name: such as 'latency:pixel2'.
      cost: says the watts of devices whose table does not.

    Raises:
      ConfigError: there is no such resource; the device is not in the table, or its lookup table is missing, broken, or
        of another network; or the user's own does not return what a budget can limit.
    """
    found = RESOURCES.get(name)(space, cost)
    if not isinstance(found, Resource):
        raise ConfigError(f"{FIELD}: {name} returned {type(found).__name__}, want a Resource (docs/extend.md)")
    if RESOURCES.checksum(name) is not None:
        found = _tried(space, name, found)
    return dataclasses.replace(found, name=name)


def register_resource(name: str, unit: str, function: Callable[[Any], Any]) -> None:
    """Makes a function of widths known as a resource, in this process.

    Args:
      name: for `search.resource`.
      unit: of its numbers, as in 'ms'.
      function: widths int64 [..., G], in the order of the network's groups, to numbers [...].

    Raises:
      ConfigError: the name is taken or none.
    """

    @functools.wraps(function)
    def made(space: Space, cost: CostConfig) -> Resource:
        return Resource(name, unit, function)

    RESOURCES.register(name, made)


def macs(space: Space, cost: CostConfig) -> Resource:
    """Multiply-accumulates of a forward pass of one example, exact."""
    return Resource("macs", "MACs", space.macs)


def params(space: Space, cost: CostConfig) -> Resource:
    """Trainable numbers, exact."""
    return Resource("params", "parameters", space.params)


def size(space: Space, cost: CostConfig) -> Resource:
    """Bytes of parameters and statistics, exact: what a client downloads or uploads."""
    return Resource("bytes", "bytes", space.size)


def activations(space: Space, cost: CostConfig) -> Resource:
    """Bytes of activations at their peak, at batch 1 (`memory.peak_table`)."""
    return Resource("memory", "bytes", peak_table(space))


def milliseconds(device: str, space: Space, cost: CostConfig) -> Resource:
    """Latency of a forward pass at batch 1.

    By a phone's fit a + b x MMAC (`devices.phone`) or, where the device is a .json file, by the lookup table that
    `fednas latency` measured.
    """
    return Resource("latency", "ms", _latency(space, device))


def millijoules(device: str, space: Space, cost: CostConfig) -> Resource:
    """Energy of a forward pass: its latency times the watts of the phone, or else of `cost.watts`."""
    latency = _latency(space, device)
    own = None if Path(device).suffix == ".json" else devices.phone(device, FIELD).watts
    watts = cost.watts if own is None else own
    return Resource("energy", "mJ", lambda widths: watts * latency(widths))


def goal_of(space: Space, search: SearchConfig, cost: CostConfig | None = None, check: bool = True) -> Goal:
    """The resources and budgets of a search.

    Args:
      space: the network and its costs.
      search: names and budgets.
      cost: says the watts of devices whose table does not; the defaults where none is given.
      check: refuse budgets that no widths can meet, or that the parent is below.

    Raises:
      ConfigError: as `resource_of`; or, checked, the smallest widths need more than a budget, or the parent less.
    """
    wanted = limits(search)
    resources = tuple(resource_of(space, limit.resource, cost or CostConfig()) for limit in wanted)
    whole = tuple(resource(space.widths) for resource in resources)
    if check:
        for resource, limit in zip(resources, wanted, strict=True):
            _check(space, resource, limit)
    budgets = (
        limit.ratio * most if limit.absolute is None else limit.absolute
        for limit, most in zip(wanted, whole, strict=True)
    )
    return Goal(resources, tuple(map(float, budgets)), whole)


def _tried(space: Space, name: str, found: Resource) -> Resource:
    """A resource of the user's own, tried out: it gives Python's numbers, and errors of one line."""
    what = f"{FIELD}: {name}"
    module = own_module(name, FIELD) if RESOURCES.parse(name).own else None
    if not isinstance(found.unit, str) or not found.unit:
        raise ConfigError(f"{what} has the unit {found.unit!r}, want a text such as 'ms'")

    def of(widths: Any) -> Any:
        w = np.asarray(widths, np.int64)
        values = np.asarray(attempt(what, module, lambda: found.of(w)))
        if values.shape != w.shape[:-1]:
            got = f"gives {values.shape} for widths {w.shape}"
            raise ConfigError(f"{what} {got}, want {w.shape[:-1]}: a number for each [..., groups]")
        if values.dtype.kind in "fiu" and not np.isfinite(values).all():
            bad = w[~np.isfinite(values)][0] if values.ndim else w
            raise ConfigError(f"{what} gives what is no finite number at widths {_text(tuple(bad))}, want one")
        return values.item() if values.ndim == 0 else values

    both = np.asarray([space.widths, space.smallest])
    together, (whole, least) = of(both), (of(w) for w in both)
    for value, widths in ((whole, space.widths), (least, space.smallest)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"{what} gives {value!r} at widths {_text(widths)}, want a number, at least 0 and finite")
    if (together[0], together[1]) != (whole, least):
        raise ConfigError(f"{what} gives {together.tolist()} for two widths at once, want {[whole, least]} as alone")
    if whole <= least:
        got = f"gives {whole} at the parent's widths and {least} at the smallest"
        raise ConfigError(f"{what} {got}, want more at the parent's")
    return Resource(name, found.unit, of)


def _latency(space: Space, device: str) -> Callable[[Any], Any]:
    """Milliseconds of widths [..., G] on a device."""
    if Path(device).suffix != ".json":
        phone = devices.phone(device, FIELD)
        return lambda widths: phone.latency_ms(space.macs(widths))
    table = lut.read(Path(device), FIELD)
    for what, there, here in (
        ("network", (table.network,), (space.network.name,)),
        ("images of", table.input_shape, tuple(space.network.input_shape)),
        ("width groups", table.groups, space.groups),
    ):
        if there != here:
            want = f"want {_text(here)}, as in this search"
            raise ConfigError(f"search.resource: {device} got {what} {_text(there)}, {want}")
    if any(w > most for w, most in zip(space.widths, table.widths, strict=True)):
        got = f"widths up to {_text(table.widths)}"
        raise ConfigError(f"search.resource: {device} got {got}, want up to {_text(space.widths)}, the parent's")
    if table.macs != space.macs(table.widths):
        got = f"{table.macs:,} MACs at widths {_text(table.widths)}"
        want = f"{space.macs(table.widths):,}, as in this search: another network of the same name"
        raise ConfigError(f"search.resource: {device} got {got}, want {want}")
    return table


def _check(space: Space, resource: Resource, limit: Limit) -> None:
    """Refuses a budget that the parent is below or that the smallest widths exceed."""
    whole, least = resource(space.widths), resource(space.smallest)
    if not whole > 0:  # the energy of phones without watts
        raise ConfigError(f"{FIELD}: {resource.name} gives {whole} at the parent's widths, want more than 0")
    if limit.absolute is None:
        fits = limit.ratio * whole >= least
        # Rounded up, so that the number in the message is one that is accepted.
        said = f"search.budget: got {limit.ratio}, want at least {math.ceil(1e4 * least / whole) / 1e4}"
    else:
        got = f"search.budget_absolute: got {limit.absolute}"
        if limit.absolute > whole:
            raise ConfigError(f"{got}, want at most {_number(whole, math.floor)}, the {resource.name} of the parent")
        fits = limit.absolute >= least
        said = f"{got}, want at least {_number(least, math.ceil)}"
    if not fits:
        raise ConfigError(f"{said}, the {resource.name} of the smallest widths")


def _number(value: float, rounded: Callable[[float], int]) -> str:
    return str(value) if isinstance(value, int) else f"{rounded(1e4 * value) / 1e4}"


def _text(values: tuple[Any, ...]) -> str:
    return "-".join(map(str, values))
