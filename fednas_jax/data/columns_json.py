"""What columns.json says of a folder of columns, written and verified field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fednas_jax.errors import DataError
from fednas_jax.files import read_json

SCHEMA = 1
"""Of columns.json, for images."""

INPUTS_SCHEMA = 2
"""Of columns.json, for other inputs."""

_DTYPES = ("int32", "float32")  # of other inputs: token ids; features

# Fields of columns.json that are only there where they say something.
_OPTIONAL = ("class_names", "dtype", "label_shape", "tokens", "vocabulary")


class About(NamedTuple):
    """What columns.json says."""

    schema: int
    """SCHEMA or INPUTS_SCHEMA."""
    name: str
    """Of the data set."""
    classes: int
    """Number of classes."""
    examples: int
    """Training examples N."""
    test_examples: int
    """Test examples T."""
    clients: int
    """Number of clients; 0 for data that names none."""
    shape: list[int]
    """Of an input: height, width and channels of an image."""
    mean: list[float]
    """[C] mean of the training inputs, channel by channel, of images scaled to [0, 1]; [] of tokens."""
    std: list[float]
    """[C] standard deviation of the same, above 0; [] of tokens."""
    class_names: Sequence[str] = ()
    """Of every class; not there where they have none."""
    dtype: str = "uint8"
    """Of the inputs."""
    label_shape: Sequence[int] = ()
    """Of an example's label: [] for one, [T] for one at every position."""
    tokens: int = 0
    """Number of token ids; 0 where inputs are none."""
    vocabulary: Sequence[str] = ()
    """Text of every token id; not there where they have none."""


def text_of(about: About) -> str:
    """The content of columns.json; fields that say nothing are left out."""
    said = about._asdict()
    for field in _OPTIONAL:
        if not said[field] or (field == "dtype" and about.schema == SCHEMA):
            del said[field]
    return json.dumps(said, indent=2, allow_nan=False) + "\n"


def read_about(path: Path) -> About:
    """What a file says.

    Raises:
      DataError: one line that names the file and the field, what was got and what was wanted.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file, want a folder with columns")
    said = read_json(path, DataError)
    if not isinstance(said, dict):
        raise DataError(f"{path}: got {type(said).__name__}, want a JSON object")

    def wanted(field: str, fits: Callable[[Any], bool], want: str) -> None:
        if not fits(said.get(field)):
            raise DataError(f"{path} {field}: got {said.get(field)!r}, want {want}")

    wanted("schema", lambda value: value in (SCHEMA, INPUTS_SCHEMA), f"{SCHEMA} or {INPUTS_SCHEMA}")
    wanted("name", lambda value: isinstance(value, str), "text")
    for field in ("classes", "examples", "test_examples"):
        wanted(field, _positive, "a whole number above 0")
    wanted("clients", lambda value: type(value) is int and value >= 0, "a whole number from 0")
    if said["schema"] == SCHEMA:
        said = {field: value for field, value in said.items() if field not in _OPTIONAL or field == "class_names"}
        wanted("shape", lambda value: _listed(value, 3, _positive), "three whole numbers above 0")
        channels = said["shape"][-1]
    else:
        wanted("dtype", lambda value: value in _DTYPES, f"one of {', '.join(_DTYPES)}")
        axes = (1,) if said["dtype"] == "int32" else (1, 2)
        numbers = " or ".join(map(str, axes))
        wanted(
            "shape", lambda value: any(_listed(value, n, _positive) for n in axes), f"{numbers} whole numbers above 0"
        )
        channels = 0 if said["dtype"] == "int32" else said["shape"][-1]
        said.setdefault("label_shape", [])
        labels = [[]] if said["dtype"] == "float32" and len(said["shape"]) == 1 else [[], said["shape"][:1]]
        wanted("label_shape", lambda value: value in labels, " or ".join(map(str, labels)))
        if said["dtype"] == "int32":
            wanted("tokens", _positive, "a whole number above 0")
        if "vocabulary" in said:
            wanted(
                "vocabulary",
                lambda value: _listed(value, said.get("tokens", 0), lambda x: isinstance(x, str)),
                f"{said.get('tokens', 0)} texts",
            )
    wanted("mean", lambda value: _listed(value, channels, _finite), f"{channels} finite numbers")
    wanted(
        "std",
        lambda value: _listed(value, channels, lambda x: _finite(x) and x > 0),
        f"{channels} finite numbers above 0",
    )
    if "class_names" in said:
        names = said["classes"]
        wanted("class_names", lambda value: _listed(value, names, lambda x: isinstance(x, str)), f"{names} texts")
    return About(**{field: said[field] for field in About._fields if field in said})


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _listed(value: Any, length: int, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(fits, value))
