"""What a finished run would have cost on other phones and links: its ledger priced again, without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa

from fednas_jax.config.checks import validate
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config, CostConfig, ParticipationConfig
from fednas_jax.errors import RunError
from fednas_jax.files import as_json, plain_name
from fednas_jax.phones import devices, ledger, pricing, totals
from fednas_jax.run import inputs
from fednas_jax.run.finished import load_run, write_into
from fednas_jax.run.folder import RunDir


def reprice_run(path: Path | str, prices: CostConfig, name: str = "") -> dict[str, Any]:
    """Prices a run's recorded work on other phones, and writes it to RUN/reprice/NAME.json; the run stays as it is.

    Args:
      path: the folder of a finished run.
      prices: phones, links and energy; the run's own give its own ledger again, exactly.
      name: of the file; by default the population's.

    Returns:
      What was written: `cost`; `client_cost`, `wasted` and `simulated_hours` as in result.json; `phases`: seconds of
      all clients by stage and phase; `models`: iteration, client seconds and simulated hours of the search up to there,
      of the parent and every winner.

    Raises:
      RunError: as `load_run`; the run is of a version that recorded less, or who took part in it depended on the
        prices; the name is no file's, or the file cannot be written.
      ConfigError: prices that no run can have.
    """
    run = load_run(path, pretrained=True)
    config, result = run.config, run.result
    file = plain_name(f"{name or Path(prices.population).stem}.json", "--name")
    _refuse_if_priced(run.path, config.participation)
    validate(dataclasses.replace(Config(), cost=prices))  # the run's own fields were judged when it ran
    if prices.population == config.cost.population:
        inputs.check(config, RunDir(run.path).inputs)
    clients = result["clients"]
    population = devices.population(prices, result["parent"]["macs"])
    dealt = devices.sample(population, prices, clients, config.seed)
    tables, clock = [], totals.Clock()
    for part, recorded in run.ledgers():
        if recorded["work"].null_count or recorded["forward"].null_count:
            raise RunError(f"{path}: ledger/{part} is of an older version, want a run of this one: search again")
        table = pricing.reprice(recorded, dealt, config.seed)
        tables.append(table)
        for moment, _, rows in ledger.rounds(table):
            clock = clock.after(moment.stage, moment.iteration, ledger.duration(rows))
    for event in run.events():
        if event["event"] in ("round", "parent"):
            # The server's own time, and what it waited for clients that were away, whatever their phones.
            waited = event.get("waited_seconds", 0.0) + prices.server_seconds * (event["event"] == "round")
            clock = clock.after(event.get("stage", "pretrain"), event.get("iteration", 0), waited)
    whole = pa.concat_tables([ledger.SCHEMA.empty_table(), *tables]).unify_dictionaries()
    spent = totals.summary(whole, clients, len(result["models"]) + 1, clock)
    found = {
        "population": population.name,
        "source": population.source,
        "licence": population.licence,
        "cost": to_json(prices),
        "client_cost": spent.client_cost,
        "wasted": spent.wasted,
        "phases": spent.phases,
        "simulated_hours": spent.simulated_hours,
        "models": [
            {"iteration": n, "client_seconds": seconds, "simulated_hours": until}
            for n, (seconds, until) in enumerate(zip(spent.client_seconds, spent.hours, strict=True))
        ],
    }
    write_into(run.path, f"reprice/{file}", as_json(found))
    return found


def _refuse_if_priced(path: Path, chosen: ParticipationConfig) -> None:
    """Other phones would have been late, or there at other times: other clients would have been averaged."""
    for name in chosen.timed:
        got = f"{path}: participation.{name}: got {getattr(chosen, name)}"
        raise RunError(
            f"{got}, want its default: who took part depended on the phones; search again with the other population"
        )
