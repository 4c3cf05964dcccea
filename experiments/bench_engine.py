"""Is one compiled program of lanes faster than the loop that a researcher would write in PyTorch? Measured in pairs.

`fedavg-round` and `nas-round` of `fednas bench`, trained by the fleet and by plain PyTorch loops (a process of its own,
with as many threads as there are cores). Both train the same network on the same clients with the same steps, batch
size, loss and optimiser, and both score where the workload scores; this is checked first: from the same weights and the
same order of examples the averaged updates of a few clients agree to a thousandth. Both are warmed up, then they take
turns, so that whatever else the machine does meets both: one turn of each is a pair. Where other programs keep a core
busy, PyTorch's threads wait for each other at every small operation: such a machine needs --torch-threads, or to be
left alone.

Command:  python experiments/bench_engine.py --torch-python TORCH_ENV/bin/python --out bench_engine.json
          (--tiny: small networks and few clients, in seconds; without PyTorch only the fleet is measured)
Hardware: 2 cores of an Intel Xeon at 2.80 GHz (AVX-512), shared with other machines; jax 0.10.2, PyTorch 2.13.0
Minutes:  2 for fedavg-round with 8 pairs
Measured: fedavg-round, 8 pairs: fleet 1,071 examples/s, PyTorch 1,059 (medians); PyTorch's seconds / the fleet's 1.01
          (0.81 to 1.14). With one device of two cores (JAX_NUM_CPU_DEVICES=1) 0.72 and 0.81. Six pairs while other
          programs used the cores: 5.8 (3.3 to 6.3), since PyTorch's threads wait for each other. nas-round, --clients
          2, 4 pairs: 1,054 against 1,025 examples/s, 1.00 (0.91 to 1.10).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

import fednas_jax as fn

NAMES = ("fedavg-round", "nas-round")


def tiny(workload: fn.Workload) -> fn.Workload:
    """The workload small enough for a test."""
    return dataclasses.replace(
        workload,
        net=dataclasses.replace(workload.net, widths=(4, 4, 8)),
        shape=(8, 8, 1),
        clients=3,
        candidates=min(2, workload.candidates),
        sizes=fn.Sizes(5, 45, median=20, sigma=0.5),
    )


def compare(
    workload: fn.Workload, worker: fn.TorchWorker | None, pairs: int, engine: fn.EngineConfig, threads: int
) -> dict[str, Any]:
    """One workload's rows, as JSON values; without a worker, the fleet's alone. `threads` are PyTorch's."""
    federation = fn.Federation(workload, workload.clients, 0)
    work = fn.FleetRounds(federation, engine, jax.local_devices())
    row: dict[str, Any] = {"workload": workload.name, "clients": workload.clients, "lanes": work.fleet.lanes}
    works: list[Callable[[], float]] = [work]
    if worker is not None:
        row |= {"torch": worker.version, "threads": worker.load(federation, jax.default_backend(), threads)}
        row["difference"] = worker.check(federation, work)
        works.append(lambda: float(worker.round("sequential", scored=workload.scored)["seconds"]))
    for each in works:
        each()  # warms up
    examples = work.effort.examples
    seconds = fn.in_turns(works, float("inf"), pairs)
    row["examples"] = (work.effort.examples - examples) // pairs
    row["fleet_seconds"] = seconds[0]
    if worker is not None:
        ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
        row |= {"torch_seconds": seconds[1], "ratios": ratios}
        row |= {"ratio": statistics.median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios)}
    return row


def show(console: Console, row: dict[str, Any]) -> None:
    """A line for each pair, and the median."""
    examples, fleet = row["examples"], row["fleet_seconds"]
    torch = row.get("torch_seconds", [None] * len(fleet))
    table = Table(title=f"{row['workload']}: {examples:,} examples of {row['clients']} clients, {row['lanes']} lanes")
    for name in ("pair", "fleet s", "PyTorch s", "fleet examples/s", "PyTorch examples/s", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)

    def line(name: str, ours: float, theirs: float | None, ratio: float | None) -> None:
        other = ["-"] * 3 if theirs is None else [f"{theirs:.3f}", f"{examples / theirs:,.0f}", f"{ratio:.2f}"]
        table.add_row(name, f"{ours:.3f}", other[0], f"{examples / ours:,.0f}", *other[1:])

    for n, (ours, theirs) in enumerate(zip(fleet, torch, strict=True)):
        line(str(n + 1), ours, theirs, row["ratios"][n] if "ratios" in row else None)
    middle = statistics.median(torch) if "ratio" in row else None
    line("median", statistics.median(fleet), middle, row.get("ratio"))
    console.print(table)
    if "ratio" in row:
        spread = f"{row['ratio_least']:.2f} to {row['ratio_most']:.2f}"
        console.print(
            f"PyTorch {row['torch']}, {row['threads']} threads, takes {row['ratio']:.2f} times as long ({spread}); "
            f"averaged updates agree to {row['difference']:.0e}\n",
            soft_wrap=True,
            highlight=False,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the workloads in pairs; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(NAMES)} (default: both)")
    parser.add_argument("--torch-python", help="the Python of an environment with PyTorch (default: this one)")
    parser.add_argument("--torch-threads", type=int, default=0, help="(default: the cores there are)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns (default: 5)")
    parser.add_argument("--clients", type=int, default=0, help="number of clients (default: the workload's own)")
    parser.add_argument("--lanes", type=int, default=0, help="lanes of the fleet (default: it chooses)")
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument("--tiny", action="store_true", help="small networks and few clients")
    args = parser.parse_args(argv)
    unknown = [name for name in args.workloads if name not in NAMES]
    if unknown:
        parser.error(f"workload: got {unknown[0]!r}, want one of {', '.join(NAMES)}")
    for name, least in (("pairs", 1), ("torch_threads", 0), ("clients", 0), ("lanes", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(args, name)}, want at least {least}")
    if args.out is not None and not args.out.parent.is_dir():
        parser.error(f"--out: got {args.out}, want a file in a folder that exists")

    fn.use_all_cores()
    console = Console() if sys.stdout.isatty() else Console(width=100)
    worker: fn.TorchWorker | None = None
    try:
        worker = fn.TorchWorker(args.torch_python or sys.executable)
    except fn.NoTorch as error:
        if args.torch_python and not Path(args.torch_python).is_file():
            parser.error(f"--torch-python: got {error}, want the Python of an environment with PyTorch")
        console.print(f"no comparison: {error}; give --torch-python one that has it", soft_wrap=True, highlight=False)
    machine = fn.describe_machine(jax.local_devices())
    report: dict[str, Any] = {"machine": machine, "tiny": args.tiny, "workloads": []}
    try:
        for name in args.workloads or NAMES:
            workload = tiny(fn.WORKLOADS[name]) if args.tiny else fn.WORKLOADS[name]
            workload = workload.with_clients(args.clients)
            engine = fn.EngineConfig(lanes=args.lanes)
            row = compare(workload, worker, args.pairs, engine, args.torch_threads)
            report["workloads"].append(row)
            show(console, row)
            if args.out is not None:
                args.out.write_text(json.dumps(report, indent=2) + "\n")
    except fn.NoTorch as error:  # it had PyTorch, but went wrong: nothing is skipped in silence
        print(f"bench_engine: {error}", file=sys.stderr)
        return 1
    finally:
        if worker is not None:
            worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
