"""`fednas search` and `fednas pretrain`: a run from the command line."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fednas_jax.cli import signals
from fednas_jax.cli.parsing import leading_name, parse_fitted, terminal
from fednas_jax.config.methods import resolve
from fednas_jax.config.presets import PRESETS, preset
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, Interrupted
from fednas_jax.files import folder_names
from fednas_jax.runtime import cores, hosts
from fednas_jax.runtime.hosts import Hosts


@dataclasses.dataclass(frozen=True)
class SearchArgs:
    """Run a federated search, or pretrain its parent, or go on with either where it was stopped."""

    out: Path
    """Folder of the run; the same command on an unfinished run goes on with it."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    tiny: bool = False
    """Try the preset in a minute without its data: made-up data of that form, a shallow network, one iteration."""
    tiers: Path | None = None
    """JSON list of classes of phones; at the end, which member of the family each runs (`fednas tiers`). Not for
    pretraining."""


def run(args: list[str], command: Literal["search", "pretrain"] = "search") -> int:
    """Runs `fednas search`, or `fednas pretrain`, with these arguments and returns the exit code."""
    name, rest = leading_name(args, command, f"preset, want one of {', '.join(PRESETS)}")
    start = dataclasses.replace(preset(name) if name else next(iter(PRESETS.values())), command=command)
    prog = f"fednas {command} {name or 'PRESET'}"
    parsed = parse_fitted(SearchArgs, rest, prog, start)
    resolve(parsed.config)  # a mistake is answered before jax is imported
    folder_names(parsed.out, "a folder")  # a name that no folder can have is refused here
    if parsed.tiers is not None:
        if command == "pretrain":
            raise ConfigError(f"--tiers: got {parsed.tiers}, want none: a pretraining has no family")
        from fednas_jax.report import assigning

        assigning.read_tiers(parsed.tiers)
    hosts.start(parsed.hosts)
    cores.use_all_cores()  # before the console asks which host this is
    # Imported here: --help and mistyped options answer without waiting for jax.
    from fednas_jax.report import page, tables
    from fednas_jax.report.progress import Display
    from fednas_jax.run.folder import RunDir
    from fednas_jax.run.loop import run_search
    from fednas_jax.runtime import cache

    cache.keep_compiled_programs()
    console = terminal(quiet=not hosts.first())
    # Several hosts stop together, at a round's end: one that ended alone would leave the others waiting.
    with signals.heard(begun=parsed.hosts.auto or parsed.hosts.number > 1) as stop:
        done_before = hosts.from_first_host(lambda: RunDir(parsed.out).result() is not None)
        try:
            with Display(console, parsed.config.search.metric) as display:

                def observe(event: dict[str, Any]) -> None:
                    stop.begin()
                    display.observe(event)

                result = run_search(parsed.config, parsed.out, observe, lambda: bool(stop.asked))
        except Interrupted:
            console.print(f"stopped; the same command goes on from the last checkpoint in {parsed.out}")
            return 128 + (stop.asked or [signal.SIGTERM])[0]  # another host may have been asked

    def show() -> None:
        if done_before:
            kept = "changed" if parsed.tiers is None else "trained again"
            console.print(f"{parsed.out}: this run is finished; nothing was {kept}", soft_wrap=True)
        if command == "pretrain":
            parent = result["parent"]
            score = f"validation {parsed.config.search.metric} {parent['score']:.4f} at {parent['macs']:,} MACs"
            console.print(f"for searches with --parent {parsed.out}: {score}", soft_wrap=True, highlight=False)
            tables.print_cost(console, result)
            return
        # The page comes last: where it cannot be written, all else has been said, and the run is finished anyway.
        tables.print_family(console, result)
        if parsed.tiers is not None:
            tables.print_tiers(console, assigning.assign(parsed.out, assigning.read_tiers(parsed.tiers)))
        written = parsed.out / "report.html"
        if parsed.tiers is not None or not (done_before and written.exists()):  # killed after its result was written
            page.write_report(parsed.out, pdf=False)
        if not done_before:
            console.print(f"report: {written}", soft_wrap=True)

    hosts.from_first_host(show)  # the others wait: host 0 would have to end with them
    return 0
