"""The family's networks on disk: widths and variables of each, saved with orbax.

Of several hosts only the first reads and writes: orbax is told to wait for no other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from fednas_jax.errors import RunError
from fednas_jax.files import write_json
from fednas_jax.run import manifest
from fednas_jax.run.folder import RunDir
from fednas_jax.run.state import Member
from fednas_jax.runtime import hosts
from fednas_jax.space.network import Network, Variables

OVERHEAD = 256 << 10  # bytes of a model's folder besides its numbers, generously
ALONE = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})


def save_model(folder: Path, variables: Any, describe: Callable[[Path], None] | None = None) -> None:
    """Saves a network's variables under `folder`, whole or not at all, over whatever was there.

    Args:
      folder: where to.
      variables: a pytree of arrays.
      describe: writes what belongs beside them into the folder it is given.
    """
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(exist_ok=True)  # in a run's folder, as checkpoints are
    unfinished.mkdir()
    # orbax finds a full disk out in threads of its own, which say so at length; here it is one error.
    needed = 2 * sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(variables)) + OVERHEAD
    if shutil.disk_usage(unfinished).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
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
    except Exception as error:  # whatever orbax makes of damaged files
        raise RunError(f"{folder}: cannot be read as this network: {_said(error)}") from error


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
    except Exception as error:  # whatever orbax makes of damaged files
        raise RunError(f"{folder}: cannot be read as a tree of arrays: {_said(error)}") from error
    leaves = jax.tree_util.tree_flatten_with_path(found)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def _said(error: Exception) -> str:
    """The error's kind and the first line of what it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _host(tree: Any) -> Any:
    """The tree as numpy arrays; orbax takes no numpy scalars."""
    return jax.tree.map(np.asarray, jax.device_get(tree))


def save_member(run: RunDir, network: Network, member: Member, variables: Variables, part: str = "") -> None:
    """Saves a member's variables and widths, and a listing of the files that it makes; called on the first host alone.

    Args:
      run: whose folder takes them.
      network: the run's.
      member: whose they are.
      variables: at the member's own widths.
      part: name of a folder inside the member's own; none: that itself.
    """

    def describe(folder: Path) -> None:
        widths = dict(zip(network.widths, member.widths, strict=True))
        write_json(folder / "widths.json", {"network": network.name, "widths": widths})
        manifest.write_listing(folder)

    save_model(run.model(member.iteration) / part, variables, describe)


def load_member(run: RunDir, network: Network, member: Member, part: str = "") -> Variables:
    """What `save_member` saved, on every host.

    Raises:
      RunError: it isn't there, or cannot be read.
    """
    folder, shapes = run.model(member.iteration) / part, network.abstract(member.widths)
    return hosts.from_first_host(lambda: load_model(folder, shapes))
