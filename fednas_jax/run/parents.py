"""A trained parent from a file: which array is which variable of the network, and what a parent cannot be.

Names match whether '/' or '.' joins them, with or without the collection they were saved in ('params', 'batch_stats').
PyTorch's names and layouts are understood too: 'weight' [out, in, kh, kw] is 'kernel' [kh, kw, in, out].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from fednas_jax.errors import ConfigError
from fednas_jax.run import manifest, model_files
from fednas_jax.run.folder import RunDir
from fednas_jax.space import segments
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Dim, Row, Variables

COLLECTIONS = ("params", "stats", "batch_stats")
TORCH = {"weight": ("kernel", "scale"), "running_mean": ("mean",), "running_var": ("var",)}
TORCH_ONLY = "num_batches_tracked"  # a counter that no computation here reads
SHOWN = 3  # names in a message


class Parent(NamedTuple):
    """A network to start a search from, and where it came from."""

    variables: Variables  # at the parent's widths, on the host
    source: dict[str, Any]  # for result.json: see `load`


def load(path: Path, space: Space) -> Parent:
    """Reads a trained parent.

    Args:
      path: a run's folder (its pretrained parent), a model's folder in it, any orbax checkpoint of a tree of arrays,
        or a .safetensors file.
      space: of the network that it has to be.

    Returns:
      Its variables in the network's dtypes, and its source: `path`; `in_ledger`, False, since what clients spent on it
      is in no ledger of the search; where it is the parent of a finished run of ours, the `client_cost` of that run's
      pretraining, and the `parent_source` of its own parent; else None.

    Raises:
      ConfigError: there is none, it is of another network or of other widths, or holds what no weight can be; names
        the variable, what was got and what was wanted.
      RunError: it is damaged.
    """
    found = _matched(path, _read(path), space)
    shapes = space.network.abstract(space.widths)
    _check(path, found, space)
    parts = ({name: found[name].astype(leaf.dtype) for name, leaf in part.items()} for part in shapes)
    return Parent(Variables(*parts), _source(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    """The file's arrays by their names in it."""
    if path.is_file() and path.suffix == ".safetensors":
        try:
            return safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"parent: {path} cannot be read as safetensors: {error}") from error
    for folder in (path, path / "variables", RunDir(path).model(0) / "variables"):
        if model_files.is_tree(folder):
            if folder.name == "variables":  # of a model of ours: orbax takes some changed bytes for numbers
                manifest.verify_listing(folder.parent)
            return model_files.load_tree(folder)
    want = "want the folder of a run or model, an orbax checkpoint or a .safetensors file"
    why = "it holds none" if path.exists() else "there is no such file or folder"
    if RunDir(path).config_file.exists():
        why = "this run's parent is not trained yet; its own command goes on with it"
    raise ConfigError(f"parent: got {path}, {want}: {why}")


def _matched(path: Path, named: Mapping[str, np.ndarray], space: Space) -> dict[str, np.ndarray]:
    """The arrays by the network's names for them, PyTorch's in flax's layout."""
    found: dict[str, np.ndarray] = {}
    unexpected = []
    for name, array in named.items():
        plain = _plain(name, space)
        stem, _, leaf = plain.rpartition("/")
        also = [f"{stem}/{other}" if stem else other for other in TORCH.get(leaf, ())]
        variable = next((p for p in (plain, *also) if p in space.labels and p not in found), None)
        if variable is not None:
            found[variable] = array if variable == plain else _turned(array, variable, space)
        elif leaf != TORCH_ONLY:
            unexpected.append(name)
    missing = [p for p in space.labels if p not in found]
    if missing or unexpected:
        lacks = f"it lacks {_some(missing)}" if missing else ""
        has = f"it has {_some(unexpected)} that {space.network.name} has not" if unexpected else ""
        said = "; ".join(part for part in (lacks, has) if part)
        raise ConfigError(f"parent: {path} is of another network, want one of {space.network.name}: {said}")
    return found


def _plain(name: str, space: Space) -> str:
    """A name of the file as the network would write it."""
    parts = name.replace(".", "/").split("/")
    if "/".join(parts) not in space.labels:
        parts = parts[1:] if parts[0] in COLLECTIONS else parts
        parts = parts[:-1] if parts[-1] == "value" else parts  # as a state of nnx is saved
    return "/".join(parts)


def _turned(array: np.ndarray, variable: str, space: Space) -> np.ndarray:
    """An array of PyTorch's in flax's layout; a vector is one already.

    A dense layer after a flattened image has its inputs channel by channel in PyTorch, pixel by pixel here.
    """
    if array.ndim < 2:
        return array
    array = array.transpose(*range(2, array.ndim), 1, 0)
    if array.ndim != 2:
        return array
    inputs, image = space.labels[variable][0], space.network.input_shape
    pixels = inputs.repeat if inputs else math.prod(image[:-1]) if array.shape[0] == math.prod(image) else 1
    if array.shape[0] % pixels:
        return array  # of another shape than wanted, which `_check` says
    return array.reshape(-1, pixels, array.shape[1]).swapaxes(0, 1).reshape(array.shape)


def _check(path: Path, found: Mapping[str, np.ndarray], space: Space) -> None:
    """Refuses what is no weight of this network: shapes, types, numbers that are not finite."""
    shapes = space.network.abstract(space.widths)
    wanted = {name: tuple(leaf.shape) for part in shapes for name, leaf in part.items()}
    wrong = next((name for name, shape in wanted.items() if found[name].shape != shape), None)
    if wrong is not None:
        if widths := _widths(found, wanted, space):
            got, own = ("-".join(map(str, w)) for w in (widths, space.widths))
            typed = " ".join(map(str, widths))
            raise ConfigError(f"parent: {path} has widths {got}, want {own}; --net.widths {typed} takes it as it is")
        got, want = (_sizes(shape) for shape in (found[wrong].shape, wanted[wrong]))
        raise ConfigError(f"parent: {path}: '{wrong}' got shape {got}, want {want}")
    for name in wanted:
        array = found[name]
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ConfigError(f"parent: {path}: '{name}' got numbers of type {array.dtype}, want floating-point ones")
        bad = int(np.sum(~np.isfinite(array.astype(np.float32))))
        if bad:
            raise ConfigError(f"parent: {path}: '{name}' got {bad} numbers that are not finite, want none")


def _widths(
    found: Mapping[str, np.ndarray], wanted: Mapping[str, Sequence[int]], space: Space
) -> tuple[int, ...] | None:
    """The widths at which the network would have these shapes; None where there are no such widths."""
    seen: list[set[int]] = [set() for _ in space.groups]
    for name, shape in wanted.items():
        array = found[name]
        if array.ndim != len(shape):
            return None
        for size, want, dim in zip(array.shape, shape, space.labels[name], strict=True):
            if isinstance(dim, Dim):
                width, rest = divmod(size, dim.repeat)
                seen[dim.group].add(0 if rest else width)
            elif dim is None and size != want:
                return None
    if not all(len(s) == 1 and min(s) > 0 for s in seen):
        return None
    widths = tuple(s.pop() for s in seen)
    rows = [
        (size, dim)
        for name in wanted
        for size, dim in zip(found[name].shape, space.labels[name], strict=True)
        if isinstance(dim, Row)
    ]
    return widths if all(size == segments.size(dim, dict(enumerate(widths))) for size, dim in rows) else None


def _source(path: Path) -> dict[str, Any]:
    whole = path.absolute()
    runs = (run for run in map(RunDir, (whole, *whole.parents[:3])) if run.config_file.exists())
    of = next((run for run in runs if whole in (run.path, run.model(0), run.model(0) / "variables")), None)
    result = (of and of.result()) or {}
    return {
        "path": str(path),
        "in_ledger": False,
        "client_cost": result.get("client_cost", {}).get("pretrain"),
        "parent_source": result.get("parent_source"),
    }


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"
