"""Whether a run's folder is what the run wrote: every file that it lists, verified before anybody believes it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.run import manifest
from fednas_jax.run.checkpoint import Checkpoints, Refused, Saved
from fednas_jax.run.folder import RunDir


class Verdict(NamedTuple):
    """What was found of a run's folder that is as it should be."""

    finished: bool
    files: int  # that were compared with their checksums
    bytes: int
    step: int | None  # of the checkpoint that an unfinished run would go on from; None: it would begin anew
    refused: tuple[Refused, ...]  # checkpoints after it that cannot be believed


def verify_run(path: Path) -> Verdict:
    """Verifies a run's folder, finished or not; nothing is changed.

    Args:
      path: of the folder.

    Raises:
      RunError: a file is missing or damaged, and no checkpoint can bring it back; names it.
    """
    run = RunDir(path)
    run.config()  # says so where there is no run
    result = run.result()
    if result is not None:
        listed = listed_by(run, result)
        manifest.verify(run.path, listed)
        return Verdict(True, len(listed) + 1, sum(entry.bytes for entry in listed), None, ())

    saved, refused = Checkpoints(run.checkpoints).newest(functools.partial(believe, run))
    if saved is None:
        if refused:
            raise RunError(f"{path}: none of its {len(refused)} checkpoints can be believed: {refused[0].reason}")
        return Verdict(False, 0, 0, None, ())
    listed = _entries(saved)
    return Verdict(False, len(listed), sum(entry.bytes for entry in listed), saved.step, tuple(refused))


def believe(run: RunDir, saved: Saved) -> None:
    """Sees whether the files that a checkpoint speaks of are there, unchanged.

    Raises:
      RunError: one is not.
    """
    manifest.verify(run.path, _entries(saved))


def finished_run(path: Path) -> tuple[RunDir, Config, dict[str, Any]]:
    """A finished run's folder, config and result, once all that it lists is verified.

    Args:
      path: of the folder.

    Raises:
      RunError: there is no run, it is not finished, or a file of it is missing or damaged.
    """
    run = RunDir(path)
    config, result = run.config(), run.result()
    if result is None:
        raise RunError(f"{path}: is not finished, want a finished run: repeat its fednas command to go on")
    manifest.verify(run.path, listed_by(run, result))
    return run, config, result


def listed_by(run: RunDir, result: dict[str, Any]) -> list[manifest.Entry]:
    """The files that a result lists; an older version's lists none, and can only be asked for its ledger.

    Raises:
      RunError: the list is damaged, or there is no ledger.
    """
    try:
        listed = [manifest.Entry(str(e["path"]), int(e["bytes"]), str(e["sha256"])) for e in result.get("files", [])]
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{run.result_file}: files: got no list of paths, bytes and checksums") from None
    if not any(run.ledger.glob("*.parquet")):
        raise RunError(f"{run.ledger}: is missing or empty, want the ledger that this run wrote")
    return listed


def _entries(saved: Saved) -> list[manifest.Entry]:
    return [manifest.Entry(*entry) for entry in [*saved.record["files"], saved.record["events"]]]
