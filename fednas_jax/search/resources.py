"""What a budget can limit: resources as functions of the widths, with units, and the goal made of one or several.

Letters: G width groups; a resource takes widths [..., G] on the host and gives a number, or numbers [...].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fednas_jax.config.checks import Limit, limits
from fednas_jax.config.schema import CostConfig, SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.phones import devices
from fednas_jax.search import lut
from fednas_jax.search.memory import peak_table
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths

FIELD = "search.resource"  # whose value a message is about


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
            min(1.0, (whole - resource(widths)) / ((whole - budget) or 1.0))
            for resource, budget, whole in zip(self.resources, self.budgets, self.whole, strict=True)
        )


def resource_of(space: Space, name: str, cost: CostConfig) -> Resource:
    """A resource by its name in the config.

    - `macs`, `params`, `bytes` (parameters and statistics): exact integers.
    - `memory`: bytes of activations at their peak, at batch 1 (see `memory.peak_table`).
    - `latency:DEVICE`: milliseconds of a forward pass at batch 1, by a phone's fit a + b x MMAC (`devices.phone`) or,
      where DEVICE is a .json file, by the lookup table that `fednas latency` measured.
    - `energy:DEVICE`: that latency times the watts of the phone, or else of `cost.watts`: millijoules.

    Args:
      space: the network and its costs.
      name: such as 'latency:pixel2'.
      cost: says the watts of devices whose table does not.

    Raises:
      ConfigError: the device is not in the table, or its lookup table is missing, broken, or of another network.
    """
    kind, _, device = name.partition(":")
    if kind in ("macs", "params", "bytes"):
        return Resource(name, {"macs": "MACs", "params": "parameters", "bytes": "bytes"}[kind], space.resource(kind))
    if kind == "memory":
        return Resource(name, "bytes", peak_table(space.network, space.widths))
    latency = _latency(space, device)
    if kind == "latency":
        return Resource(name, "ms", latency)
    source = lut.on_device(device, FIELD)
    own = source.watts if isinstance(source, devices.Phone) else None
    watts = cost.watts if own is None else own
    return Resource(name, "mJ", lambda widths: watts * latency(widths))


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


def _latency(space: Space, device: str) -> Callable[[Any], Any]:
    """Milliseconds of widths [..., G] on a device."""
    source = lut.on_device(device, FIELD)
    if isinstance(source, devices.Phone):
        phone = source
        return lambda widths: phone.latency_ms(space.macs(widths))
    table = source
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
