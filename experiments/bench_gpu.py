"""How fast is one accelerator, and how far from its roofline? The whole table in one command, in six minutes at most.

Each part is a command of its own (`fednas bench ...`, `fednas search digits`) with a box of time, so that one that is
slow or fails takes nothing from the others; what does not fit into the six minutes is said to be left out. The table
and the JSON file have examples a second, shares of the matrix-product limit and of the roofline of the same run, lanes
without work, compilation, and, turn by turn on the same device, the ratios to PyTorch (a loop, a CUDA graph,
torch.func's vmap), to plain `jax.vmap`, and to one client after another.

Command:  python experiments/bench_gpu.py --torch-python TORCH_ENV/bin/python --out bench_gpu.json
          (--tiny: two small parts, without PyTorch, on a CPU too)
Hardware: one H100 or H200
Minutes:  6 at most
Measured: to be measured. Aimed at, examples/s on an H200: fedavg-round 1,000,000 in float32 and 1,600,000 in bfloat16,
          half of the roofline; 5 times torch.func's best, 10 times a CUDA graph's, 30 times one client after another.
          mobilenet-round and resnet-round: 5 times a CUDA graph's, 2 times torch.func's, 10 s of compilation.
          `search digits`: 24 s.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

SECONDS = 355.0  # of the whole
LEAST = 5.0  # seconds left that a part is begun with
COLUMNS = ("part", "lanes", "examples/s", "limit", "roof", "padding", "comp s", "wall s")


@dataclass(frozen=True)
class Part:
    """One command and its box of time."""

    name: str
    command: str  # of fednas
    seconds: float  # it is ended after these
    peers: bool = False

    @property
    def searches(self) -> bool:
        """Whether it is a search, of which only the time is told."""
        return self.command.startswith("search")


PARTS = (
    Part("fedavg, 2,048 clients", "bench fedavg-round --clients 2048 --lanes 256 --seconds 5", 60),
    Part("the same, bfloat16", "bench fedavg-round --clients 2048 --lanes 256 --seconds 5 --precision bfloat16", 50),
    Part("the same, fused", "bench fedavg-round --clients 2048 --lanes 256 --seconds 3 --engine.lowering fused", 40),
    Part(
        "the same, fused, bfloat16",
        "bench fedavg-round --clients 2048 --lanes 256 --seconds 3 --engine.lowering fused --precision bfloat16",
        40,
    ),
    Part("beside PyTorch", "bench fedavg-round --clients 2048 --lanes 256 --seconds 10 --repeats 5", 80, True),
    Part("resnet", "bench resnet-round --clients 64 --lanes 32 --seconds 8 --repeats 4", 75, True),
    Part("mobilenet", "bench mobilenet-round --clients 64 --lanes 32 --seconds 8 --repeats 4", 75, True),
    Part("nas, 128 clients", "bench nas-round --clients 128 --lanes 128 --seconds 5", 40),
    Part("lanes", "bench fedavg-round --clients 512 --lanes 32,128,512 --seconds 3 --repeats 3 --sequential", 60),
    Part("search digits", "search digits", 60),
    Part("scale", "bench scale --clients 100000 --lanes 1024 --seconds 2 --repeats 3", 40),
)
TINY = (
    Part("scale", "bench scale --clients 10 --lanes 2 --devices 1 --repeats 1", 50),
    Part("fedavg, 1 client", "bench fedavg-round --clients 1 --lanes 1 --devices 1 --repeats 1 --sequential", 50),
)


def run(part: Part, seconds: float, torch_python: str | None, folder: Path) -> dict[str, Any]:
    """What one part came to, as JSON values: its report, or the error."""
    out = folder / part.name.replace(" ", "-")
    extra = ["--peers"] if part.peers else []
    extra += ["--torch-python", torch_python] if part.peers and torch_python else []
    command = [sys.executable, "-m", "fednas_jax", *shlex.split(part.command), *extra, "--out", str(out)]
    # Programs and lanes that an earlier run left in the user's cache would hide what a first run takes.
    fresh = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    began = time.perf_counter()
    found: dict[str, Any] = {"name": part.name, "command": shlex.join(command[1:])}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=fresh)
    except subprocess.TimeoutExpired:
        return found | {"seconds": seconds, "error": f"not done after {seconds:.0f} s"}
    found["seconds"] = time.perf_counter() - began
    if done.returncode:
        last, *_ = done.stderr.strip().splitlines()[::-1] or [f"exit code {done.returncode}"]
        return found | {"error": last}
    return found | ({} if part.searches else {"report": json.loads(out.read_text())})


def lines(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's lines of one part."""
    wall = f"{found['seconds']:.1f}"
    if "error" in found or "report" not in found:
        return [(found["name"], *["-"] * (len(COLUMNS) - 2), wall)]
    (workload,) = found["report"]["workloads"]
    result = []
    for row in workload["rows"]:
        name = (
            found["name"]
            if len(workload["rows"]) == 1 or not workload["definition"]["ladder"]
            else (f"{found['name']}, {row['clients']:,} clients")
        )
        if "error" in row:
            result.append((name, str(row["lanes"]), row["error"], *["-"] * (len(COLUMNS) - 3)))
            continue
        shares = (f"{row[key]:.1%}" for key in ("share_of_product_limit", "share_of_roofline", "padding"))
        speed = f"{row['examples_per_second']:,.0f}"
        result.append((name, str(row["lanes"]), speed, *shares, f"{row['compile_seconds']:.1f}", wall))
        wall = ""
    return result


def remarks(found: dict[str, Any]) -> list[str]:
    """What the table has no columns for: failures, and how the fleet did beside others."""
    if "error" in found:
        return [f"{found['name']}: {found['error']} ({found['command']})"]
    if "report" not in found:
        return []
    (workload,) = found["report"]["workloads"]
    final = workload["best"] or workload["rows"][0]
    others = {"one after another": final["sequential"]} | final["peers"]
    told = [
        f"{found['name']}, beside {name}: {o['examples_per_second']:,.0f} examples/s; the fleet is {o['ratio']:.2f} "
        f"times as fast ({o['ratio_least']:.2f} to {o['ratio_most']:.2f}, {len(o['seconds'])} pairs)"
        for name, o in others.items()
        if o
    ]
    return told + [f"{found['name']}, {name} is not measured: {why}" for name, why in final["peers_left_out"].items()]


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """The table, and what it has no columns for."""
    reports = [found["report"] for found in results if "report" in found]
    if reports:
        machine, first = reports[0]["machine"], reports[0]["workloads"][0]
        limits = first["product_limit_flop_per_second"] / 1e12, first["copy_limit_bytes_per_second"] / 1e12
        say(
            console,
            f"{machine['devices']} x {machine['device_kind']}; jax {machine['jax']}, jaxlib {machine['jaxlib']}",
        )
        say(console, "matrix products reach {:,.2f} TFLOP/s, copies {:,.3f} TB/s".format(*limits))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for found in results:
        for line in lines(found):
            table.add_row(*line)
    console.print(table)
    for found in results:
        for remark in remarks(found):
            say(console, remark)


def say(console: Console, line: str) -> None:
    """A line as it is."""
    console.print(line, soft_wrap=True, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all parts that there is time for; the exit code, which is 1 if one is missing from the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", help="the Python of an environment with PyTorch (default: this one)")
    parser.add_argument("--out", type=Path, help="JSON file for everything measured; written after each part")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all parts (default: {SECONDS:.0f})")
    parser.add_argument("--tiny", action="store_true", help="two small parts, on a CPU too")
    args = parser.parse_args(argv)
    if args.out is not None and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out: got {args.out}, want a file in a folder that exists")
    if args.torch_python is not None and not Path(args.torch_python).is_file():
        parser.error(f"--torch-python: got {args.torch_python}, want the Python of an environment with PyTorch")
    if not args.seconds > 0:
        parser.error(f"--seconds: got {args.seconds}, want above 0")

    console = Console() if sys.stdout.isatty() else Console(width=100)
    results: list[dict[str, Any]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fednas-bench-") as folder:
        for part in TINY if args.tiny else PARTS:
            left = args.seconds - (time.perf_counter() - began)
            if left < LEAST:
                results.append(
                    {"name": part.name, "command": part.command, "seconds": 0.0, "error": "left out: no time"}
                )
            else:
                results.append(run(part, min(part.seconds, left), args.torch_python, Path(folder)))
            say(console, f"{part.name}: {results[-1].get('error', 'done')}, {results[-1]['seconds']:.1f} s")
            if args.out is not None:
                report = {"tiny": args.tiny, "seconds": time.perf_counter() - began, "parts": results}
                args.out.write_text(json.dumps(report, indent=2) + "\n")
    show(console, results)
    return int(any("error" in found for found in results))


if __name__ == "__main__":
    sys.exit(main())
