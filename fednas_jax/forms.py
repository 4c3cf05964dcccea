"""What a file of JSON has to look like, said once as type hints and walked: a value is checked before it is used.

A form is made of int, float, str, bool, None, list, dict, tuple, Literal, unions, TypedDict (with NotRequired; other
fields are passed over) and dataclasses (whose fields may all be missing, and no others be there).
`Annotated[int, Between(0, 10)]` bounds a number. No jax here.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Union

from fednas_jax.errors import FednasError, RunError
from fednas_jax.files import read_json

MOST = 1e30  # of any number: what is computed from a few such is still finite
_SHOWN = 60  # characters of a value in a message


class Between(NamedTuple):
    """Bounds of a number."""

    low: float
    high: float = MOST


Count = Annotated[int, Between(0)]
Amount = Annotated[float, Between(0)]


class _Misfit(Exception):
    """A value, where it stands, and what was wanted there."""

    def __init__(self, field: str, value: Any, want: str):
        super().__init__(field)
        self.field, self.value, self.want = field, value, want


def read(path: Path, form: Any, error: type[FednasError] = RunError) -> Any:
    """What a JSON file says, which has the form.

    Args:
      path: of the file.
      form: a type hint.
      error: kind of error to raise.

    Raises:
      FednasError: of the given kind, in one line: as `files.read_json`, or with the first field that does not fit.
    """
    value = read_json(path, error)
    check(value, form, str(path), error)
    return value


def check(value: Any, form: Any, where: str, error: type[FednasError] = RunError) -> None:
    """Sees whether plain JSON values have a form.

    Args:
      value: of JSON.
      form: a type hint.
      where: it comes from, for the message.
      error: kind of error to raise.

    Raises:
      FednasError: of the given kind; names the first field that does not fit, what was got and what was wanted.
    """
    try:
        _walk(value, form, "")
    except _Misfit as misfit:
        at = f"{where}: {misfit.field}" if misfit.field else where
        raise error(f"{at}: got {_shown(misfit.value)}, want {misfit.want}") from None


def _walk(value: Any, form: Any, field: str) -> None:
    origin, args = typing.get_origin(form), typing.get_args(form)
    if form is Any:
        return
    if origin is Annotated:
        _walk(value, args[0], field)
        for bound in args[1:]:
            if isinstance(bound, Between) and not bound.low <= value <= bound.high:
                raise _Misfit(field, value, f"{bound.low:g} to {bound.high:g}")
    elif origin in (Union, types.UnionType):
        _any_of(value, args, field)
    elif origin is Literal:
        if not any(type(value) is type(one) and value == one for one in args):
            raise _Misfit(field, value, " or ".join(map(repr, args)))
    elif origin is list or (origin is tuple and args[-1] is ...):
        _list(value, field)
        for number, inner in enumerate(value):
            _walk(inner, args[0], f"{field}[{number}]")
    elif origin is tuple:
        _list(value, field)
        if len(value) != len(args):
            raise _Misfit(field, value, f"a list of {len(args)}")
        for number, (inner, own) in enumerate(zip(value, args, strict=True)):
            _walk(inner, own, f"{field}[{number}]")
    elif origin is dict:
        _object(value, field)
        for name, inner in value.items():
            _walk(inner, args[1], _under(field, name))
    elif typing.is_typeddict(form) or dataclasses.is_dataclass(form):
        _fields(value, form, field)
    else:
        _plain(value, form, field)


def _any_of(value: Any, forms: tuple[Any, ...], field: str) -> None:
    """One of several forms; where all but None are one, its own misfit says more."""
    misfits = []
    for form in forms:
        try:
            return _walk(value, form, field)
        except _Misfit as misfit:
            misfits.append(misfit)
    real = [m for m, form in zip(misfits, forms, strict=True) if form is not type(None)]
    if len(real) == 1:
        raise real[0] if real[0].field != field else _Misfit(field, value, f"{real[0].want} or null")
    raise _Misfit(field, value, " or ".join(dict.fromkeys(m.want for m in misfits)))


def _fields(value: Any, form: Any, field: str) -> None:
    _object(value, field)
    record = dataclasses.is_dataclass(form)
    for name in value if record else ():
        if name not in _hints(form):
            raise _Misfit(_under(field, name), value[name], "no such field")
    for name, hint in _hints(form).items():
        optional = record or typing.get_origin(hint) is NotRequired
        if name in value:
            inner = typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint
            _walk(value[name], inner, _under(field, name))
        elif not optional:
            raise _Misfit(_under(field, name), None, "it to be there")


@functools.lru_cache(maxsize=256)
def _hints(form: Any) -> dict[str, Any]:
    return typing.get_type_hints(form, include_extras=True)


def _plain(value: Any, form: Any, field: str) -> None:
    """One value; True is no number, a whole number is a fraction too, a path is text."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    wanted = {
        int: ("a whole number", number and isinstance(value, int)),
        float: ("a number", number),
        str: ("text", isinstance(value, str)),
        Path: ("text", isinstance(value, str)),
        bool: ("true or false", isinstance(value, bool)),
        type(None): ("null", value is None),
    }
    assert form in wanted, f"{form}: no form"
    want, fits = wanted[form]
    if not fits:
        raise _Misfit(field, value, want)
    if number and not -MOST <= value <= MOST:
        raise _Misfit(field, value, f"a number of at most {MOST:g}")


def _list(value: Any, field: str) -> None:
    if not isinstance(value, list):
        raise _Misfit(field, value, "a list")


def _object(value: Any, field: str) -> None:
    if not isinstance(value, dict):
        raise _Misfit(field, value, "an object")


def _under(field: str, name: str) -> str:
    name = name if len(name) <= _SHOWN and name.isprintable() else ascii(name[:_SHOWN])
    return f"{field}.{name}" if field else name


def _shown(value: Any) -> str:
    """A value in a message: short, and without anything that a terminal would obey."""
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, int) and abs(value) > MOST:
        return "a number too large"
    said = ascii(value[:_SHOWN] if isinstance(value, str) else value)
    return said if len(said) <= 2 * _SHOWN else f"{said[:_SHOWN]}..."
