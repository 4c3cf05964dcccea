"""What a finished run would have cost on other phones and links: its ledger priced again, without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fednas_jax.config.checks import validate
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import CostConfig, ParticipationConfig
from fednas_jax.errors import RunError
from fednas_jax.files import write_json
from fednas_jax.phones import devices, ledger, pricing, totals
from fednas_jax.run import inputs
from fednas_jax.run.folder import RunDir


def reprice_run(path: Path, prices: CostConfig, name: str = "") -> dict[str, Any]:
    """Prices a run's recorded work on other phones, and writes it to RUN/reprice/NAME.json; the run stays as it is.

    Args:
      path: the folder of a finished run.
      prices: phones, links and energy; the run's own give its own ledger again, exactly.
      name: of the file; by default the population's.

    Returns:
      What was written: `cost`; `client_cost`, `wasted` and `simulated_hours` as in result.json; `models`: iteration,
      client seconds and simulated hours of the search up to there, of the parent and every winner.

    Raises:
      RunError: the run is unfinished, of a version that recorded less, or who took part in it depended on the prices.
      ConfigError: prices that no run can have.
    """
    run = RunDir(path)
    config, result = run.config(), run.result()
    if result is None:
        raise RunError(f"{path}: is not finished, want a finished run: repeat its fednas search command to go on")
    _refuse_if_priced(path, config.participation)
    validate(dataclasses.replace(config, cost=prices))
    if prices.population == config.cost.population:
        inputs.check(config, run.inputs)
    clients = result["clients"]
    population = devices.population(prices, result["parent"]["macs"])
    dealt = devices.sample(population, prices, clients, config.seed)
    tables, hours = [], dict.fromkeys(ledger.STAGES, 0.0)
    each = np.zeros(len(result["models"]) + 1)

    def last(stage: str, iteration: int, seconds: float) -> None:
        hours[stage] += seconds / 3600
        if stage == "search":
            each[iteration] += seconds / 3600

    for file, recorded in ledger.read_files(run.ledger):
        if recorded["work"].null_count or recorded["forward"].null_count:
            raise RunError(f"{path}: ledger/{file} is of an older version, want a run of this one: search again")
        table = pricing.reprice(recorded, dealt, config.seed)
        tables.append(table)
        for moment, _, rows in ledger.rounds(table):
            last(moment.stage, moment.iteration, ledger.duration(rows))
    for event in run.events():
        if event["event"] in ("round", "parent"):
            # The server's own time, and what it waited for clients that were away, whatever their phones.
            waited = event.get("waited_seconds", 0.0) + prices.server_seconds * (event["event"] == "round")
            last(event.get("stage", "pretrain"), event.get("iteration", 0), waited)
    whole = pa.concat_tables([ledger.SCHEMA.empty_table(), *tables]).unify_dictionaries()
    spent = totals.search_seconds(whole, len(each), clients)
    found = {
        "population": population.name,
        "source": population.source,
        "licence": population.licence,
        "cost": to_json(prices),
        "client_cost": totals.client_cost(whole, clients),
        "wasted": totals.wasted(whole),
        "simulated_hours": hours | {"all": sum(hours.values())},
        "models": [
            {"iteration": n, "client_seconds": seconds, "simulated_hours": until}
            for n, (seconds, until) in enumerate(zip(spent, np.cumsum(each).tolist(), strict=True))
        ],
    }
    folder = path / "reprice"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{name or Path(prices.population).stem}.json", found)
    return found


def _refuse_if_priced(path: Path, chosen: ParticipationConfig) -> None:
    """Other phones would have been late, or there at other times: other clients would have been averaged."""
    for name in chosen.timed:
        got = f"{path}: participation.{name}: got {getattr(chosen, name)}"
        raise RunError(
            f"{got}, want its default: who took part depended on the phones; search again with the other population"
        )
