"""Many finished runs as one tidy table, for pandas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.run.finished import Run, load_run, members
from fednas_jax.sweep.planning import leaves

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("method", "seed", "preset")  # fields of the config that have columns anyway


def load_runs(paths: Sequence[Path | str]) -> pd.DataFrame:
    """Reads finished runs into one frame: a row for each network of each run.

    Args:
      paths: the runs' folders.

    Returns:
      Columns `run` (its folder), `method`, `seed`, `preset`, `iteration` (0 is the parent), `widths` (as in
      '16-32-64'), `macs`, `params`, `share` (of the parent's MACs), `score` (validation), `test_accuracy`,
      `client_seconds` and `simulated_hours` (of the search up to there); then a column for each field of the config in
      which the runs differ, such as `data.alpha`. What a run does not have is missing (NaN or None).

    Raises:
      RunError: as `load_run`, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise RunError("load_runs: got no pandas, want it installed: pip install pandas") from None
    runs = [load_run(path) for path in paths]
    configs = [_fields(run.config) for run in runs]
    names = dict.fromkeys(name for config in configs for name in config if name not in _COLUMNS)
    differ = [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]
    rows = [
        row | {name: config.get(name) for name in differ}
        for run, config in zip(runs, configs, strict=True)
        for row in _rows(run)
    ]
    return pandas.DataFrame(rows)


def _rows(run: Run) -> list[dict[str, Any]]:
    result = run.result
    return [
        {
            "run": str(run.path),
            **{name: result[name] for name in _COLUMNS},
            "iteration": member["iteration"],
            "widths": "-".join(map(str, member["widths"].values())),
            "macs": member["macs"],
            "params": member["params"],
            "share": member["macs"] / result["parent"]["macs"],
            "score": member["score"],
            "test_accuracy": member["test_accuracy"],
            "client_seconds": member["client_seconds"],
            "simulated_hours": member.get("simulated_hours"),
        }
        for member in members(result)
    ]


def _fields(config: Config) -> dict[str, Any]:
    """A config's fields by their dotted names; several values as text."""
    return {name: str(v) if isinstance(v, list) else v for name, v in leaves(to_json(config)).items()}
