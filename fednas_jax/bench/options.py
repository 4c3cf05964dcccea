"""What the user of `fednas bench` may ask for, and the mistakes that are answered before jax is imported."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fednas_jax.bench.workloads import USUAL, WORKLOADS, Workload
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config, EngineConfig, TrainConfig
from fednas_jax.errors import ConfigError

MOST_CLIENTS = 10**7  # as of a run


@dataclass(frozen=True)
class BenchOptions:
    """Measure the simulator on this machine.

    Workloads: fedavg-round, nas-round, mobilenet-round, resnet-round, scale (these five, where none is named), and
    million, whose clients lie on disk (1.3 GB for a minute). Each reports examples a second in steady state, lanes
    without work, achieved FLOP/s, their share of what a large matrix product reaches here, the share of the roofline
    (the bytes that must move are counted too), compilation and peak memory.

    All about one accelerator, in one command:

    fednas bench fedavg-round --clients 512 --lanes 1,2,4,8,16,32,64,128,256,512,1024 --sequential --profile trace
    --out gpu.json
    """

    workloads: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to measure: the names above (default: all but million)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.json")] = None
    """File for everything measured, in a folder that exists; written again after each workload."""
    seconds: float = 10.0
    """Time to go on measuring a setting; at least one piece of work is measured."""
    repeats: int = 20
    """Most pieces of work measured for a setting."""
    clients: int = 0
    """Number of clients; for scale the largest number. 0: the workload's own."""
    lanes: str = "0"
    """Lanes of a device; several with commas between them are each measured. 0 chooses."""
    devices: int = 0
    """Number of devices to use. 0: all."""
    sequential: bool = False
    """Also train one client after another, as FedJAX does, in turns with the fleet, and print the ratio (not scale)."""
    peers: bool = False
    """Also train with PyTorch (a loop, a CUDA graph, torch.func's vmap) and with plain jax.vmap, on the first device in
    turns with the fleet, and print the ratios (not scale, not million)."""
    torch_python: Annotated[Path | None, tyro.conf.arg(metavar="PYTHON")] = None
    """The Python of an environment with PyTorch, for --peers (default: this one)."""
    profile: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for jax.profiler's trace of two steady pieces of work of each workload."""
    seed: int = 0
    """Seed of the synthetic clients and the first weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """As `train.precision`: what networks, and the matrix products they are held against, compute in."""
    matmul_precision: Literal["default", "high", "highest"] = "default"
    """As `train.matmul_precision`: how exactly accelerators multiply float32."""
    engine: EngineConfig = field(default_factory=EngineConfig)


def chosen(options: BenchOptions) -> list[Workload]:
    """The workloads asked for, with the clients and the precision asked for.

    Raises:
      ConfigError: there is none of that name.
    """
    for name in options.workloads:
        if name not in WORKLOADS:
            raise ConfigError(f"workload: got {name!r}, want one of {', '.join(WORKLOADS)}")
    names = options.workloads or USUAL
    found = [WORKLOADS[name].with_clients(options.clients) for name in names]

    def precise(train: TrainConfig) -> TrainConfig:
        return dataclasses.replace(train, precision=options.precision, matmul_precision=options.matmul_precision)

    return [dataclasses.replace(workload, train=precise(workload.train)) for workload in found]


def sweep(options: BenchOptions) -> list[EngineConfig]:
    """The engine for each number of lanes asked for, smallest first: peak memory only grows.

    Raises:
      ConfigError: what was asked for are no lanes, or lanes twice over.
    """
    want = "want 0 (chooses), or numbers above 0 with commas between them, such as 1,2,4"
    try:
        lanes = sorted({int(part) for part in options.lanes.split(",")})
    except ValueError:
        raise ConfigError(f"lanes: got {options.lanes!r}, {want}") from None
    if lanes[0] < 0 or (lanes[0] == 0 and len(lanes) > 1):
        raise ConfigError(f"lanes: got {options.lanes!r}, {want}")
    if lanes == [0]:
        return [options.engine]
    if options.engine.lanes:
        raise ConfigError(f"engine.lanes: got {options.engine.lanes}, want 0 where --lanes says it")
    return [dataclasses.replace(options.engine, lanes=n) for n in lanes]


def check(options: BenchOptions) -> None:
    """Checks all that can be judged without jax.

    Raises:
      ConfigError: one line that names the option, the value got and the value wanted.
    """
    chosen(options)
    for engine in sweep(options):
        resolve(Config(seed=options.seed, engine=engine))
    if not (math.isfinite(options.seconds) and options.seconds > 0):
        raise ConfigError(f"seconds: got {options.seconds}, want above 0")
    if options.repeats < 1:
        raise ConfigError(f"repeats: got {options.repeats}, want at least 1")
    for name in ("clients", "devices"):
        if getattr(options, name) < 0:
            raise ConfigError(f"{name}: got {getattr(options, name)}, want at least 1, or 0 for the usual number")
    if options.clients > MOST_CLIENTS:
        raise ConfigError(f"clients: got {options.clients}, want at most {MOST_CLIENTS}")
    if options.torch_python is not None and not options.peers:
        raise ConfigError(f"torch_python: got {options.torch_python}, want it with --peers")
    if options.torch_python is not None and not options.torch_python.is_file():
        raise ConfigError(f"torch_python: got {options.torch_python}, want the Python of an environment with PyTorch")
    if options.peers and options.precision != "float32":
        raise ConfigError(f"peers: got --peers with --precision {options.precision}, want float32: they compute in it")
    if options.out is not None and (options.out.is_dir() or not options.out.parent.is_dir()):
        raise ConfigError(f"out: got {options.out}, want a file in a folder that exists")
    if options.profile is not None and any(p.is_file() for p in (options.profile, *options.profile.parents)):
        raise ConfigError(f"profile: got {options.profile}, want a folder, there or to be made")
