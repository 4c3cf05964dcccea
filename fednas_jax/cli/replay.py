"""`fednas replay`: a finished run under other elimination policies."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fednas_jax.cli.parsing import leading_name, parse, terminal
from fednas_jax.errors import ConfigError
from fednas_jax.runtime.terminal import plain


@dataclasses.dataclass(frozen=True)
class ReplayArgs:
    """Replay a finished run's learning curves under other elimination policies, without training.

    Curves are recorded by `fednas search PRESET --method naive --search.policy "none(score_every=1)"`. Every
    combination of the options is tried; without policies, rungs and growth, a grid of some hundreds that fits what was
    recorded.
    """

    policies: tuple[str, ...] = ()
    """Policies as in --search.policy, such as "halving(eta=3)" median my_policy:within (default: the grid; with --rungs
    or --growth, rungs)."""
    rungs: tuple[str, ...] = ()
    """Rungs for the policies rungs and none, each ROUNDS:KEEP,ROUNDS:KEEP, such as 1:0.5,2:1."""
    growth: tuple[float, ...] = ()
    """Rounds that each iteration adds to every rung."""
    groups: tuple[int, ...] = ()
    """Client groups, which change the cost alone (default: the run's own)."""
    name: str = "replay"
    """Name of the files RUN/replay/NAME.json and NAME.svg."""


def run(args: list[str]) -> int:
    """Runs `fednas replay` with these arguments and returns the exit code."""
    name, rest = leading_name(args, "replay", "run, want a finished run's folder")
    parsed = parse(ReplayArgs, rest, "fednas replay RUN")
    from fednas_jax.report import replayed
    from fednas_jax.run.finished import load_run
    from fednas_jax.runtime import cache
    from fednas_jax.sweep import grids, replay
    from fednas_jax.sweep.curves import curves_of

    for field in ("growth", "groups"):
        for value in getattr(parsed, field):
            if not value >= (field == "groups"):
                raise ConfigError(f"--{field}: got {value}, want at least {int(field == 'groups')}")
    ladders = [grids.ladder_of(text) for text in parsed.rungs]
    cache.keep_compiled_programs()
    folder = Path(name)
    run = load_run(folder)
    start, policies = [run.config.search], parsed.policies
    if not (policies or ladders or parsed.growth):
        curves = curves_of(run)
        lengths = curves.lengths
        start = grids.default(run.config.search, int(lengths.min()), int(lengths[-1]), len(lengths))
    elif not policies:
        policies = ("rungs",)
    searches = grids.product(start, policies, ladders, parsed.growth, parsed.groups)
    file = parsed.name or replay.FOLDER
    found = replay.replay_run(folder, searches, file)
    replayed.print_replayed(terminal(), found)
    drawn = replayed.write_front(folder, file, found)
    print(plain(folder / replay.FOLDER / f"{file}.json"))
    if drawn is not None:
        print(plain(drawn))
    return 0
