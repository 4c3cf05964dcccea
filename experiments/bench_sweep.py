"""What does a sweep save that keeps its worker warm? Seeds x learning rates of digits, in turns.

`processes`: a process of its own for each trial, `fednas search`, which starts, loads, probes and traces anew.
`warm`: `fednas sweep` with one worker, which keeps all that, its start and the first trial's compilation counted.
`two workers`: the same sweep with `--workers 2`, each of which has half of the cores.
`packed`: the same sweep with `--pack auto`, in a process of its own, whose trials train in one program.
A trial is run by the first, then by the second, so that whatever else the machine does meets both. Both begin with one
empty compilation cache, which the worker's first trial fills: a process of its own finds compiled programs on disk. The
other sweeps run after them, each with an empty cache of its own. The networks that all find are compared first of all:
where they differ, it is an error and not a result. With `two workers` a trial's sums have another order, since it has
one device instead of two: how many trials found other networks is said.

Command:  python experiments/bench_sweep.py --out runs/bench-sweep    (--tiny: made-up images, two trials)
Hardware: 2 cores
Minutes:  about 30 for 8 seeds x 4 rates
Expected: docs/performance.md, "Sweeps"
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import claims

import fednas_jax as fn

RATES = (0.05, 0.1, 0.15, 0.2)
WHOLE: dict[str, dict[str, Any]] = {"two workers": {"workers": 2}, "packed": {"pack": "auto"}}  # timed as one


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """A compilation cache that is empty at first, of this process and all that it starts meanwhile."""
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        try:
            yield
        finally:
            del os.environ["XDG_CACHE_HOME"]
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


def own_process(fields: Mapping[str, Any], out: Path, tiny: bool) -> float:
    """Seconds of a trial in a process of its own.

    Raises:
      SystemExit: it failed.
    """
    options = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]
    command = [sys.executable, "-m", "fednas_jax", "search", "digits", *options, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(command + ["--tiny"] * tiny, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{out}: {done.stderr.strip()}")
    return time.perf_counter() - began


def in_turns(trials: Sequence[dict[str, Any]], out: Path, tiny: bool) -> dict[str, list[float]]:
    """Mode -> seconds of each trial, the trials of both modes in turns.

    Args:
      trials: each a dict of fields.
      out: a folder that is not there yet.
      tiny: on made-up images.

    Raises:
      SystemExit: a trial failed, or the modes found other networks.
    """
    base = fn.preset("digits")
    seconds: dict[str, list[float]] = {"processes": [], "warm": []}
    since = time.perf_counter()

    def ended(event: dict[str, Any]) -> None:  # the worker waits meanwhile
        nonlocal since
        if event["event"] != "trial":
            return
        if event["status"] != "finished":
            raise SystemExit(f"{event['trial']}: {event.get('error')}")
        seconds["warm"].append(time.perf_counter() - since)
        alone = out / "processes" / event["trial"]
        seconds["processes"].append(own_process(trials[len(seconds["processes"])], alone, tiny))
        if found(out / "warm" / "trials" / event["trial"]) != found(alone):
            raise SystemExit(f"{event['trial']}: the modes found other networks")
        since = time.perf_counter()

    fn.run_sweep(trials, out / "warm", base=fn.tiny(base) if tiny else base, observe=ended)
    return seconds


def swept(trials: Sequence[dict[str, Any]], out: Path, tiny: bool, **how: Any) -> float:
    """Seconds of a whole sweep.

    Args:
      trials: each a dict of fields.
      out: the sweep's folder, beside that of the processes.
      tiny: on made-up images.
      **how: arguments of `run_sweep`.

    Raises:
      SystemExit: a trial failed, or a pack found other networks than its trials by themselves.
    """
    base = fn.preset("digits")
    began = time.perf_counter()
    done = fn.run_sweep(trials, out, base=fn.tiny(base) if tiny else base, **how)
    seconds = time.perf_counter() - began
    if done.failed:
        raise SystemExit(f"{out}: {done.failed} trials failed")
    runs = sorted((out.parent / "processes").iterdir())
    other = [alone.name for alone in runs if found(out / "trials" / alone.name) != found(alone)]
    if other and "pack" in how:
        raise SystemExit(f"{', '.join(other)}: the modes found other networks")
    if other:
        print(f"{out.name}: {len(other)} of {len(trials)} trials found other networks", file=sys.stderr)
    return seconds


def found(run: Path) -> list[Any]:
    """The widths of a run's networks."""
    return [model["widths"] for model in json.loads((run / "result.json").read_text())["models"]]


def table(seconds: Mapping[str, Sequence[float]]) -> str:
    """The modes side by side: the first trial's seconds, the median of the others, all, and how many times faster.

    A sweep whose trials run side by side has one number.
    """
    slowest = sum(seconds["processes"])
    rows = [
        [
            mode,
            f"{took[0]:,.1f}" if took[1:] else "-",
            f"{statistics.median(took[1:]):,.1f}" if took[1:] else "-",
            f"{sum(took):,.0f}",
            f"{slowest / sum(took):.2f}",
        ]
        for mode, took in seconds.items()
    ]
    return claims.markdown(["mode", "first trial, s", "later ones, s", "all, s", "times faster"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the runs")
    parser.add_argument("--seeds", type=int, default=8, help="(default: 8)")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates (default: %(default)s)")
    parser.add_argument(
        "--modes", nargs="+", choices=list(WHOLE), default=list(WHOLE), help="beside processes and warm"
    )
    parser.add_argument("--tiny", action="store_true", help="made-up images, one seed and two rates")
    args = parser.parse_args(argv)
    seeds, rates = (1, RATES[:2]) if args.tiny else (args.seeds, tuple(args.rates))
    trials = [{"seed": s, "train.learning_rate": r} for s, r in itertools.product(range(seeds), rates)]
    if len(trials) < 2:
        parser.error("--seeds, --rates: got one trial, want at least two: the first compiles")
    if args.out.exists():
        parser.error(f"--out: {args.out} is there already, want a new folder: what is finished is not run again")
    args.out.mkdir(parents=True)
    with empty_cache():
        seconds = in_turns(trials, args.out, args.tiny)
    for mode in dict.fromkeys(args.modes):
        with empty_cache():
            seconds[mode] = [swept(trials, args.out / mode.replace(" ", "-"), args.tiny, **WHOLE[mode])]
    text = table(seconds)
    print(text)
    (args.out / "table.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
