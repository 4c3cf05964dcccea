"""Which columns of a table hold the images or features, the labels and the clients: as asked, else by type or name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fednas_jax.data.options import ImportOptions, refuse
from fednas_jax.errors import DataError

# Names that columns have in well-known sets, likeliest first.
_IMAGES = ("image", "img", "images", "picture", "photo", "path", "file", "file_name", "filename", "image_path")
_LABELS = ("label", "labels", "class", "target", "y", "fine_label", "character", "digit")
_CLIENTS = ("client", "client_id", "client_ids", "user", "user_id", "writer", "writer_id")

# Numbers of rows, as pandas writes them: in a table that is sorted by label they tell the label.
_ROW_NUMBERS = re.compile(r"\s*|__index_level_\d+__|Unnamed: \d+")

NONE = "none"
"""Given as a column, says that there is none."""


class Columns(NamedTuple):
    """Which columns hold what."""

    image: str  # "" for none
    label: str
    client: str  # "" for none
    features: tuple[str, ...] = ()  # where there is no image
    class_names: tuple[str, ...] = ()  # that the labels are numbers of; () where the file says none


def choose(where: Path, columns: dict[str, str], options: ImportOptions) -> Columns:
    """Which columns hold images or features, labels and clients: those that the options name, else by name or type.

    Without an image's column, features are all that is left, but for pandas' numbers of rows.

    Args:
      where: the table is, for messages.
      columns: name -> "image", "class", "number", "unknown" or "": what its type says that it holds.
      options: `inputs`, `image_column`, `feature_columns`, `label_column`, `client_column`.

    Raises:
      DataError: a column that is not there, or one that cannot be told.
    """

    def given_name(option: str, given: str) -> str:
        if given not in columns:
            near = difflib.get_close_matches(given, columns, 1)
            want = f"want {near[0]!r}" if near else f"want one of {_listed(columns)}"
            raise DataError(f"data import {option}: got {given!r}, which {where} has not, {want}")
        return given

    def found(option: str, type_: str, known: tuple[str, ...], needed: bool) -> str:
        given = getattr(options, option)
        if given == NONE and not needed:
            return ""
        if given:
            return given_name(option, given)
        typed = [name for name, holds in columns.items() if type_ and holds == type_]
        if len(typed) == 1:
            return typed[0]
        alike = ([name for name in columns if name.lower() == want] for want in known)
        by_name = next(filter(None, alike), [])
        if len(by_name) > 1 or (needed and not by_name):
            flag = option.replace("_", "-")
            raise DataError(f"{where}: got the columns {_listed(columns)}, want --{flag} to say which")
        return by_name[0] if by_name else ""

    if options.inputs not in (None, "images", "rows"):
        raise DataError(f"data import inputs: got {options.inputs!r}, want images or rows: {where} is a table")
    rows = options.inputs == "rows" or bool(options.feature_columns)
    if rows and (options.image_column or options.inputs == "images"):
        raise DataError(f"data import image_column: got images as well as features of {where}, want one of them")
    image = "" if rows else found("image_column", "image", _IMAGES, not columns or options.inputs == "images")
    label, client = found("label_column", "class", _LABELS, True), found("client_column", "", _CLIENTS, False)
    if image:
        return Columns(image, label, client)
    named = [given_name("feature_columns", name.strip()) for name in options.feature_columns.split(",") if name.strip()]
    if twice := [name for n, name in enumerate(named) if name in (label, *named[:n])]:
        raise DataError(f"data import feature_columns: got {twice[0]!r}, want columns but the label's, each once")
    others = (name for name in columns if name not in (label, client) and not _ROW_NUMBERS.fullmatch(name))
    features = tuple(named) or tuple(others)
    words = [name for name in features if columns[name] not in ("number", "unknown")]
    if rows and words:
        raise DataError(f"{where} {words[0][:40]}: got no numbers, want some, or --feature-columns without it")
    if words or not features:
        found("image_column", "image", _IMAGES, True)
    refuse(options, ("image_size", "channels", "images", "skip_damaged"), f"{where} holds no images")
    return Columns("", label, client, features)


def as_first(where: Path, columns: Columns, first: Columns) -> Columns:
    """A file's columns, of which the features are in the order of the first file's.

    Raises:
      DataError: they are not the same ones, or labels are numbers of other classes.
    """
    if other := sorted(set(columns.features) ^ set(first.features)):
        has = "a feature" if other[0] in columns.features else "no feature"
        want = "the same features in all files, or --feature-columns to say which"
        raise DataError(f"{where} {other[0][:40]}: got {has} of this name, want {want}")
    if columns.class_names and first.class_names and columns.class_names != first.class_names:
        got, want = (", ".join(names[:5])[:80] for names in (columns.class_names, first.class_names))
        raise DataError(f"{where} {columns.label}: got the classes {got}, want {want}, as in the first file")
    return columns._replace(features=first.features)


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(name[:40] for name in list(columns)[:12])
