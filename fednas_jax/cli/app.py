"""The command line: finds the command, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

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
    "compare": Command((("RUN RUN ...", "runs side by side: accuracy at equal MACs, client cost, by phase"),)),
    "report": Command((("RUN ...", "write report.html and figures of finished runs again"),)),
    "reprice": Command((("RUN", "what a finished run would have cost on other phones and links"),)),
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
            ("import KIND PATH", "import files of yours into columns (--to DIR; kinds: leaf, folder, npz)"),
        )
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 for a user's error, 130 or 143 after a signal."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    try:
        return _dispatch(args)
    except FednasError as error:
        if debug:
            traceback.print_exc()
        print(f"fednas: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader went away, as `fednas compare ... | head` does: not an error, but nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        raise ConfigError(f"command: got {args[0]!r}, want one of {', '.join(COMMANDS)}")
    command = COMMANDS[args[0]]
    # Imported when it is asked for: each command brings what it needs.
    module = importlib.import_module(f"fednas_jax.cli.{command.module or args[0]}")
    return module.run(args[1:], **command.arguments)


def _usage() -> str:
    from fednas_jax.bench.workloads import WORKLOADS
    from fednas_jax.config.presets import PRESETS

    names = {"presets": ", ".join(PRESETS), "workloads": ", ".join(WORKLOADS)}
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
