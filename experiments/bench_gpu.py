"""How fast is one accelerator, and how far from its roofline? The whole table in one command, in six minutes at most.

Each part is a command of its own (`fednas bench ...`, `fednas search digits`) with its planned seconds, and with what
earlier parts left over; so one that is slow or fails takes nothing from the others. The table and the JSON file have
examples a second, shares of the matrix-product limit and of the roofline of the same run, lanes without work,
compilation, and, turn by turn on the same device, the ratios to PyTorch (a loop, a CUDA graph, torch.func's vmap), to
plain `jax.vmap`, and to one client after another.

`--before DIR` runs the main parts again with an earlier version of this project, `--flags=--xla_...` with other flags
of XLA, each right after the part, and tells how many times as fast it is now; that takes half as long again for each.

Command:  python experiments/bench_gpu.py --torch-python TORCH_ENV/bin/python --out bench_gpu.json
          python experiments/bench_gpu.py --before EARLIER --seconds 590 --out before.json
          (--tiny: two small parts, without PyTorch, on a CPU too)
Hardware: one H100 or H200
Minutes:  6 at most, by default
Measured: to be measured. Aimed at, examples/s on an H200: fedavg-round 1,000,000 in float32 and 1,600,000 in bfloat16,
          half of the roofline; 5 times torch.func's best, 10 times a CUDA graph's, 30 times one client after another.
          mobilenet-round and resnet-round: 5 times a CUDA graph's, 2 times torch.func's, 10 s of compilation.
          `search digits`: 24 s.
"""

from __future__ import annotations

import argparse
import itertools
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
    seconds: float  # planned; it may also take what earlier parts left over, and is ended then
    peers: bool = False
    again: bool = False  # run with the other settings too

    @property
    def searches(self) -> bool:
        """Whether it is a search, of which only the time is told."""
        return self.command.startswith("search")


@dataclass(frozen=True)
class Setting:
    """What else parts are run with."""

    name: str  # in the table; "" is this version as it is
    source: Path = Path(__file__).resolve().parents[1]  # folder of the project, wherever this is started
    flags: str = ""  # of XLA

    def environment(self, cache: Path) -> dict[str, str]:
        """Of a part's process."""
        # Programs and lanes that an earlier run left in the user's cache would hide what a first run takes.
        found = os.environ | {"XDG_CACHE_HOME": str(cache)}
        if "JAX_COMPILATION_CACHE_DIR" in found:
            found["JAX_COMPILATION_CACHE_DIR"] = str(cache / "programs")
        others = os.environ.get("PYTHONPATH")  # where jax may be
        found["PYTHONPATH"] = os.pathsep.join([str(self.source), *([others] if others else [])])
        if self.flags:
            found["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {self.flags}".strip()
        return found


NOW = Setting("")
PARTS = (
    Part("fedavg, 2,048 clients", "bench fedavg-round --clients 2048 --lanes 256 --seconds 5", 32, again=True),
    Part(
        "the same, bfloat16",
        "bench fedavg-round --clients 2048 --lanes 256 --seconds 5 --precision bfloat16",
        25,
        again=True,
    ),
    Part("the same, fused", "bench fedavg-round --clients 2048 --lanes 256 --seconds 3 --engine.lowering fused", 28),
    Part(
        "the same, fused, bfloat16",
        "bench fedavg-round --clients 2048 --lanes 256 --seconds 3 --engine.lowering fused --precision bfloat16",
        25,
    ),
    Part("beside PyTorch", "bench fedavg-round --clients 2048 --lanes 256 --seconds 10 --repeats 5", 50, peers=True),
    Part("resnet", "bench resnet-round --clients 64 --lanes 32 --seconds 8 --repeats 4", 40, peers=True, again=True),
    Part(
        "mobilenet", "bench mobilenet-round --clients 64 --lanes 32 --seconds 8 --repeats 4", 45, peers=True, again=True
    ),
    Part("nas, 128 clients", "bench nas-round --clients 128 --lanes 128 --seconds 5", 22, again=True),
    Part("lanes", "bench fedavg-round --clients 512 --lanes 32,128,512 --seconds 3 --repeats 3 --sequential", 35),
    Part("search digits", "search digits", 30, again=True),
    Part("scale", "bench scale --clients 100000 --lanes 1024 --seconds 2 --repeats 3", 15),
)
TINY = (
    Part("scale", "bench scale --clients 10 --lanes 2 --devices 1 --repeats 1", 50, again=True),
    Part("fedavg, 1 client", "bench fedavg-round --clients 1 --lanes 1 --devices 1 --repeats 1 --sequential", 50),
)


def run(part: Part, setting: Setting, seconds: float, torch_python: str | None, folder: Path) -> dict[str, Any]:
    """What one part came to, as JSON values: its report, or the error; nothing is begun that has no time."""
    name = f"{part.name}, {setting.name}" if setting.name else part.name
    out = folder / name.replace(" ", "-")
    peers = part.peers and setting == NOW
    extra = ["--peers"] if peers else []
    # Not resolved: an environment's Python is a link.
    extra += ["--torch-python", os.path.abspath(torch_python)] if peers and torch_python else []
    command = [sys.executable, "-m", "fednas_jax", *shlex.split(part.command), *extra, "--out", str(out)]
    environment = setting.environment(folder / f"cache-{setting.name}")
    began = time.perf_counter()
    found: dict[str, Any] = {"name": name, "part": part.name, "setting": setting.name}
    found |= {"command": shlex.join(command[1:]), "seconds": 0.0}
    if seconds < LEAST:
        return found | {"error": "left out: no time"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=environment, cwd=setting.source
        )
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
        # An earlier version may not have counted all of them.
        keys = ("share_of_product_limit", "share_of_roofline", "padding")
        shares = (f"{row[key]:.1%}" if key in row else "-" for key in keys)
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
    others = {"one after another": final["sequential"]} | final.get("peers", {})
    told = [
        f"{found['name']}, beside {name}: {o['examples_per_second']:,.0f} examples/s; the fleet is {o['ratio']:.2f} "
        f"times as fast ({o['ratio_least']:.2f} to {o['ratio_most']:.2f}, {len(o['seconds'])} pairs)"
        for name, o in others.items()
        if o
    ]
    left_out = final.get("peers_left_out", {})
    return told + [f"{found['name']}, {name} is not measured: {why}" for name, why in left_out.items()]


def compared(results: list[dict[str, Any]]) -> list[str]:
    """How each part did beside the same one with another setting."""
    told, now = [], {found["part"]: found for found in results if not found["setting"]}
    for other in results:
        mine = now[other["part"]]
        if not other["setting"] or "error" in other or "error" in mine:
            continue
        if "report" in mine:
            (fast, compiling), (slow, compiled) = map(_speed, (mine, other))
            more = f"{fast / slow:.2f} times the examples/s, {compiling:.1f} s of compilation and not {compiled:.1f}"
        else:
            more = f"{other['seconds'] / mine['seconds']:.2f} times as fast"
        told.append(f"{mine['name']}, beside {other['setting']}: {more}")
    return told


def _speed(found: dict[str, Any]) -> tuple[float, float]:
    """Examples a second and seconds of compilation."""
    (workload,) = found["report"]["workloads"]
    row = workload["best"] or workload["rows"][-1]
    return row["examples_per_second"], row["compile_seconds"]


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
    for remark in (*itertools.chain.from_iterable(map(remarks, results)), *compared(results)):
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
    parser.add_argument("--before", type=Path, metavar="DIR", help="an earlier version: main parts run with it too")
    parser.add_argument("--flags", default="", help="of XLA: main parts run with them too")
    args = parser.parse_args(argv)
    if args.out is not None and (args.out.is_dir() or not args.out.parent.is_dir()):
        parser.error(f"--out: got {args.out}, want a file in a folder that exists")
    if args.torch_python is not None and not Path(args.torch_python).is_file():
        parser.error(f"--torch-python: got {args.torch_python}, want the Python of an environment with PyTorch")
    if not args.seconds > 0:
        parser.error(f"--seconds: got {args.seconds}, want above 0")
    if args.before is not None and not (args.before / "fednas_jax" / "__main__.py").is_file():
        parser.error(f"--before: got {args.before}, want a folder with the project")

    settings = [NOW]
    settings += [Setting("before", args.before.resolve())] if args.before is not None else []
    settings += [Setting("other flags", flags=args.flags)] if args.flags else []
    runs = [(p, s) for p in (TINY if args.tiny else PARTS) for s in settings if s == NOW or p.again]

    console = Console() if sys.stdout.isatty() else Console(width=100)
    results: list[dict[str, Any]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fednas-bench-") as folder:
        for number, (part, setting) in enumerate(runs):
            left = args.seconds - (time.perf_counter() - began)
            planned = sum(later.seconds for later, _ in runs[number + 1 :])
            seconds = min(left, max(part.seconds, left - planned))
            results.append(run(part, setting, seconds, args.torch_python, Path(folder)))
            say(console, f"{results[-1]['name']}: {results[-1].get('error', 'done')}, {results[-1]['seconds']:.1f} s")
            if args.out is not None:
                report = {"tiny": args.tiny, "seconds": time.perf_counter() - began, "parts": results}
                args.out.write_text(json.dumps(report, indent=2) + "\n")
    show(console, results)
    return int(any("error" in found for found in results))


if __name__ == "__main__":
    sys.exit(main())
