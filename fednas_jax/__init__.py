"""Federated neural architecture search, simulated, with every client's cost in a ledger.

from pathlib import Path
import fednas_jax as fn

result = fn.run_search(fn.preset("digits"), Path("runs/digits"))
"""

import importlib
from typing import Any

# Name -> the module it lives in; imported when first used, so that the command line's --help needs no jax.
_HOMES = {
    "Config": "config",
    "FednasError": "errors",
    "Fleet": "fleet",
    "NETWORKS": "nets",
    "Network": "space",
    "Space": "space",
    "Tasks": "fleet",
    "Variables": "space",
    "from_linen": "nets",
    "from_nnx": "nets",
    "preset": "presets",
    "probe": "space",
    "register": "nets",
    "reprice_run": "reprice",
    "resolve": "config",
    "run_search": "search",
    "write_columns": "data.columns",
    "write_report": "report",
}

__all__ = [
    "NETWORKS",
    "Config",
    "FednasError",
    "Fleet",
    "Network",
    "Space",
    "Tasks",
    "Variables",
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
