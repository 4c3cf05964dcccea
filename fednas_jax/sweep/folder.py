"""A sweep's folder: its manifest, a run's folder for each trial, what failed, and the table.

DIR/sweep.json           the trials' resolved configs, and what was given
DIR/trials.parquet       a row for each trial
DIR/trials/NAME/         a run, as `fednas search` leaves it
DIR/failed/NAME.json     why a trial failed; NAME.txt has the traceback of a bug
DIR/scores/NAME.json     what a trial has reported, where trials may be dropped early, and whether it was;
                         scores/left_out: of trials that are no longer asked for
DIR/workers/N.log        what a worker process printed
DIR/replaced/NAME-N/     runs of trials that were changed and replaced
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, TypedDict

from fednas_jax import forms
from fednas_jax.config.files import from_json, to_json
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import folder_names, plain_name, write_json, write_text
from fednas_jax.forms import Amount
from fednas_jax.run.folder import RunDir
from fednas_jax.run.lock import LOCK, OWNER, SOFT
from fednas_jax.run.manifest import check_seal, sealed
from fednas_jax.run.session import saving
from fednas_jax.sweep import dropping
from fednas_jax.sweep.planning import Plan, Planned, checksum_of, leaves, nested, told

SCHEMA = 1  # of sweep.json


class Entry(TypedDict):
    """A trial in sweep.json."""

    name: str
    fields: dict[str, Any]  # as given, dotted
    config: dict[str, Any]  # dotted field -> value, where it isn't the common one
    checksum: str  # of the resolved config


class Manifest(TypedDict):
    """sweep.json."""

    schema: Literal[1]
    config: dict[str, Any]  # dotted field -> value: the first trial's resolved config
    trials: list[Entry]
    left_out: list[Entry]  # trials of an earlier state of the sweep file
    checksum: str


class Failure(TypedDict):
    """failed/NAME.json."""

    error: str
    trial: str  # checksum
    wall_seconds: Amount


class SweepDir:
    """One sweep's folder. Nothing is made before `begin`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.manifest = self.path / "sweep.json"
        self.table = self.path / "trials.parquet"
        self.workers = self.path / "workers"

    def trial(self, name: str) -> Path:
        """A trial's run."""
        return self.path / "trials" / name

    def check(self) -> None:
        """Sees whether this folder can hold a sweep: new, empty, or a sweep's.

        Raises:
          RunError: it is a file, cannot be a folder, or belongs to something else.
        """
        there = folder_names(self.path, "a sweep's folder") - {LOCK, OWNER, SOFT, ".sweep.json.tmp"}
        if there and not self.manifest.exists():
            raise RunError(f"--out: {self.path} holds files that are no sweep, want an empty or a new folder")

    def entries(self) -> list[Entry]:
        """The trials that the sweep has had so far; none where it is new.

        Raises:
          RunError: sweep.json is damaged.
        """
        if not self.manifest.exists():
            return []
        found = forms.read(self.manifest, Manifest)
        check_seal(self.manifest, found)
        entries = [*found["trials"], *found["left_out"]]
        for entry in entries:
            plain_name(entry["name"], f"{self.manifest}: name")
            try:
                whole = to_json(from_json(nested(found["config"] | entry["config"])))
            except ConfigError as error:
                raise RunError(f"{self.manifest}: {entry['name']}: {error}") from None
            entry["config"], entry["checksum"] = whole, checksum_of(whole)  # a field that is new has its default
        return entries

    def changed(self, plan: Plan, entries: list[Entry], replace: bool) -> list[str]:
        """Names of the trials that have another config now; arguments and errors as of `begin`."""
        was = {entry["name"]: entry["checksum"] for entry in entries}
        names = [trial.name for trial in plan.trials if was.get(trial.name, trial.checksum) != trial.checksum]
        if names and not replace:
            want = "want them as they were, other names for new ones by another field, or --replace to begin them anew"
            raise RunError(f"{self.path}: the configs of {len(names):,} trials have changed: {told(names)}; {want}")
        return names

    def begin(self, plan: Plan, entries: list[Entry], replace: bool) -> tuple[list[str], list[str]]:
        """Writes the manifest, unless a trial has changed.

        Args:
          plan: the sweep as it is now.
          entries: as it was.
          replace: changed trials begin anew, their runs put aside.

        Returns:
          Names of the trials that are new, and of those that are no longer asked for, whose runs stay.

        Raises:
          RunError: a trial of the same name has another config, which is to be told with `replace`.
        """
        for name in self.changed(plan, entries, replace):
            self.put_aside(name)
        was = {entry["name"] for entry in entries}
        now = {trial.name for trial in plan.trials}
        left = [entry for entry in entries if entry["name"] not in now]
        with saving(self.manifest):
            self._write(plan, left)
        dropping.count_only(self.path, now)
        return [name for name in now if name not in was], [entry["name"] for entry in left]

    def result(self, plan: Plan, trial: Planned) -> dict[str, Any] | None:
        """A finished trial's result; None while it is unfinished.

        Raises:
          RunError: it is damaged, or of another config.
        """
        run = RunDir(self.trial(trial.name))
        if not run.result_file.exists():
            return None
        run.check(plan.config(trial))
        return run.result()

    def has_result(self, name: str) -> bool:
        """Whether a trial's run is finished, its result whole or damaged."""
        return RunDir(self.trial(name)).result_file.exists()

    def begun(self, name: str) -> bool:
        """Whether a trial has a run, finished or not."""
        return RunDir(self.trial(name)).config_file.exists()

    def failure(self, trial: Planned) -> Failure | None:
        """Why a trial failed, if it did.

        Raises:
          RunError: the file is damaged.
        """
        path = self._failure(trial.name)
        if not path.exists():
            return None
        found: Failure = forms.read(path, Failure)
        return found if found["trial"] == trial.checksum else None

    def fail(self, trial: Planned, error: str, traceback: str, wall_seconds: float) -> str:
        """Remembers why a trial failed.

        Args:
          trial: that failed.
          error: in a line.
          traceback: of a bug; '' where the error says all.
          wall_seconds: that it took.

        Returns:
          The error, and where the traceback is.
        """
        path = self._failure(trial.name)
        with saving(path):
            path.parent.mkdir(exist_ok=True)
            if traceback:
                text = path.with_suffix(".txt")
                write_text(text, traceback)
                error = f"{error} (traceback: {text.relative_to(self.path)})"
            write_json(path, Failure(error=error, trial=trial.checksum, wall_seconds=wall_seconds))
        return error

    def forgive(self, name: str) -> None:
        """Forgets that a trial failed."""
        path = self._failure(name)
        for file in (path, path.with_suffix(".txt")):
            file.unlink(missing_ok=True)

    def put_aside(self, name: str) -> None:
        """Moves a trial's run to where it is in nobody's way: the trial begins anew."""
        self.forgive(name)
        dropping.forget(self.path, name)
        source, aside = self.trial(name), self.path / "replaced"
        if not source.exists():
            return
        with saving(aside):
            aside.mkdir(exist_ok=True)
            number = next(n for n in range(1, len(os.listdir(aside)) + 2) if not (aside / f"{name}-{n}").exists())
            shutil.move(source, aside / f"{name}-{number}")

    def _failure(self, name: str) -> Path:
        return self.path / "failed" / f"{name}.json"

    def _write(self, plan: Plan, left: list[Entry]) -> None:
        common = leaves(to_json(plan.config(plan.trials[0])))

        def entry(name: str, fields: dict[str, Any], config: dict[str, Any], checksum: str) -> Entry:
            differs = {field: value for field, value in leaves(config).items() if value != common[field]}
            return Entry(name=name, fields=fields, config=differs, checksum=checksum)

        trials = [entry(t.name, t.fields, to_json(plan.config(t)), t.checksum) for t in plan.trials]
        old = [entry(e["name"], e["fields"], e["config"], checksum_of(e["config"])) for e in left]
        write_json(self.manifest, sealed({"schema": SCHEMA, "config": common, "trials": trials, "left_out": old}))
