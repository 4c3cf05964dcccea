"""The whole of `fednas bench`: workload by workload, setting by setting, to the console and to a file."""

from __future__ import annotations

import sys
from typing import Any

import jax
from rich.console import Console

from fednas_jax.bench import tables
from fednas_jax.bench.machine import copy_limit, describe, product_limit, some_devices
from fednas_jax.bench.measuring import measure
from fednas_jax.bench.options import BenchOptions, check, chosen, sweep
from fednas_jax.bench.peers import Peers
from fednas_jax.bench.roofline import Roofline
from fednas_jax.bench.rounds import Federation
from fednas_jax.bench.workloads import Workload
from fednas_jax.config import files
from fednas_jax.errors import TrainingError
from fednas_jax.files import write_json
from fednas_jax.runtime import cores

EVEN_FROM = 1_000  # clients from which on a client should take the same time, however many there are


def run_bench(options: BenchOptions, console: Console) -> dict[str, Any]:
    """Measures what the options ask for and returns what stands in their `out`, if they name one.

    Raises:
      ConfigError: an option that cannot be had.
      TrainingError: a single setting does not fit into the device's memory, or a peer computes something else.
    """
    check(options)
    cores.use_all_cores()
    devices = some_devices(options.devices)
    report: dict[str, Any] = {
        "options": files.to_json(options),
        "machine": describe(devices),
        "workloads": [],
    }
    tables.print_machine(console, report)
    peers = Peers(str(options.torch_python or sys.executable)) if options.peers else None
    try:
        for workload in chosen(options):
            report["workloads"].append(_run(options, workload, devices, peers))
            tables.print_workload(console, report["workloads"][-1])
            if options.out is not None:
                write_json(options.out, report)
    finally:
        if peers is not None:
            peers.close()
    return report


def _run(options: BenchOptions, workload: Workload, devices: list[jax.Device], peers: Peers | None) -> dict[str, Any]:
    """One workload's rows: a row for each number of lanes and each number of clients."""
    engines, rows = sweep(options), []
    # For each workload anew: a machine that others use too is not always as fast.
    roof = Roofline(product_limit(devices, workload.train), copy_limit(devices))
    often = (roof, options.seconds, options.repeats)
    ladder = workload.ladder or (workload.clients,)
    # Comparisons and the trace are for the best number of lanes, and not for the longer steps of a ladder.
    extras = (
        options.sequential and not workload.ladder,
        options.profile and options.profile / workload.name,
        None if workload.ladder or workload.on_disk else peers,
    )
    for clients in ladder:
        federation = Federation(workload, clients, options.seed)
        for engine in engines:
            alone = len(engines) == 1 and clients == ladder[0]
            try:
                rows.append(measure(federation, engine, devices, *often, *(extras if alone else ())))
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                if not rows:
                    text = f"lanes: {engine.lanes or 'the usual number'} of {workload.name}, {clients} clients"
                    raise TrainingError(f"{text}, need more memory than the device has, want fewer") from error
                rows.append({"clients": clients, "lanes": engine.lanes, "error": "out of memory"})
                break  # more lanes need more
    result = {
        "name": workload.name,
        "about": workload.about,
        "definition": files.to_json(workload),
        "product_limit_flop_per_second": roof.flop_per_second,
        "copy_limit_bytes_per_second": roof.bytes_per_second,
        "rows": rows,
        "best": None,
        "evenness": _evenness(rows),
    }
    if len(engines) > 1 and any(extras):
        there = [row for row in rows if "error" not in row and row["clients"] == ladder[0]]
        lanes = max(there, key=lambda row: row["examples_per_second"])["lanes"]
        federation = Federation(workload, ladder[0], options.seed)
        engine = next(e for e in engines if e.lanes == lanes)
        result["best"] = measure(federation, engine, devices, *often, *extras)
    return result


def _evenness(rows: list[dict[str, Any]]) -> float | None:
    """Most seconds a client divided by fewest, over the numbers of clients from EVEN_FROM; None for less than two."""
    by_clients: dict[int, float] = {}
    for row in rows:
        if "error" not in row and row["clients"] >= EVEN_FROM:
            seconds = row["seconds_per_client"]
            by_clients[row["clients"]] = min(seconds, by_clients.get(row["clients"], seconds))
    return max(by_clients.values()) / min(by_clients.values()) if len(by_clients) > 1 else None
