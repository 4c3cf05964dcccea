"""Bounds that stand beside a config's fields, as in `Annotated[int, AtLeast(1), AtMost(100)]`, and who checks them.

A field's type and bounds are all that is said of it alone; what depends on other fields is in `checks`.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fednas_jax.errors import ConfigError
from fednas_jax.registry import Registry

_LONGEST = 200  # characters of a value that a message shows


@dataclass(frozen=True)
class Bound(abc.ABC):
    """What a number is to keep, and why where that is not plain. Of a tuple, every number is."""

    value: float
    why: str = ""

    @abc.abstractmethod
    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""

    @property
    @abc.abstractmethod
    def words(self) -> str:
        """As it follows 'want'."""


class AtLeast(Bound):
    """A number from `value` on."""

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return number >= self.value

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"at least {self.value}"


class Above(Bound):
    """A number greater than `value`."""

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return number > self.value

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"above {self.value}"


class AtMost(Bound):
    """A number up to `value`."""

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return number <= self.value

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"at most {self.value}"


class Below(Bound):
    """A number less than `value`."""

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return number < self.value

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"below {self.value}"


@dataclass(frozen=True)
class Range(Bound):
    """A number from `least` to `value`, both included."""

    least: float = dataclasses.field(default=0, kw_only=True)

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return self.least <= number <= self.value

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"{self.least} to {self.value}"


class KeptShare(Bound):
    """How many a rung keeps: a whole number up to `value`, or a fraction."""

    def holds(self, number: float) -> bool:
        """Whether a number keeps it."""
        return 0 < number <= self.value and (number <= 1 or number == int(number))

    @property
    def words(self) -> str:
        """As it follows 'want'."""
        return f"a whole number or a fraction between 0 and 1, at most {self.value}"


@dataclass(frozen=True)
class NotEmpty:
    """A tuple with at least one of these in it."""

    what: str


@dataclass(frozen=True)
class OneOf:
    """An open choice: a registered name or MODULE:FUNCTION, with its arguments."""

    registry: Registry[Any]


def hints(cls: type) -> dict[str, Any]:
    """Name -> type, with bounds, of a record's fields."""
    return _hints(cls)  # a cached function takes what is hashable alone, which a record's type is not to mypy


@functools.cache  # a replay checks thousands of configs
def _hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def fields(cls: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field's dotted path and type, with bounds, through all sections of a config."""
    for name, hint in hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(typing.cast(type, hint), f"{path}{name}.")
        else:
            yield f"{path}{name}", hint


def check(config: Any, path: str = "") -> None:
    """Checks type and bounds of every field of a config, section by section.

    Args:
      config: a record of `schema`, or any whose fields have such types.
      path: what stands before its fields' names in messages.

    Raises:
      ConfigError: one line that names the field, the value got and the value wanted.
    """
    for name, hint in hints(type(config)).items():
        value = getattr(config, name)
        if not dataclasses.is_dataclass(hint):
            check_value(f"{path}{name}", value, hint)
        elif type(value) is hint:
            check(value, f"{path}{name}.")
        else:
            raise ConfigError(f"{path}{name}: got {shown(value)}, want {spelled(hint)}")


def check_type(field: str, value: Any, hint: Any) -> None:
    """Checks one value's type alone.

    Raises:
      ConfigError: one line.
    """
    if not _fits(value, hint):
        raise ConfigError(f"{field}: got {shown(value)}, want {spelled(hint)}")


def check_value(field: str, value: Any, hint: Any) -> None:
    """Checks one value's type and bounds.

    Args:
      field: its path, as messages name it.
      value: as given.
      hint: the field's type, with bounds.

    Raises:
      ConfigError: one line.
    """
    check_type(field, value, hint)
    endless = [number for number in _numbers(value) if isinstance(number, float) and not math.isfinite(number)]
    if endless:
        raise ConfigError(f"{field}: got {endless[0]}, want a finite number")
    _check_bounds(field, value, hint)


def spelled(hint: Any) -> str:
    """A type as messages say it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return spelled(args[0])
    if origin is Literal:
        return f"one of {', '.join(args)}"
    if origin in (typing.Union, types.UnionType):
        closed = any(typing.get_origin(arg) is Literal for arg in args)  # that it may be left open need not be said
        return " or ".join(spelled(arg) for arg in args if not (closed and arg is type(None)))
    if origin is tuple:
        return f"tuple[{', '.join('...' if arg is ... else spelled(arg) for arg in args)}]"
    return "None" if hint is type(None) else getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and not without end."""
    try:
        text = str(value) if isinstance(value, Path) else repr(value)
    except ValueError:  # Python writes no whole number of more than some thousand digits
        text = "a number of too many digits"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, its parts included; a whole number is a float too, and True is no number."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = args[:1] * len(value) if args[-1] is ... else args
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check_bounds(field: str, value: Any, hint: Any) -> None:
    """Of a value whose type fits."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        _check_bounds(field, value, next(arg for arg in args if _fits(value, arg)))
    elif origin is tuple:
        for inner, arg in zip(value, args[:1] * len(value) if args[-1] is ... else args, strict=True):
            _check_bounds(field, inner, arg)
    elif origin is Annotated:
        _check_bounds(field, value, args[0])
        bounds = [mark for mark in args[1:] if isinstance(mark, Bound)]
        if not all(bound.holds(number) for bound in bounds for number in _numbers(value)):
            every = "every one " if isinstance(value, tuple) else ""
            wanted = [bound.words + (f" ({bound.why})" if bound.why else "") for bound in bounds]
            raise ConfigError(f"{field}: got {shown(value)}, want {every}{' and '.join(wanted)}")
        for mark in args[1:]:
            if isinstance(mark, NotEmpty) and not value:
                raise ConfigError(f"{field}: got none, want at least one {mark.what}")
            if isinstance(mark, OneOf) and value is not None:
                mark.registry.parse(value)


def _numbers(value: Any) -> Iterator[float]:
    """The numbers of a value, tuples in tuples included."""
    if isinstance(value, tuple):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
