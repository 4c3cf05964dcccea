"""A run's folder: config, events, and the result that is written last. See the README for what lies where."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

from fednas_jax.config.files import differences, to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.files import write_json
from fednas_jax.run import inputs, records

PACKAGES = ("fednas-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class RunDir:
    """One run's folder. Nothing is made before `create`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.events_file = self.path / "events.jsonl"
        self.result_file = self.path / "result.json"
        self.unfinished = self.path / "config.json.tmp"  # with `inputs` what a run leaves that was killed at its start
        self.inputs = self.path / "inputs"
        self.ledger = self.path / "ledger"
        self.checkpoints = self.path / "checkpoints"

    def model(self, iteration: int) -> Path:
        """The folder of an iteration's winner; 0 is the parent."""
        return self.path / "models" / f"{iteration:03d}"

    def check(self, config: Config) -> None:
        """Sees whether this folder can hold a run of `config`: new, empty, or begun with the very same config.

        Raises:
          RunError: it is a file, belongs to something else, or to another config (names the fields that differ).
        """
        for path in (self.path, *self.path.parents):
            if path.exists() and not path.is_dir():
                raise RunError(f"--out: {path} is a file, want a folder or a new name")
        if self.config_file.exists():
            differ = differences(self.config(), config)
            if differ:
                fields = "; ".join(f"{d} now" for d in differ)
                raise RunError(
                    f"--out: {self.path} holds a run of another config, want the same or a new folder: {fields}"
                )
        elif self.path.is_dir() and any(p not in (self.inputs, self.unfinished) for p in self.path.iterdir()):
            raise RunError(f"--out: {self.path} holds files that are no run, want an empty or a new folder")

    def create(self, config: Config, lanes: int, device_kind: str) -> None:
        """Makes the folder, writes the config, with the versions, devices and lanes it runs on, and copies its tables.

        Raises:
          RunError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"--out: {self.path} cannot be made: {error.strerror}") from error
        if not self.config_file.exists():
            inputs.keep(config, self.inputs)
            about = {
                "config": to_json(config),
                "versions": {"python": platform.python_version()}
                | {p: importlib.metadata.version(p) for p in PACKAGES},
                "devices": [str(d) for d in jax.devices()],
                "lanes": {device_kind: lanes},
            }
            write_json(self.config_file, about)

    def config(self) -> Config:
        """The config the run was begun with.

        Raises:
          RunError: the folder holds no run, or one that cannot be read.
        """
        if not self.config_file.exists():
            raise RunError(f"{self.path}: holds no run, want a folder that fednas search made")
        return records.config(self.config_file)

    def lanes(self, device_kind: str) -> int:
        """The lanes that this run was begun with on such a device; 0 where it wasn't."""
        try:
            return int(json.loads(self.config_file.read_text())["lanes"][device_kind])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def result(self) -> dict[str, Any] | None:
        """The finished run's summary; None while it is unfinished.

        Raises:
          RunError: it was written by something else, or damaged.
        """
        return records.result(self.result_file) if self.result_file.exists() else None

    def append(self, event: dict[str, Any]) -> None:
        """Adds one line to the events."""
        with self.events_file.open("a") as file:
            file.write(json.dumps(event, allow_nan=False) + "\n")

    def events_size(self) -> int:
        """Bytes of events so far: what a checkpoint remembers."""
        return self.events_file.stat().st_size if self.events_file.exists() else 0

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return list(records.events(self.events_file))

    def rewind(self, events_size: int, ledgers: list[str]) -> None:
        """Takes back what was written after a checkpoint: later events, and ledger files it does not know."""
        if self.events_file.exists():
            os.truncate(self.events_file, events_size)
        for path in self.ledger.glob("*"):
            if path.name not in ledgers:
                path.unlink()
