"""The command line: finds the command, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from fednas_jax.cli import signals
from fednas_jax.errors import ConfigError, FednasError


class Command(NamedTuple):
    """One command; a module of this package runs it with its `run(args, **arguments)`."""

    usage: tuple[tuple[str, str], ...]  # what stands after it and what it does then, a line each
    module: str = ""  # the command's own name where none is said
    arguments: Mapping[str, str] = MappingProxyType({})


COMMANDS = {
    "search": Command((("PRESET --out RUN", "run a search, or go on with an unfinished one (presets: {presets})"),)),
    "pretrain": Command(
        (("PRESET --out RUN", "train a parent once, for many searches: fednas search PRESET --parent RUN"),),
        "search",
        {"command": "pretrain"},
    ),
    "sweep": Command((("FILE --out DIR", "run many searches from a .toml or .py file, or go on with them"),)),
    "compare": Command((("RUN RUN ...", "runs side by side: accuracy at equal MACs, client cost, by phase"),)),
    "report": Command((("RUN ...|SWEEP", "a page, figures and tables of finished runs or a sweep"),)),
    "verify": Command((("RUN ...", "whether runs' folders are what the runs wrote, file by file"),)),
    "reprice": Command((("RUN", "what a finished run would have cost on other phones and links"),)),
    "replay": Command((("RUN", "what other elimination policies would have chosen and cost, from learning curves"),)),
    "watch": Command((("DIR", "a live view of a run, or of all runs in a folder"),)),
    "tiers": Command((("RUN FILE", "the best member of a finished run's family for each class of phones"),)),
    "latency": Command((("PRESET|NETWORK", "measure a lookup table of latency by layer on this machine"),)),
    "bench": Command(
        (("[WORKLOAD ...]", "measure this machine: examples/s, FLOP/s, memory (workloads: {workloads})"),)
    ),
    "data": Command(
        (
            ("list", "the data sets there are"),
            ("show NAME", "what a data set holds, or a preset's; with --clients how it is divided, --out FILE.svg"),
            ("prepare NAME", "prepare a data set once, downloaded or from its original files (--from DIR)"),
            ("import KIND PATH", "import files of yours into columns (--to DIR; kinds: {kinds})"),
        )
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    It is 0; 2 for what a user or the machine has to change; 1 for a bug of ours; 130 or 143 after a signal.
    """
    with signals.ending(process=argv is None) as came:
        args = list(sys.argv[1:] if argv is None else argv)
        debug = "--debug" in args
        args = [a for a in args if a != "--debug"]
        try:
            return _dispatch(args)
        except (Exception, signals.Stopped, KeyboardInterrupt) as error:
            signals.ignore()
            return _failed(error, args, came, debug)


def _failed(error: BaseException, args: list[str], came: list[int], debug: bool) -> int:
    """Says in a line what ended a command, and returns its exit code."""
    from fednas_jax.cli import mishaps
    from fednas_jax.runtime.terminal import close_output, complain, flush_output

    if isinstance(error, BrokenPipeError):
        # The reader went away, as `fednas compare ... | head` does: not an error, but nothing more can be said.
        close_output()
        return 0
    with contextlib.suppress(OSError):
        flush_output()
    if debug:
        traceback.print_exception(error)
    if came or isinstance(error, KeyboardInterrupt):  # some library may have made another error of a signal
        number = came[0] if came else signal.SIGINT
        complain(signals.said(number))
        return 128 + number
    said = " ".join(str(error).split()) if isinstance(error, FednasError) else mishaps.explained(error)
    if said is not None:
        complain(f"fednas: {said}")
        return 2
    complain(mishaps.bug_report(error, args))
    return 1


def _dispatch(args: list[str]) -> int:
    from fednas_jax.runtime.terminal import flush_output, show_what_can_be_shown

    show_what_can_be_shown()
    try:
        code = _run(args)
    except SystemExit:  # of --help
        flush_output()
        raise
    flush_output()
    return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        raise ConfigError(f"command: got {args[0]!r}, want one of {', '.join(COMMANDS)}")
    command = COMMANDS[args[0]]
    # Imported when it is asked for: each command brings what it needs.
    module = importlib.import_module(f"fednas_jax.cli.{command.module or args[0]}")
    code: int = module.run(args[1:], **command.arguments)
    return code


def _usage() -> str:
    from fednas_jax.bench.workloads import WORKLOADS
    from fednas_jax.config.presets import PRESETS
    from fednas_jax.data.imports import KINDS

    names = {"presets": ", ".join(PRESETS), "workloads": ", ".join(WORKLOADS), "kinds": ", ".join(KINDS)}
    lines = [(f"{name} {what}", does.format(**names)) for name, c in COMMANDS.items() for what, does in c.usage]
    wide = max(len(call) for call, _ in lines)
    return "\n".join(
        [
            "usage: fednas COMMAND [OPTIONS]",
            "",
            "Federated neural architecture search, simulated, with every client's cost in a ledger.",
            "",
            "commands:",
            *(f"  {call:{wide}}  {does}" for call, does in lines),
            "",
            "fednas COMMAND --help shows every option. --debug, anywhere, shows the traceback of an error.",
        ]
    )
