"""A finished run as it lies on disk: verified, then read; and what is read off its result."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from fednas_jax.config.presets import PRESETS
from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.files import write_bytes
from fednas_jax.phones import ledger, totals
from fednas_jax.run import manifest, records
from fednas_jax.run.folder import RunDir

RATIOS = (0.75, 0.5, 0.25)  # of the parent's MACs, at which runs are compared
_EQUAL = 1e-6  # relative: the ledger's seconds are added in another order than the result's


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run as it lies on disk."""

    path: Path
    config: Config
    result: dict[str, Any]  # result.json

    @property
    def title(self) -> str:
        """Method, data and seed."""
        return f"{self.result['method']} on {self.data}, seed {self.result['seed']}"

    @property
    def data(self) -> str:
        """The preset's name, where the run is on its data; else data set and network."""
        name, source = self.result["preset"], self.config.data.source
        own = name in PRESETS and PRESETS[name].data.source == source
        return name if own else f"{source} ({self.config.net.name})"

    @functools.cached_property
    def ledger(self) -> pa.Table:
        """All rows of the ledger (`phones.ledger.SCHEMA`), whose seconds are those of the result.

        Raises:
          RunError: a file is missing or damaged, or says what cannot be.
        """
        return pa.concat_tables([ledger.SCHEMA.empty_table(), *(t for _, t in self.ledgers())]).unify_dictionaries()

    def ledgers(self) -> list[tuple[str, pa.Table]]:
        """Name and rows of each file of the ledger; raises as `ledger`."""
        folder = RunDir(self.path).ledger
        found = ledger.read_files(folder)
        for name, table in found:
            ledger.check(f"{folder / name}", table, self.result["clients"], len(self.result["models"]))
        got = sum(float(table["seconds"].to_numpy().sum()) for _, table in found)
        want = self.result["client_cost"]["all"]["seconds"]["total"]
        if not math.isclose(got, want, rel_tol=_EQUAL, abs_tol=_EQUAL):
            what = f"{len(found)} files of {got:,.6g} client seconds in all"
            raise RunError(f"{folder}: got {what}, want {want:,.6g}, as in result.json: a part is missing or changed")
        return found

    @functools.cached_property
    def phases(self) -> dict[str, float]:
        """Seconds of all clients in the search, by phase."""
        return totals.phase_seconds(self.ledger, "search")

    def events(self) -> Iterator[dict[str, Any]]:
        """The events, one by one.

        Raises:
          RunError: a line is no event, or of an iteration that the run has not.
        """
        file, most = RunDir(self.path).events_file, len(self.result["models"])
        for event in records.read_events(file):
            if event["event"] in ("round", "parent") and event.get("iteration", 0) > most:
                raise RunError(f"{file}: got a round of iteration {event['iteration']}, want at most {most}")
            yield event


def load_run(path: Path | str, pretrained: bool = False) -> Run:
    """Reads a finished run; it is what it was when it was written, or this says what is missing or damaged.

    Args:
      path: its folder.
      pretrained: take a pretrained parent too.

    Raises:
      RunError: there is no run; it is unfinished, or no search; or a file of it is missing, damaged, or says what
        cannot be.
    """
    run = RunDir(Path(path))
    config, result = run.config(), run.result()
    if result is None:
        raise RunError(f"{path}: is not finished, want a finished run: repeat its fednas {config.command} to go on")
    if config.command == "pretrain" and not pretrained:
        raise RunError(f"{path}: is a pretrained parent, want a finished search: fednas search PRESET --parent {path}")
    if result.get("schema", 1) > 1:  # the first version listed no files
        manifest.verify_files(run.path, manifest.read(run.path))
    return Run(run.path, config, result)


def read_ledger(path: Path | str) -> pa.Table:
    """The ledger of a finished run or pretraining: what every client spent in every round, phase by phase.

    Args:
      path: the run's folder.

    Returns:
      A row for each phase of each task, with the columns of `phones.ledger.SCHEMA`; `.to_pandas()` makes a frame.

    Raises:
      RunError: as `load_run`, or a file of the ledger is missing or damaged.
    """
    return load_run(path, pretrained=True).ledger


def members(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parent and the family, from large to small."""
    return [result["parent"], *result["models"]]


def at_ratio(result: dict[str, Any], ratio: float) -> dict[str, Any] | None:
    """The largest tested member with at most `ratio` of the parent's MACs; None where there is none."""
    limit = ratio * result["parent"]["macs"]
    fits = [m for m in members(result) if m["macs"] <= limit and m["test_accuracy"] is not None]
    return max(fits, key=lambda m: m["macs"], default=None)


def write_into(run: Path, name: str, content: str | bytes) -> Path:
    """Writes a file of a run's folder, whole or not at all, and never through a link.

    Args:
      run: the folder.
      name: of the file in it, or FOLDER/FILE.
      content: of the file; text is written in UTF-8.

    Returns:
      Where it lies.

    Raises:
      RunError: the folder in the run is a link, which may lead anywhere, or the file cannot be written.
    """
    path = run / name
    try:
        if path.parent != run:
            if path.parent.is_symlink():
                raise RunError(f"{path.parent}: is a link, want a folder of the run's own")
            path.parent.mkdir(exist_ok=True)
        write_bytes(path, content if isinstance(content, bytes) else content.encode())
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path
