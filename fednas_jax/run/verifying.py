"""Whether a run's folder is what the run wrote: every file that it lists, verified before anybody believes it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

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
        if result.get("schema", 1) == 1:
            raise RunError(f"{path}: is of an older version, which listed no files: nothing can be verified")
        listed = manifest.read(run.path)
        manifest.verify_files(run.path, listed)
        return _verdict(True, listed, None, ())
    saved, refused = Checkpoints(run.checkpoints).newest(functools.partial(believe, run))
    if saved is None:
        if refused:
            raise RunError(f"{path}: none of its {len(refused)} checkpoints can be believed: {refused[0].reason}")
        return Verdict(False, 0, 0, None, ())
    return _verdict(False, _entries(saved), saved.step, tuple(refused))


def believe(run: RunDir, saved: Saved) -> None:
    """Sees whether the files that a checkpoint speaks of are there, unchanged.

    Raises:
      RunError: one is not.
    """
    manifest.verify_files(run.path, _entries(saved), others=True)


def _verdict(finished: bool, listed: list[manifest.Entry], step: int | None, refused: tuple[Refused, ...]) -> Verdict:
    return Verdict(finished, len(listed), sum(entry["bytes"] for entry in listed), step, refused)


def _entries(saved: Saved) -> list[manifest.Entry]:
    return [*saved.record["files"], saved.record["events"]]
