"""`fednas sweep`: many runs from one file."""

from __future__ import annotations

import dataclasses
import itertools
import signal
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from fednas_jax.cli import signals
from fednas_jax.cli.parsing import parse, terminal
from fednas_jax.errors import ConfigError, Interrupted
from fednas_jax.runtime.hosts import Hosts

MOST_UNASKED = 1000  # trials that need no --yes
SOME_FAILED = 3  # exit code


@dataclasses.dataclass(frozen=True)
class SweepArgs:
    """Run many searches from one file, or go on with them. Exit code 0: all finished; 3: some trials failed."""

    file: tyro.conf.Positional[Path]
    """What to run: .toml, or .py, whose code is run. docs/sweeps.md says what stands in it."""
    out: Path
    """Folder of the sweep; the same command goes on with an unfinished one. OUT/trials.parquet is its table."""
    workers: int = 1
    """Trials that run at the same time, each with its share of cores and GPUs; 0: in this very process."""
    engine: Literal["local", "ray"] = "local"
    """Workers are processes of this machine, or actors of a Ray cluster (pip install 'fednas-jax[ray]')."""
    dry_run: bool = False
    """List the trials, with an estimate of time, client cost and memory from one short measurement; run none."""
    retry_failed: bool = False
    """Try trials again that failed."""
    replace: bool = False
    """Begin trials anew whose configs have changed under the same name; their runs move to OUT/replaced."""
    drop: str | None = None
    """Policy that drops trials early, named as for --search.policy: a trial is a candidate, an iteration of its search
    a round. "halving(eta=3)" is asynchronous successive halving."""
    pack: str = "off"
    """Trials that train in one program, with the same results: a number, auto (as many as memory takes), or off."""
    continue_dropped: bool = False
    """Let trials go on that were dropped; they are not dropped again."""
    part: str = "0/1"
    """INDEX/COUNT: only every COUNT-th trial from INDEX on, for job arrays; each part needs a folder of its own."""
    yes: bool = False
    """Run more than 1,000 trials."""
    hosts: Hosts = dataclasses.field(default_factory=Hosts)


def run(args: list[str]) -> int:
    """Runs `fednas sweep` with these arguments and returns the exit code."""
    parsed: SweepArgs = parse(SweepArgs, args, "fednas sweep")
    part = _part(parsed.part)
    pack = _pack(parsed.pack)
    several = parsed.hosts.auto or parsed.hosts.coordinator is not None
    parsed.hosts.validate()
    if several and (parsed.workers or parsed.engine != "local"):
        raise ConfigError("workers: got workers with --hosts options, want --workers 0: hosts share every trial")
    from fednas_jax.sweep import sources

    source = sources.read(parsed.file)
    trials = _counted(source.trials, parsed.yes)
    if parsed.workers == 0:
        from fednas_jax.runtime import cores, hosts

        hosts.start(parsed.hosts)
        cores.use_all_cores()
        console = terminal(quiet=not hosts.first())
    else:
        console = terminal()
    asked: dict[str, Any] = {"base": source.base, "trials": trials, "out": parsed.out, "part": part, "pack": pack}
    asked |= {name: getattr(parsed, name) for name in ("workers", "engine", "drop")}
    asked |= {name: getattr(parsed, name) for name in ("retry_failed", "replace", "continue_dropped")}
    if parsed.dry_run:
        from fednas_jax.sweep import estimating

        estimating.print_estimates(console, estimating.estimated(**asked))
        return 0
    return _run(console, parsed.out, several, asked)


def _run(console: Console, out: Path, several: bool, asked: dict[str, Any]) -> int:
    from fednas_jax.sweep.running import run_sweep

    with signals.heard(begun=several) as stop:

        def observe(event: dict[str, Any]) -> None:
            stop.begin()
            console.print(_line(event), soft_wrap=True, highlight=False)

        try:
            swept = run_sweep(observe=observe, should_stop=lambda: bool(stop.asked), **asked)
        except Interrupted:
            console.print(f"stopped; the same command goes on with {out}", soft_wrap=True)
            return 128 + (stop.asked or [signal.SIGTERM])[0]
    dropped = f", {swept.dropped:,} dropped early" if swept.dropped else ""
    table = out / "trials.parquet"
    console.print(f"{swept.finished:,} finished, {swept.failed:,} failed{dropped}; table: {table}", soft_wrap=True)
    if swept.failed:
        console.print("the table says why; --retry-failed tries them again")
    return SOME_FAILED if swept.failed else 0


def _line(event: dict[str, Any]) -> str:
    """What the terminal says of an event."""
    if event["event"] == "sweep":
        said = f"{event['trials']:,} trials, {event['done']:,} of them done"
        if event["new"]:
            said += f", {event['new']:,} new"
        if event["left_out"]:
            said += f"; {len(event['left_out']):,} are no longer asked for, their runs stay"
        return said
    said = f"{event['done']:,}/{event['of']:,} {event['trial']} {event['status']}"
    if event["status"] in ("failed", "dropped"):
        return f"{said}: {event['error' if event['status'] == 'failed' else 'stop_reason']}"
    if event["status"] == "finished":
        found = [(name.removeprefix("accuracy_"), v) for name, v in event.items() if name.startswith("accuracy_")]
        smallest = [f"test accuracy {value:.4f} at {share} % MACs" for share, value in found if value is not None]
        wall = event["wall_seconds"]
        return ", ".join([f"{said} in {wall:,.1f} s" if wall is not None else said, *smallest[-1:]])
    return said


def _counted(trials: Any, yes: bool) -> Any:
    """The trials, unless they are many and nobody said so."""
    if yes or not hasattr(trials, "__iter__") or isinstance(trials, str | dict):  # told to the user later, in words
        return trials
    from fednas_jax.sweep.designs import MOST_TRIALS

    few = list(itertools.islice(trials, MOST_UNASKED + 1))
    if len(few) > MOST_UNASKED:
        number = f"{len(trials):,}" if hasattr(trials, "__len__") else f"more than {MOST_UNASKED:,}"
        if hasattr(trials, "__len__") and len(trials) > MOST_TRIALS:  # a file's generator is walked only so far
            number = f"more than {MOST_TRIALS:,}"
        raise ConfigError(f"trials: got {number}, want at most {MOST_UNASKED:,}, or --yes")
    return few


def _part(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()) or len(text) > 20:
        raise ConfigError(f"--part: got {text[:100]!r}, want INDEX/COUNT, such as 0/8")
    return int(index), int(count)


def _pack(text: str) -> Any:
    """A number, 'auto' or 'off'.

    Raises:
      ConfigError: it is none of them.
    """
    from fednas_jax.sweep import packing

    found = int(text) if text.isdecimal() and len(text) <= 20 else text
    packing.check(found)
    return found
