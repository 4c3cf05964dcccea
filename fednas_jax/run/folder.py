"""A run's folder: config, events, and the result that is written last. See the README for what lies where."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax

from fednas_jax.config.files import differences, to_json
from fednas_jax.config.schema import Config, LoweringName
from fednas_jax.errors import RunError
from fednas_jax.files import folder_names, read_json, write_json
from fednas_jax.run import inputs, records
from fednas_jax.run.lock import LOCK, OWNER, SOFT
from fednas_jax.run.manifest import Entry, check_seal

PACKAGES = ("fednas-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_MODEL = re.compile(r"\d{3,}(\.tmp)?")  # an iteration's, or one that a process was killed over


class RunDir:
    """One run's folder. Nothing is made before `create`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.events_file = self.path / "events.jsonl"
        self.result_file = self.path / "result.json"
        self.inputs = self.path / "inputs"
        self.ledger = self.path / "ledger"
        self.models = self.path / "models"
        self.checkpoints = self.path / "checkpoints"
        # What a run leaves that was killed at its start, before it had a config.
        self._beginnings = {self.inputs.name, LOCK, SOFT, OWNER, f".{OWNER}.tmp", ".config.json.tmp"}
        self._written = hashlib.sha256()  # of the events so far
        self._bytes = 0

    def model(self, iteration: int) -> Path:
        """The folder of an iteration's winner; 0 is the parent."""
        return self.models / f"{iteration:03d}"

    def check(self, config: Config) -> None:
        """Sees whether this folder can hold a run of `config`: new, empty, or begun with the very same config.

        Raises:
          RunError: it is a file, belongs to something else, or to another config (names the fields that differ).
        """
        there = folder_names(self.path, "a folder") - self._beginnings
        if self.config_file.exists():
            differ = differences(self.config(), config)
            if differ:
                fields = "; ".join(f"{d} now" for d in differ)
                raise RunError(
                    f"--out: {self.path} holds a run of another config, want the same or a new folder: {fields}"
                )
        elif there:
            raise RunError(f"--out: {self.path} holds files that are no run, want an empty or a new folder")

    def create(
        self, config: Config, lanes: int, lowering: str, device_kind: str, code: dict[str, str], data: str
    ) -> None:
        """Writes the config, with the versions, devices and lanes it runs on, and copies its tables, once.

        Args:
          config: resolved.
          lanes: of a device.
          lowering: of their convolutions.
          device_kind: of the devices.
          code: field -> SHA-256 of the user's own code that it names.
          data: fingerprint of the data set.
        """
        if self.config_file.exists():
            return
        inputs.keep(config, self.inputs)
        about = {
            "config": to_json(config),
            "versions": {"python": platform.python_version()} | _versions(),
            "devices": [str(d) for d in jax.devices()],
            "lanes": {device_kind: lanes},
            "lowering": {device_kind: lowering},
            "code": code,
            "data": data,
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
            return int(read_json(self.config_file)["lanes"][device_kind])
        except (RunError, ValueError, KeyError, TypeError):
            return 0

    def lowering(self, device_kind: str) -> LoweringName:
        """The lowering that this run was begun with on such a device; 'auto' where it wasn't."""
        try:
            name = read_json(self.config_file)["lowering"][device_kind]
            return name if name in get_args(LoweringName) else "auto"
        except (RunError, ValueError, KeyError, TypeError):
            return "auto"

    def check_inputs(self, config: Config) -> None:
        """Refuses to go on with other tables than the run was begun with; raises as `inputs.check`."""
        if self.config_file.exists():  # a process that was killed before may have left copies
            inputs.check(config, self.inputs)

    def check_code(self, code: dict[str, str]) -> None:
        """Refuses to go on with other code of the user's than the run was begun with.

        Args:
          code: field -> SHA-256 of the code that it names now.

        Raises:
          RunError: names the field whose code has changed.
        """
        if not self.config_file.exists():
            return
        then = records.beginning(self.config_file).get("code", {})
        for field in sorted({*then, *code}):
            if then.get(field) != code.get(field):
                want = "want the same code, or a new folder"
                raise RunError(f"{field}: the code that it names has changed since this run began, {want}")

    def check_data(self, data: str) -> None:
        """Refuses to go on with other data than the run was begun with: files that a source reads may have changed.

        Args:
          data: fingerprint of what the source yields now.

        Raises:
          RunError: it is another one.
        """
        if not self.config_file.exists():
            return
        then = records.beginning(self.config_file).get("data", data)
        if then != data:
            got = f"got data of fingerprint {data}, want {then[:100]!a}, with which this run began"
            raise RunError(f"data.source: {got}, or a new folder")

    def other_versions(self) -> list[str]:
        """Packages that have another version than when the run was begun, with both; of an older run none."""
        then, now = records.beginning(self.config_file).get("versions", {}), _versions()
        return [f"{p} {then[p]}, {now[p]} now" for p in PACKAGES if p in then and then[p] != now[p]]

    def result(self) -> dict[str, Any] | None:
        """The finished run's summary; None while it is unfinished.

        Raises:
          RunError: it was written by something else, or damaged.
        """
        if not self.result_file.exists():
            return None
        found = records.result(self.result_file)
        check_seal(self.result_file, found)
        return found

    def append(self, event: dict[str, Any]) -> None:
        """Adds one line to the events."""
        line = (json.dumps(event, allow_nan=False) + "\n").encode()
        with self.events_file.open("ab") as file:
            file.write(line)
        self._written.update(line)
        self._bytes += len(line)

    def events_entry(self) -> Entry:
        """The events so far, as a checkpoint remembers them."""
        return {"path": self.events_file.name, "bytes": self._bytes, "sha256": self._written.hexdigest()}

    def events(self) -> Iterator[dict[str, Any]]:
        """All events so far, one by one.

        Raises:
          RunError: a line is no event.
        """
        return records.read_events(self.events_file)

    def rewind(self, events_size: int, files: set[str]) -> None:
        """Takes back what was written after a checkpoint: later events, and what it does not know of ledger and models.

        Args:
          events_size: bytes of the events that stay.
          files: paths within the folder that stay.

        Raises:
          RunError: events, ledger or models are a link, which may lead anywhere.
        """
        for path in (self.events_file, self.ledger, self.models):
            if path.is_symlink():
                raise RunError(f"{path}: is a link, want the run's own")
        self._written, self._bytes = hashlib.sha256(), 0
        if self.events_file.exists():
            os.truncate(self.events_file, events_size)
            with self.events_file.open("rb") as file:
                while block := file.read(1 << 20):
                    self._written.update(block)
            self._bytes = events_size
        for path in self.ledger.glob("*"):
            if path.relative_to(self.path).as_posix() not in files:
                path.unlink()
        for path in self.models.glob("*"):
            if _MODEL.fullmatch(path.name) and not any(file.startswith(f"models/{path.name}/") for file in files):
                shutil.rmtree(path)


def _versions() -> dict[str, str]:
    """Those that are installed."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "not installed"
