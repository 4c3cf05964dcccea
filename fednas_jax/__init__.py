"""Federated neural architecture search, simulated, with every client's cost in a ledger.

from pathlib import Path
import fednas_jax as fn

result = fn.run_search(fn.preset("digits"), Path("runs/digits"))
"""

import importlib
from typing import Any

# Name -> the module it lives in, MODULE:NAME where it has another name there; imported when first used, so that the
# command line's --help needs no jax.
_HOMES = {
    "Comparison": "report.comparing",
    "Config": "config.schema",
    "EngineConfig": "config.schema",
    "FednasError": "errors",
    "Fleet": "engine.fleet",
    "FleetSpec": "engine.fleet",
    "Model": "run.models",
    "NETWORKS": "nets",
    "Network": "space.network",
    "Run": "run.finished",
    "Space": "space.masks",
    "Tasks": "engine.tasks",
    "Tier": "report.assigning",
    "Variables": "space.network",
    "compare": "report.comparing",
    "from_arrays": "data.arrays",
    "from_linen": "nets",
    "from_nnx": "nets",
    "load_data": "data.sources:load",
    "load_model": "run.models",
    "load_run": "run.finished",
    "load_runs": "report.frames",
    "preset": "config.presets",
    "probe": "space.probing",
    "read_ledger": "run.finished",
    "read_tiers": "report.assigning",
    "register": "nets",
    "reprice_run": "report.reprice",
    "resolve": "config.methods",
    "run_search": "run.loop",
    "tiers": "report.assigning",
    "use_all_cores": "runtime.cores",
    "write_columns": "data.columns",
    "write_report": "report.page",
}

__all__ = [
    "NETWORKS",
    "Comparison",
    "Config",
    "EngineConfig",
    "FednasError",
    "Fleet",
    "FleetSpec",
    "Model",
    "Network",
    "Run",
    "Space",
    "Tasks",
    "Tier",
    "Variables",
    "compare",
    "from_arrays",
    "from_linen",
    "from_nnx",
    "load_data",
    "load_model",
    "load_run",
    "load_runs",
    "preset",
    "probe",
    "read_ledger",
    "read_tiers",
    "register",
    "reprice_run",
    "resolve",
    "run_search",
    "tiers",
    "use_all_cores",
    "write_columns",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), own or name)
