"""What a user can bring: one mechanism for policies, optimisers, losses and the like.

A config names each by text, so that it can be written to a file and typed: a registered name, or `MODULE:FUNCTION` for
a function of one's own; arguments stand in parentheses, as in `halving(eta=3)` or `my_module:loss(gamma=2)`. No jax
here: what is registered is imported when it is used.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from fednas_jax.errors import ConfigError, FednasError

T = TypeVar("T")

_FORM = re.compile(r"(?P<name>[^()]+?)\s*(?:\((?P<arguments>.*)\))?", re.DOTALL)


class Spec(NamedTuple):
    """A choice as a config names it: `name(arguments)`."""

    name: str  # registered, or MODULE:FUNCTION
    positional: tuple[str, ...]  # what follows a registered name after a colon, as in latency:pixel2
    arguments: dict[str, Any]

    @property
    def own(self) -> bool:
        """Whether it is MODULE:FUNCTION, a function of the user's own."""
        return ":" in self.name


class Registry(Generic[T]):
    """The choices that one field of the config has.

    Args:
      field: of the config, such as 'search.policy'; messages name it.
      what: a choice is, such as 'elimination policy'.
      homes: name -> 'module:attribute' of the project's own choices, imported when used.
      prefixes: likewise, of names that a colon and a further name must follow, as in optax:adam; the home is a function
        that gets the further name first.
    """

    def __init__(self, field: str, what: str, homes: dict[str, str], prefixes: dict[str, str] | None = None):
        self.field, self.what = field, what
        self._homes: dict[str, str | T] = dict(homes)
        self._prefixes = prefixes or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __contains__(self, name: object) -> bool:
        return name in self._homes

    def names(self) -> tuple[str, ...]:
        """Names of all registered choices."""
        return tuple(self._homes)

    def register(self, name: str, choice: T) -> None:
        """Makes a choice known by name, in this process.

        Args:
          name: a Python identifier that is not taken by another choice.
          choice: what the field's page in docs/extend.md says.

        Raises:
          ConfigError: the name is taken or none.
        """
        if not name.isidentifier():
            raise ConfigError(f"{self.field}: got {name!r}, want a name of letters, digits and underscores")
        if name in self._prefixes or self._homes.get(name, choice) is not choice:
            raise ConfigError(f"{self.field}: got {name!r}, which is registered already, want another name")
        self._homes[name] = choice

    def parse(self, text: str) -> Spec:
        """The parts of a choice's text; nothing is imported.

        Raises:
          ConfigError: it is no registered name nor MODULE:FUNCTION, or its arguments are no literals by name.
        """
        form = _FORM.fullmatch(text.strip())
        name, inside = (form["name"].strip(), form["arguments"]) if form else ("", None)
        head, colon, rest = name.partition(":")
        if not form and text.strip().partition(":")[0] in self._homes:
            head, colon, rest = text.strip().partition(":")  # what follows may have parentheses: a file's name
        if head in self._prefixes and rest.isidentifier():
            return Spec(head, (rest,), self._arguments(text, inside))
        if head in self._homes:
            return Spec(head, (rest,) if colon else (), self._arguments(text, inside))
        if not colon or not all(part.isidentifier() for part in f"{head}.{rest}".split(".")):
            known = ", ".join([*self._homes, *(f"{prefix}:NAME" for prefix in self._prefixes)])
            want = f"want one of {known}, or MODULE:FUNCTION for your own"
            raise ConfigError(f"{self.field}: got {text!r}, {want}")
        return Spec(name, (), self._arguments(text, inside))

    def get(self, text: str) -> Callable[..., Any]:
        """The function that a text names, with its arguments bound; what goes wrong inside of it is one line.

        Raises:
          ConfigError: as `parse`; or there is no such module or function, or it does not take these arguments.
        """
        spec = self.parse(text)
        found: Any
        if spec.own:
            found = own_function(spec.name, self.field)
        else:
            home = self._prefixes.get(spec.name) or self._homes[spec.name]
            found = attribute(home) if isinstance(home, str) else home
        if not spec.positional and not spec.arguments:
            return _guarded(found, f"{self.field}: {text}")
        bound = functools.partial(found, *spec.positional, **spec.arguments)
        self._check_arguments(text, found, spec)
        return _guarded(bound, f"{self.field}: {text}")

    def checksum(self, text: str) -> str | None:
        """SHA-256 of the source of a choice that is not the project's own; None for those that are.

        A run keeps it, so that it goes on with the code it was begun with.
        """
        spec = self.parse(text)
        home = self._prefixes.get(spec.name) or self._homes.get(spec.name)
        if isinstance(home, str):
            return None
        found = own_function(spec.name, self.field) if spec.own else home
        return source_checksum(found)

    def _arguments(self, text: str, inside: str | None) -> dict[str, Any]:
        if inside is None or not inside.strip():
            return {}
        want = "want NAME(argument=value, ...) with plain values"
        try:
            call = ast.parse(f"f({inside})", mode="eval").body
            assert isinstance(call, ast.Call)
            if call.args or any(k.arg is None for k in call.keywords):
                raise ValueError
            return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (ValueError, SyntaxError, AssertionError, MemoryError, RecursionError):
            raise ConfigError(f"{self.field}: got {text!r}, {want}") from None

    def _check_arguments(self, text: str, function: Any, spec: Spec) -> None:
        """Refuses arguments that the function does not have, before it is called with others as well."""
        try:
            takes = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a function in C says nothing of itself
            return
        if any(p.kind is p.VAR_KEYWORD for p in takes):
            return
        named = [p for p in takes if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        known = [p.name for p in named if p.default is not p.empty]
        for name in spec.arguments:
            if name not in known:
                want = f"want {', '.join(known)}" if known else "want none"
                raise ConfigError(f"{self.field}: got {text!r} with the argument {name!r}, {want}")


def own_module(name: str, field: str) -> ModuleType:
    """The module of a `MODULE:FUNCTION`, imported; modules of the current directory are found first, as by `python -m`.

    Raises:
      ConfigError: there is none, or it cannot be imported.
    """
    module = name.partition(":")[0]
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # the file may be younger than the last look into its folder
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the module does when it is imported
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            want = "want MODULE:FUNCTION with a module that Python finds here or among the installed ones"
            raise ConfigError(f"{field}: got {name!r}, {want}: {error}") from error
        raise ConfigError(f"{field}: {module} cannot be imported: {said_of(error, None)}") from error


def own_function(name: str, field: str) -> Callable[..., Any]:
    """The function of a `MODULE:FUNCTION`.

    Raises:
      ConfigError: as `own_module`, or the module has no such function (the message lists those it has).
    """
    module = own_module(name, field)
    function = getattr(module, name.partition(":")[2], None)
    if not callable(function):
        defined = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
        has = ", ".join(n for n in defined if callable(vars(module)[n])) or "none"
        raise ConfigError(f"{field}: got {name!r}, want one of the functions of {module.__name__}, which has {has}")
    return function


def attempt(what: str, module: ModuleType | None, call: Callable[[], T], error: type[FednasError] = ConfigError) -> T:
    """Calls what is the user's own; whatever it raises becomes one line that says where.

    Args:
      what: is tried, for the message.
      module: the user's, whose line is named.
      call: without arguments.
      error: the kind of error to raise.
    """
    try:
        return call()
    except FednasError:  # says itself what is wrong
        raise
    except Exception as raised:  # whatever the user's code does
        raise error(f"{what}: {said_of(raised, module)}") from raised


def said_of(error: BaseException, module: ModuleType | None) -> str:
    """The error's kind and first line, and the line of the user's module that it came from."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == getattr(module, "__file__", None)] if module else []
    return f"{said} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else said


def source_checksum(choice: Any) -> str:
    """SHA-256 of the file that a function, or the class of a callable object, was written in.

    Where there is no file, of what was typed into a notebook; where that is not known either, of the compiled code.
    """
    function = inspect.unwrap(choice.func if isinstance(choice, functools.partial) else choice)
    functions, attributes = [function], list[Any]()
    if not inspect.isroutine(function):
        of = function if inspect.isclass(function) else type(function)
        members = [member for each in of.__mro__[:-1] for member in vars(each).items()]
        attributes = [(at, value) for at, value in members if not at.startswith("__")]
        functions = [value for _, value in members if inspect.isfunction(value)]
    for each in functions:
        with contextlib.suppress(TypeError, OSError):  # it was typed at a prompt
            return hashlib.sha256(Path(inspect.getsourcefile(each) or "").read_bytes()).hexdigest()
    name = getattr(function, "__qualname__", type(function).__qualname__)
    said = (name, [_typed(each) for each in functions], _plain(tuple(attributes)))
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _typed(function: Any) -> Any:
    """The text of a function that lies in no file, or what stands for it: the same in every process."""
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return (_compiled(function.__code__), _plain(function.__defaults__)) if inspect.isfunction(function) else None


def _compiled(code: CodeType) -> tuple[Any, ...]:
    """What a compiled function does, without where it was compiled."""
    return code.co_code, code.co_names, code.co_varnames, _plain(code.co_consts)


def _plain(values: Any) -> Any:
    """Constants in a form whose text is the same in every process: sets sorted, what is no constant left out."""
    if isinstance(values, CodeType):
        return _compiled(values)
    if isinstance(values, tuple):
        return tuple(_plain(value) for value in values)
    if isinstance(values, frozenset):
        return sorted(repr(_plain(value)) for value in values)
    return values if isinstance(values, int | float | complex | str | bytes) else type(values).__qualname__


def attribute(home: str) -> Any:
    """What MODULE:NAME says, of a module that is imported now."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


def _guarded(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function, of whose errors each becomes one line; those that are the user's already pass."""
    module = inspect.getmodule(function.func if isinstance(function, functools.partial) else function)

    @functools.wraps(function, updated=())
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return attempt(what, module, lambda: function(*args, **kwargs))

    return guarded
