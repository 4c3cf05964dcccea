"""What does a training step move, and how often does it pass over its weights? Counted in the program that XLA made.

The step of each workload is compiled for this machine's first device, or for a GPU that a file describes, and is not
run: no GPU has to be there. Beside the megabytes that the step's instructions read and write (`bench/traffic.py`)
stand those of the roofline, the passes over the largest variable, its gradient and its momentum (reads and writes of
all of it), and the seconds that tracing and compiling took.

    python -m fednas_jax.bench.passes fedavg-round nas-round --lanes 32

`--target h100.txtpb` compiles for a GPU, as XLA describes it with `--xla_dump_to`; it needs jax's CUDA plugin.
Measured: docs/performance.md, "Passes over the weights".
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from rich import box
from rich.console import Console
from rich.table import Table

from fednas_jax import nets
from fednas_jax.bench.roofline import train_bytes
from fednas_jax.bench.traffic import step_traffic
from fednas_jax.bench.workloads import CLASSES, USUAL, WORKLOADS
from fednas_jax.engine.lane_steps import compiled_steps
from fednas_jax.nets import lowerings

COLUMNS = (
    "workload",
    "lowering",
    "precision",
    "MB a lane",
    "roofline",
    "weights read",
    "written",
    "bf16 read",
    "written",
    "comp s",
)


def counted(name: str, lowering: str, precision: Any, lanes: int, device: jax.Device) -> dict[str, Any]:
    """One row: what a step of the workload moves on a device, a lane."""
    workload = WORKLOADS[name]
    train = dataclasses.replace(workload.train, precision=precision)
    network = nets.build(workload.net, workload.shape, CLASSES)
    widths = tuple(network.widths.values())
    began = time.perf_counter()
    with lowerings.using(lowering), as_if_there(device):
        program = compiled_steps(network, train, device, lanes).run
    seconds = time.perf_counter() - began
    found = step_traffic(program.as_text())
    largest = max(leaf.size for leaf in network.abstract(widths).params.values())
    whole, rounded = found.passes(lanes * largest, "f32"), found.passes(lanes * largest, "bf16")
    return {
        "workload": name,
        "lowering": lowering,
        "precision": precision,
        "lanes": lanes,
        "bytes_a_lane": found.bytes / lanes,
        "roofline_bytes": train_bytes(network, widths, train),
        "float32_passes": whole._asdict(),
        "bfloat16_passes": rounded._asdict(),
        "compile_seconds": seconds,
    }


def described(target: Path) -> jax.Device:
    """The GPU that a file describes; programs can be compiled for it, and not run."""
    topology = topologies.get_topology_desc("described", "cuda", target_config=target.read_text(), topology="1x1x1")
    device: jax.Device = topology.devices[0]
    return device


def as_if_there(device: jax.Device) -> contextlib.AbstractContextManager[Any]:
    """While it is open, kernels of our own are made for the device; jax would ask this machine's, which may be none."""
    if device in jax.devices():
        return contextlib.nullcontext()
    told = jax.sharding.AbstractDevice(device.device_kind, None, device.platform)
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=told))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", default=["fedavg-round"], help=f"of {', '.join(USUAL)}")
    parser.add_argument("--lanes", type=int, default=32, help="side by side (default: 32)")
    parser.add_argument("--lowerings", nargs="+", default=[lowerings.DEFAULT], choices=lowerings.LOWERINGS)
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--target", type=Path, help="file that describes a GPU (default: this machine's first device)")
    args = parser.parse_args(argv)
    for name in args.workloads:
        if name not in WORKLOADS:
            parser.error(f"workloads: got {name}, want some of {', '.join(USUAL)}")
    if args.lanes < 1:
        parser.error(f"--lanes: got {args.lanes}, want at least 1")
    if args.target is not None and not args.target.is_file():
        parser.error(f"--target: got {args.target}, want a file")

    try:
        device = described(args.target) if args.target else jax.devices()[0]
    except Exception as error:  # any: without jax's CUDA plugin, or for want of a description in the file
        parser.error(f"--target: got {args.target}, want a GPU's description, and jax's CUDA plugin: {error}")
    platform = "gpu" if args.target else device.platform
    for lowering in args.lowerings:  # elsewhere it would be interpreted, and its interpreter counted
        if lowering not in lowerings.offered(platform):
            want = ", ".join(lowerings.offered(platform))
            parser.error(f"--lowerings: got {lowering} on a {platform}, want some of {want}")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in COLUMNS[:3] else "right", no_wrap=True)
    for name in args.workloads:
        for lowering in args.lowerings:
            for precision in args.precisions:
                row = counted(name, lowering, precision, args.lanes, device)
                megabytes = (f"{row[key] / 1e6:.1f}" for key in ("bytes_a_lane", "roofline_bytes"))
                passes = (f"{n:.0f}" for kind in ("float32", "bfloat16") for n in row[f"{kind}_passes"].values())
                table.add_row(name, lowering, precision, *megabytes, *passes, f"{row['compile_seconds']:.1f}")
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
