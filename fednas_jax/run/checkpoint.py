"""Saving and restoring with orbax: the run's state at every boundary, and the family's variables.

Of several hosts only the first calls these functions: orbax is told to wait for no other.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fednas_jax.errors import RunError

KEPT = 2  # checkpoints on disk: the latest, and the one before while the latest is being written
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


class Checkpoints:
    """A run's checkpoints: a pytree of arrays and a JSON record beside it, under a growing step number."""

    def __init__(self, folder: Path):
        self._folder = folder.absolute()

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Made when first used: a host that never saves or restores makes none."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT, enable_async_checkpointing=False, create=False, multiprocessing_options=ALONE
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
        """Saves a state, whole or not at all; older checkpoints beyond the last few go."""
        items = ocp.args.Composite(state=ocp.args.StandardSave(_host(state)), about=ocp.args.JsonSave(about))
        self._manager.save(step, args=items, force=True)

    def next_step(self) -> int:
        """The step number after the latest checkpoint's."""
        latest = self._manager.latest_step()
        return 0 if latest is None else latest + 1

    def begun(self) -> bool:
        """Whether there is a checkpoint; makes nothing."""
        return self._folder.is_dir() and self._manager.latest_step() is not None

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The step and record of the latest checkpoint, or None where there is none.

        Raises:
          RunError: the record cannot be read.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            return step, self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
        except (ValueError, OSError) as error:
            raise self._unreadable(step, error) from error

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step.

        Args:
          step: from `latest`.
          like: a tree of the same structure, shapes and dtypes, such as `jax.eval_shape` gives.

        Raises:
          RunError: the checkpoint has another structure or cannot be read.
        """
        template = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(template)))[
                "state"
            ]
        except (ValueError, OSError) as error:
            raise self._unreadable(step, error) from error

    def _unreadable(self, step: int, error: Exception) -> RunError:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        return RunError(f"{self._folder}: checkpoint {step} cannot be restored: {what}")

    def close(self) -> None:
        """Lets go of orbax's threads."""
        if "_manager" in self.__dict__:
            self._manager.close()


def save_model(folder: Path, variables: Any, describe: Callable[[Path], None] | None = None) -> None:
    """Saves a network's variables under `folder`, whole or not at all, over whatever was there.

    Args:
      folder: where to.
      variables: a pytree of arrays.
      describe: writes what belongs beside them into the folder it is given.
    """
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with contextlib.closing(ocp.StandardCheckpointer(multiprocessing_options=ALONE)) as saver:
        saver.save((unfinished / "variables").absolute(), _host(variables))
        saver.wait_until_finished()
    if describe:
        describe(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def load_model(folder: Path, like: Any) -> Any:
    """The variables that `save_model` put under `folder`.

    Raises:
      RunError: there are none, or of another network.
    """
    template = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), like)
    try:
        with contextlib.closing(ocp.StandardCheckpointer(multiprocessing_options=ALONE)) as saver:
            return saver.restore((folder / "variables").absolute(), template)
    except (ValueError, OSError) as error:
        raise RunError(f"{folder}: cannot be read as this network: {str(error).splitlines()[0]}") from error


def is_tree(folder: Path) -> bool:
    """Whether orbax has saved a tree of arrays there."""
    return (folder / "_METADATA").is_file()


def load_tree(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a tree that orbax saved, whoever did: path -> array, '/' between the path's parts.

    Raises:
      RunError: it cannot be read.
    """
    try:
        with contextlib.closing(ocp.StandardCheckpointer(multiprocessing_options=ALONE)) as saver:
            about = saver.metadata(folder.absolute()).item_metadata.tree
            found = saver.restore(folder.absolute(), jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), about))
    except (ValueError, OSError, AttributeError, TypeError) as error:
        raise RunError(f"{folder}: cannot be read as a tree of arrays: {str(error).splitlines()[0]}") from error
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _host(tree: Any) -> Any:
    """The tree as numpy arrays; orbax takes no numpy scalars."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
