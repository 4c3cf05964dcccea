"""Names of trials: what tells them apart, short, as names of folders. No jax here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 80  # characters of a name
_CHECKSUM = 8  # characters of a checksum that tell trials apart whose names would be the same
_SPEAK = ("preset", "method", "net.name")  # fields whose values need no label


def names(values: Sequence[Mapping[str, Any]], checksums: Sequence[str]) -> list[str]:
    """A name for each trial, such as 'fednas-alpha0.1-seed3'; none differ by upper and lower case alone.

    Args:
      values: of each trial, dotted field -> value, of the fields in which trials differ.
      checksums: of the trials; part of the names of those that nothing shorter tells apart.
    """
    labels = _labels(list(values[0])) if values else {}
    said = ["-".join(labels[field] + _text(value) for field, value in one.items()) or "trial" for one in values]
    said = [re.sub(r"-{2,}", "-", name).strip("-.") or "trial" for name in said]
    often = Counter(name.lower() for name in said)
    return [
        name if len(name) <= LONGEST and often[name.lower()] == 1 else f"{name[:LONGEST]}-{checksum[:_CHECKSUM]}"
        for name, checksum in zip(said, checksums, strict=True)
    ]


def _labels(fields: Sequence[str]) -> dict[str, str]:
    """Each field's last word; with its section where two have the same."""
    often = Counter(field.rpartition(".")[2] for field in fields)

    def label(field: str) -> str:
        if field in _SPEAK:
            return ""
        last = field.rpartition(".")[2]
        return last if often[last] == 1 else field

    return {field: label(field) for field in fields}


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "-none", True: "-on", False: "-off"}[value]
    if isinstance(value, list | tuple):
        return "x".join(_text(inner) for inner in value)
    # An own name's dot would hide a folder, or lead out of it.
    said = re.sub(r"[^A-Za-z0-9.]+", "-", str(value)) if isinstance(value, str) else f"{value}".replace("+", "")
    return f"-{said}" if isinstance(value, str) else said
