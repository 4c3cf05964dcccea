"""Is one compiled program of lanes faster than the loop that a researcher would write in PyTorch? Measured in pairs.

`fedavg-round` and `nas-round` of `fednas bench`, trained by the fleet and by plain PyTorch loops (`torch_worker.py`, a
process of its own, with as many threads as there are cores). Both train the same network on the same clients with the
same steps, batch size, loss and optimiser; this is checked first: from the same weights and the same order of examples
the averaged weights of a round agree to 1e-4. Both are warmed up, then they take turns, so that whatever else the
machine does meets both: one turn of each is a pair. Where other programs keep a core busy, PyTorch's threads wait for
each other at every small operation: such a machine needs --torch-threads, or to be left alone.

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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import fednas_jax as fn
from fednas_jax.bench.machine import describe, some_devices
from fednas_jax.bench.measuring import Federation, FleetRounds, in_turns
from fednas_jax.bench.workloads import WORKLOADS, Sizes, Workload
from fednas_jax.engine import local
from fednas_jax.runtime import cores

NAMES = ("fedavg-round", "nas-round")
TOLERANCE = 1e-4  # on the averaged weights of a round


class NoTorch(Exception):
    """The worker cannot do what was asked; the text says why."""


class Torch:
    """The worker process: started once, alive until `close`."""

    def __init__(self, python: str):
        worker = Path(__file__).with_name("torch_worker.py")
        try:
            self.process = subprocess.Popen(
                [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise NoTorch(f"{python}: {error.strerror}") from error

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
          NoTorch: the worker says that it cannot, or has gone.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it says why before it goes
        line = self.process.stdout.readline()
        told = json.loads(line) if line else {"error": "the PyTorch worker ended without a word"}
        if "error" in told:
            raise NoTorch(told["error"])
        return told

    def close(self) -> None:
        """Ends the worker."""
        self.process.communicate()


def tiny(workload: Workload) -> Workload:
    """The workload small enough for a test."""
    return dataclasses.replace(
        workload,
        net=dataclasses.replace(workload.net, widths=(4, 4, 8)),
        shape=(8, 8, 1),
        clients=3,
        candidates=min(2, workload.candidates),
        sizes=Sizes(5, 45, median=20, sigma=0.5),
    )


def to_torch(params: dict[str, np.ndarray], pooled: tuple[int, int]) -> dict[str, np.ndarray]:
    """Weights of the registry's cnn [K, ...] by PyTorch's names and in its layout.

    Args:
      params: by path, kernels HWIO and [inputs, outputs].
      pooled: height and width of the second convolution's output after pooling, which flattens channels last here
        and channels first there.
    """
    conv = {f"{n}.weight": params[f"{n}/kernel"].transpose(0, 4, 3, 1, 2) for n in ("conv1", "conv2")}
    kernel = params["dense/kernel"]
    slots, outputs = len(kernel), kernel.shape[2]
    dense = kernel.reshape(slots, *pooled, -1, outputs).transpose(0, 4, 3, 1, 2).reshape(slots, outputs, -1)
    biases = {f"{n}.bias": params[f"{n}/bias"] for n in ("conv1", "conv2", "dense", "classifier")}
    last = {"dense.weight": dense, "classifier.weight": params["classifier/kernel"].swapaxes(1, 2)}
    return {name: np.ascontiguousarray(value) for name, value in {**conv, **last, **biases}.items()}


def load(worker: Torch, federation: Federation, threads: int, folder: Path) -> dict[str, Any]:
    """Hands the clients and the first weights over; the worker's threads."""
    f, t = federation, federation.workload.train
    np.savez(
        folder / "clients.npz",
        **f.data._asdict(),
        mean=np.asarray(f.mean),
        std=np.asarray(f.std),
        steps=local.local_steps(f.data.train_count, t),
        batch=t.batch_size,
        rate=t.learning_rate,
        momentum=t.momentum,
        decay=t.weight_decay,
        rounds=f.workload.rounds,
        scored=f.workload.scored,
    )
    start: dict[str, Any] = {**to_torch(f.start().params, pooled(f))}
    np.savez(folder / "start.npz", **start)
    files = {"clients": str(folder / "clients.npz"), "start": str(folder / "start.npz")}
    return worker.ask(do="load", threads=threads, **files)


def pooled(federation: Federation) -> tuple[int, int]:
    """Height and width after the network's two poolings."""
    height, width, _ = federation.workload.shape
    return height // 4, width // 4


def check(worker: Torch, federation: Federation, work: FleetRounds, folder: Path) -> float:
    """Largest difference of any averaged weight after one round of both, from the same weights and orders.

    Momentum multiplies a rate by 1 / (1 - momentum), and with it what float32 rounds differently at every step: it is
    checked at a rate that makes up for it.

    Raises:
      NoTorch: they differ by more than TOLERANCE.
    """
    f, train = federation, federation.workload.train
    rate = train.learning_rate * (1 - train.momentum)
    key = jax.random.key(f.seed)
    for part in f.moment(0):
        key = jax.random.fold_in(key, part)
    capacity = local.stream_capacity(f.data.train_count, train)
    counts = f.data.train_count[f.tasks.client]
    names = np.asarray(f.names)[f.tasks.candidate]
    keys = [jax.random.fold_in(jax.random.fold_in(key, k), c) for k, c in zip(names, f.tasks.client, strict=True)]
    orders = jax.vmap(lambda key, count: local.stream(key, count, capacity))(jax.numpy.stack(keys), counts)
    np.savez(folder / "orders.npz", orders=np.asarray(orders))
    worker.ask(do="check", rate=rate, orders=str(folder / "orders.npz"), out=str(folder / "trained.npz"))
    theirs = np.load(folder / "trained.npz")

    stack, server = f.start(), work.fleet.init_server(f.start())
    stack, *_ = work.fleet.train(f.widths, stack, server, f.tasks, f.moment(0), f.names, rate)
    ours = to_torch(jax.device_get(stack.params), pooled(f))
    difference = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)
    if not difference <= TOLERANCE:
        raise NoTorch(f"{f.workload.name}: the averaged weights differ by {difference:.1e}, want {TOLERANCE} at most")
    return difference


def compare(
    workload: Workload, worker: Torch | None, pairs: int, engine: fn.EngineConfig, threads: int, folder: Path
) -> dict[str, Any]:
    """One workload's rows, as JSON values; without a worker, the fleet's alone. `threads` are PyTorch's."""
    federation = Federation(workload, workload.clients, 0)
    work = FleetRounds(federation, engine, some_devices(0))
    row: dict[str, Any] = {"workload": workload.name, "clients": workload.clients, "lanes": work.fleet.lanes}
    works: list[Callable[[], float]] = [work]
    if worker is not None:
        row |= worker.ask(do="version") | load(worker, federation, threads, folder)
        row["difference"] = check(worker, federation, work, folder)
        works.append(lambda: float(worker.ask(do="round")["seconds"]))
    for each in works:
        each()  # warms up
    examples = work.effort.examples
    seconds = in_turns(works, float("inf"), pairs)
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
            f"averaged weights of a round agree to {row['difference']:.0e}\n",
            soft_wrap=True,
            highlight=False,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the workloads in pairs; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(NAMES)} (default: both)")
    parser.add_argument("--torch-python", help="the Python of an environment with PyTorch (default: this one)")
    parser.add_argument("--torch-threads", type=int, default=cores.number(), help="(default: the cores there are)")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of turns (default: 5)")
    parser.add_argument("--clients", type=int, default=0, help="number of clients (default: the workload's own)")
    parser.add_argument("--lanes", type=int, default=0, help="lanes of the fleet (default: it chooses)")
    parser.add_argument("--out", type=Path, help="JSON file for everything measured")
    parser.add_argument("--tiny", action="store_true", help="small networks and few clients")
    args = parser.parse_args(argv)
    unknown = [name for name in args.workloads if name not in NAMES]
    if unknown:
        parser.error(f"workload: got {unknown[0]!r}, want one of {', '.join(NAMES)}")
    for name, least in (("pairs", 1), ("torch_threads", 1), ("clients", 0), ("lanes", 0)):
        if getattr(args, name) < least:
            parser.error(f"--{name.replace('_', '-')}: got {getattr(args, name)}, want at least {least}")
    if args.out is not None and not args.out.parent.is_dir():
        parser.error(f"--out: got {args.out}, want a file in a folder that exists")

    cores.use_all_cores()
    console = Console() if sys.stdout.isatty() else Console(width=100)
    worker: Torch | None = None
    try:
        worker = Torch(args.torch_python or sys.executable)
        worker.ask(do="version")
    except NoTorch as error:
        if args.torch_python and not Path(args.torch_python).is_file():
            parser.error(f"--torch-python: got {error}, want the Python of an environment with PyTorch")
        console.print(f"no comparison: {error}; give --torch-python one that has it", soft_wrap=True, highlight=False)
        worker = None
    report: dict[str, Any] = {"machine": describe(some_devices(0)), "tiny": args.tiny, "workloads": []}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name in args.workloads or NAMES:
                workload = tiny(WORKLOADS[name]) if args.tiny else WORKLOADS[name]
                workload = workload.with_clients(args.clients)
                engine = fn.EngineConfig(lanes=args.lanes)
                row = compare(workload, worker, args.pairs, engine, args.torch_threads, Path(folder))
                report["workloads"].append(row)
                show(console, row)
                if args.out is not None:
                    args.out.write_text(json.dumps(report, indent=2) + "\n")
    except NoTorch as error:  # it had PyTorch, but went wrong: nothing is skipped in silence
        print(f"bench_engine: {error}", file=sys.stderr)
        return 1
    finally:
        if worker is not None:
            worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
