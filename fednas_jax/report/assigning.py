"""One search, many tiers: each class of phones gets the best member of a finished run's family that fits its budget.

No network is built: latency follows from the members' MACs (a phone's fit) or widths (a lookup table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fednas_jax import forms
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import as_json, read_json
from fednas_jax.phones import devices
from fednas_jax.run import records
from fednas_jax.run.finished import load_run, members, write_into
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
    score: float | None  # validation, by which it was chosen
    test_accuracy: float | None


def tiers(run: Path | str, wanted: Sequence[Tier]) -> list[Choice]:
    """Chooses for each class of phones the member of a finished run's family that it runs; writes nothing.

    Among the members that were fine-tuned and tested, and fit the budget, the one of the best validation score; of
    equals the fastest. Test accuracy is reported, never chosen by.

    Args:
      run: its folder.
      wanted: classes of phones, such as `read_tiers` gives.

    Raises:
      RunError: as `load_run`, or none of the run's networks was tested.
      ConfigError: a device is not in the table, or a lookup table is of another network.
    """
    found = load_run(run)
    network = forms.read(RunDir(found.path).model(0) / "widths.json", records.Widths)["network"]
    return [choose(found.result, network, tier) for tier in wanted]


def assign(run: Path | str, wanted: Sequence[Tier]) -> list[Choice]:
    """As `tiers`, and writes RUN/tiers.json."""
    chosen = tiers(run, wanted)
    write_into(Path(run), "tiers.json", as_json({"tiers": [asdict(choice) for choice in chosen]}))
    return chosen


def assigned(run: Path) -> list[Choice]:
    """What `assign` wrote into a run's folder last; nothing where it never did.

    Raises:
      RunError: it is damaged, or of another form.
    """
    path = run / "tiers.json"
    if not path.exists():
        return []
    found = []
    for number, row in enumerate(forms.read(path, records.Tiers)["tiers"]):
        known = {name: row[name] for name in Choice.__annotations__}
        if len({known[name] is None for name in ("iteration", "widths", "ms", "score", "test_accuracy")}) > 1:
            raise RunError(f"{path}: tiers[{number}]: got a part of a member, want all of it or nothing")
        tier = Tier(**{name: row["tier"][name] for name in FIELDS})
        found.append(Choice(**(known | {"tier": tier})))
    return found


def choose(result: dict[str, Any], network: str, tier: Tier) -> Choice:
    """The member of a run's result that a tier gets; raises as `assign`."""
    tested = [m for m in members(result) if m["test_accuracy"] is not None]
    if not tested:
        raise RunError("tiers: no network of this run was fine-tuned and tested, want at least one (finetune.members)")
    ms = {m["iteration"]: _latency(tier, network, m) for m in tested}
    if tier.budget_ms is not None:
        budget = tier.budget_ms
    else:
        assert tier.budget_ratio is not None
        budget = tier.budget_ratio * _latency(tier, network, result["parent"])
    least = min(ms.values())
    fits = [m for m in tested if ms[m["iteration"]] <= budget]
    if not fits:
        return Choice(tier, budget, least, None, None, None, None, None)
    best = max(fits, key=lambda m: (m["score"], -ms[m["iteration"]]))
    number = best["iteration"]
    return Choice(tier, budget, least, number, best["widths"], ms[number], best["score"], best["test_accuracy"])


def read_tiers(path: Path) -> list[Tier]:
    """Tiers from a JSON file, a list of objects with the FIELDS; of the two budgets each has one.

    Raises:
      ConfigError: the file, a field, or a value cannot be used.
    """
    try:
        rows = read_json(path, ConfigError)
    except ConfigError as error:
        raise ConfigError(f"tiers: {error}") from None
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
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= forms.MOST:
        raise ConfigError(f"{where}, {given[0]}: got {value!r}, want a number above 0")
    if not isinstance(clients, int) or isinstance(clients, bool) or not 1 <= clients <= forms.MOST:
        raise ConfigError(f"{where}, clients: got {clients!r}, want a whole number of at least 1")
    lut.on_device(row["device"], f"{where}, device")
    return Tier(row["name"], row["device"], row.get("budget_ms"), row.get("budget_ratio"), clients)


def _latency(tier: Tier, network: str, member: dict[str, Any]) -> float:
    """Milliseconds of a forward pass of a member on the tier's device."""
    where = f"tiers: tier {tier.name!r}, device"
    table = lut.on_device(tier.device, where)
    if isinstance(table, devices.Phone):
        return float(table.latency_ms(member["macs"]))
    groups, widths = tuple(member["widths"]), tuple(member["widths"].values())
    fits = groups == table.groups and all(w <= most for w, most in zip(widths, table.widths, strict=True))
    if table.network != network or not fits:
        got = f"{tier.device} got {table.network} with widths up to {'-'.join(map(str, table.widths))}"
        raise ConfigError(f"{where}: {got}, want {network} up to {'-'.join(map(str, widths))}, as in this run")
    return table(widths)
