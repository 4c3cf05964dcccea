"""Options as typed records: parsed by tyro, whose messages become one line; and the terminal that answers."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from fednas_jax.config.methods import with_method
from fednas_jax.config.presets import fitted, tiny
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError
from fednas_jax.runtime.terminal import PlainConsole

HELP = {"-h", "--help"}


def parse(kind: type, args: Sequence[str], prog: str, default: Any = None) -> Any:
    """The record that options describe.

    Args:
      kind: a dataclass.
      args: options as typed.
      prog: what the user calls the command, for usage and messages.
      default: a record whose fields are the defaults.

    Raises:
      ConfigError: a mistake, in one line.
      SystemExit: help was asked for, and printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=list(args), prog=prog, **({} if default is None else {"default": default}))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"{prog}: {one_line(said.getvalue())}") from None


def leading_name(args: Sequence[str], command: str, want: str) -> tuple[str, list[str]]:
    """The name that stands before the options, such as a preset's, and the options; '' where help is asked for.

    Raises:
      ConfigError: there is no name, and no help is asked for.
    """
    name, rest = (args[0], list(args[1:])) if args and not args[0].startswith("-") else ("", list(args))
    if not name and not HELP & set(rest):
        raise ConfigError(f"{command}: got no {want}")
    return name, rest


def parse_fitted(kind: type, args: Sequence[str], prog: str, start: Config) -> Any:
    """As `parse`, of a record (out, config, ...): what is typed changes the preset's other defaults.

    Another network, a given parent, a method or a tiny try does so, of fields that were not typed themselves.

    Args:
      kind: a dataclass whose first fields are `out` and `config`; `tiny` may follow.
      args: options as typed.
      prog: what the user calls the command.
      start: the preset.
    """
    parsed = parse(kind, args, prog, kind(tyro.MISSING, start))
    fit = fitted(start, parsed.config.net.name, parsed.config.parent)
    fit = with_method(dataclasses.replace(fit, method=parsed.config.method))
    fit = tiny(fit) if getattr(parsed, "tiny", False) else fit
    return parsed if fit == start else parse(kind, args, prog, kind(tyro.MISSING, fit))


@dataclasses.dataclass(frozen=True)
class RunsArgs:
    """Finished runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs."""


def parse_runs(args: Sequence[str], command: str) -> tuple[Path, ...]:
    """The folders that a command about finished runs was given, at least one."""
    runs = parse(RunsArgs, args, f"fednas {command}").runs
    if not runs:
        raise ConfigError(f"{command}: got no run, want at least one finished run's folder")
    return runs


def terminal(quiet: bool = False) -> Console:
    """The terminal; a file or a pipe is taken to be wide enough for every table."""
    console = PlainConsole(quiet=quiet)
    return console if console.is_terminal else PlainConsole(width=120, quiet=quiet)


def one_line(said: str) -> str:
    """tyro's message: what stands between its first two rules, and the option it guesses was meant."""
    lines = [line.strip(" │") for line in said.splitlines()]
    # The box's top may have a title in it.
    rules = [n for n, line in enumerate(lines) if line and (line[0] == "╭" or set(line) <= set("─-╰╯"))]
    body = lines[rules[0] + 1 : rules[1]] if len(rules) > 1 else lines
    meant = [n for n, line in enumerate(lines) if line.startswith("Perhaps you meant")]
    guess = f"; perhaps you meant {lines[meant[0] + 1].split()[0]}" if meant and len(lines) > meant[0] + 1 else ""
    return " ".join(" ".join(body).split()) + guess
