"""One search, many tiers: each class of phones gets the best member of a finished run's family that fits its budget.

No network is built: latency follows from the members' MACs (a phone's fit) or widths (a lookup table).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import write_json
from fednas_jax.phones import devices
from fednas_jax.run.folder import RunDir
from fednas_jax.search import lut

FIELDS = ("name", "device", "budget_ms", "budget_ratio", "clients")


@dataclass(frozen=True)
class Tier:
    """A class of phones."""

    name: str
    device: str  # a measured phone, FILE:NAME of a table of one's own, or the .json of `fednas latency`
    budget_ms: float | None  # milliseconds of a forward pass at batch 1; None: budget_ratio
    budget_ratio: float | None  # of the parent's latency on this device
    clients: int  # phones of this class


@dataclass(frozen=True)
class Choice:
    """What a tier runs; where no member fits, `iteration` and what follows is None."""

    tier: Tier
    budget_ms: float
    least_ms: float  # of the fastest member
    iteration: int | None  # 0 is the parent
    widths: dict[str, int] | None
    ms: float | None
    score: float | None  # validation accuracy, by which it was chosen
    test_accuracy: float | None


def assign(run: Path, tiers: Sequence[Tier]) -> list[Choice]:
    """Chooses for each tier and writes RUN/tiers.json.

    Among the members that were fine-tuned and tested, and fit the budget, the one of the best validation score; of
    equals the fastest. Test accuracy is reported, never chosen by.

    Raises:
      RunError: there is no finished run, or none of its networks was tested.
      ConfigError: a device is not in the table, or a lookup table is of another network.
    """
    folder = RunDir(run)
    folder.config()  # says so where there is no run
    result = folder.result()
    if result is None:
        raise RunError(f"{run}: is not finished, want a finished run: repeat its fednas search command to go on")
    chosen = [choose(result, json.loads((folder.model(0) / "widths.json").read_text())["network"], t) for t in tiers]
    write_json(run / "tiers.json", {"tiers": [asdict(choice) for choice in chosen]})
    return chosen


def assigned(run: Path) -> list[Choice]:
    """What `assign` wrote into a run's folder last; nothing where it never did."""
    path = run / "tiers.json"
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["tiers"]
    return [Choice(**(row | {"tier": Tier(**row["tier"])})) for row in rows]


def choose(result: dict[str, Any], network: str, tier: Tier) -> Choice:
    """The member of a run's result that a tier gets; raises as `assign`."""
    members = [m for m in (result["parent"], *result["models"]) if m["test_accuracy"] is not None]
    if not members:
        raise RunError("tiers: no network of this run was fine-tuned and tested, want at least one (finetune.members)")
    ms = {m["iteration"]: _latency(tier, network, m) for m in members}
    if tier.budget_ms is not None:
        budget = tier.budget_ms
    else:
        assert tier.budget_ratio is not None
        budget = tier.budget_ratio * _latency(tier, network, result["parent"])
    least = min(ms.values())
    fits = [m for m in members if ms[m["iteration"]] <= budget]
    if not fits:
        return Choice(tier, budget, least, None, None, None, None, None)
    best = max(fits, key=lambda m: (m["score"], -ms[m["iteration"]]))
    number = best["iteration"]
    return Choice(tier, budget, least, number, best["widths"], ms[number], best["score"], best["test_accuracy"])


def read(path: Path) -> list[Tier]:
    """Tiers from a JSON file, a list of objects with the FIELDS; of the two budgets each has one.

    Raises:
      ConfigError: the file, a field, or a value cannot be used.
    """
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"tiers: {path} cannot be read: {said}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"tiers: {path} got no list of objects, want one for each tier with {', '.join(FIELDS)}")
    found = [_tier(f"tiers: {path}, tier {row.get('name', number)!r}", row) for number, row in enumerate(rows, 1)]
    names = [tier.name for tier in found]
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ConfigError(f"tiers: {path} got two tiers named {twice[0]!r}, want different names")
    return found


def _tier(where: str, row: dict[str, Any]) -> Tier:
    if "budget" in row:
        raise ConfigError(f"{where}: got 'budget' without a unit, want budget_ms or budget_ratio (of the parent's)")
    unknown = [field for field in row if field not in FIELDS]
    if unknown:
        raise ConfigError(f"{where}: got {unknown[0]!r}, want only {', '.join(FIELDS)}")
    for field in ("name", "device"):
        if not isinstance(row.get(field), str) or not row[field]:
            raise ConfigError(f"{where}, {field}: got {row.get(field)!r}, want text")
    given = [field for field in ("budget_ms", "budget_ratio") if row.get(field) is not None]
    if len(given) != 1:
        raise ConfigError(f"{where}: got {' and '.join(given) or 'no budget'}, want one of budget_ms, budget_ratio")
    value, clients = row[given[0]], row.get("clients", 1)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{where}, {given[0]}: got {value!r}, want a number above 0")
    if not isinstance(clients, int) or isinstance(clients, bool) or clients < 1:
        raise ConfigError(f"{where}, clients: got {clients!r}, want a whole number of at least 1")
    if Path(row["device"]).suffix == ".json":
        lut.read(Path(row["device"]), f"{where}, device")
    else:
        devices.phone(row["device"], f"{where}, device")
    return Tier(row["name"], row["device"], row.get("budget_ms"), row.get("budget_ratio"), clients)


def _latency(tier: Tier, network: str, member: dict[str, Any]) -> float:
    """Milliseconds of a forward pass of a member on the tier's device."""
    where = f"tiers: tier {tier.name!r}, device"
    if Path(tier.device).suffix != ".json":
        return float(devices.phone(tier.device, where).latency_ms(member["macs"]))
    table = lut.read(Path(tier.device), where)
    groups, widths = tuple(member["widths"]), tuple(member["widths"].values())
    fits = groups == table.groups and all(w <= most for w, most in zip(widths, table.widths, strict=True))
    if table.network != network or not fits:
        got = f"{tier.device} got {table.network} with widths up to {'-'.join(map(str, table.widths))}"
        raise ConfigError(f"{where}: {got}, want {network} up to {'-'.join(map(str, widths))}, as in this run")
    return table(widths)
