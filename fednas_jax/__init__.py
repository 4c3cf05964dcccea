"""Federated neural architecture search, simulated, with every client's cost in a ledger.

from pathlib import Path
import fednas_jax as fn

result = fn.run_search(fn.preset("digits"), Path("runs/digits"))
"""

import importlib
from typing import Any

# Name -> the module it lives in; imported when first used, so that the command line's --help needs no jax.
_HOMES = {
    "Config": "config.schema",
    "FednasError": "errors",
    "Fleet": "engine.fleet",
    "FleetSpec": "engine.fleet",
    "NETWORKS": "nets",
    "Network": "space.network",
    "Space": "space.masks",
    "Tasks": "engine.tasks",
    "Variables": "space.network",
    "from_arrays": "data.arrays",
    "from_linen": "nets",
    "from_nnx": "nets",
    "preset": "config.presets",
    "probe": "space.probing",
    "register": "nets",
    "reprice_run": "report.reprice",
    "resolve": "config.methods",
    "run_search": "run.loop",
    "write_columns": "data.columns",
    "write_report": "report.page",
}

__all__ = [
    "NETWORKS",
    "Config",
    "FednasError",
    "Fleet",
    "FleetSpec",
    "Network",
    "Space",
    "Tasks",
    "Variables",
    "from_arrays",
    "from_linen",
    "from_nnx",
    "preset",
    "probe",
    "register",
    "reprice_run",
    "resolve",
    "run_search",
    "write_columns",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
