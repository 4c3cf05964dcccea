"""What `--peers` holds the fleet against, on the same device: PyTorch in three ways, and jax's own vmap.

- `pytorch`: one client after another, a loop over batches;
- `pytorch-graph`: the same with the step as a CUDA graph, on a GPU;
- `pytorch-func-L`: torch.func's vmap of grad over L clients;
- `jax-vmap-L`: `jax.vmap` with lax's convolutions over L clients.

All train the fleet's network on the fleet's clients with its batches, loss and optimiser, which is checked on a few
clients first. Each trains only as many clients as tell its speed, so that slow ones take no minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from fednas_jax.bench.plain import PlainRounds
from fednas_jax.bench.rounds import FleetRounds
from fednas_jax.bench.torch_peers import NETWORKS, NoTorch, TorchWorker
from fednas_jax.errors import TrainingError

CLIENTS = 30  # of those that train one after another
# Of those that train side by side; more are slower on a CPU, and jax's grouped convolutions on accelerators too.
FUNC_LANES = {"cpu": (4,)}
FUNC_LANES_OF_ACCELERATORS = (32, 256)
VMAP_LANES = {"cpu": (4,)}
VMAP_LANES_OF_ACCELERATORS = (32,)
NO_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError")


class Peer(NamedTuple):
    """One to be held against, warmed up."""

    name: str
    work: Callable[[], float]  # does one piece of work and returns its seconds
    examples: int  # that a piece trains on
    difference: float | None  # of its updates from the fleet's, as a share of them; None where a test holds them equal


class Peers:
    """PyTorch's process, if there is one, and who is measured.

    Args:
      torch_python: the Python of an environment with PyTorch.
    """

    def __init__(self, torch_python: str):
        self.missing: str | None = None  # why PyTorch is not there
        self._worker: TorchWorker | None = None
        try:
            self._worker = TorchWorker(torch_python)
        except NoTorch as error:
            self.missing = f"{error}; --torch-python names a Python that has it"

    def close(self) -> None:
        """Ends PyTorch's process."""
        if self._worker is not None:
            self._worker.close()

    def of(self, work: FleetRounds) -> tuple[list[Peer], dict[str, str]]:
        """Those that can be measured beside this workload's rounds, and the others' names with the reason.

        Raises:
          TrainingError: one of them computes something else, or fails in another way than for want of memory.
        """
        platform, clients = work.fleet.mesh.devices.flat[0].platform, work.federation.data.clients
        makers: dict[str, Callable[[str], Peer]] = {}
        found: list[Peer] = []
        left_out = {} if self.missing is None else {"pytorch": self.missing}
        if work.federation.workload.net.name not in NETWORKS:
            left_out["pytorch"] = f"it has no {work.federation.workload.net.name}"
        elif self._worker is not None:
            try:
                self._worker.load(work.federation, platform)
            except NoTorch as error:
                left_out["pytorch"] = str(error)
            else:
                makers["pytorch"] = self._torch(work, "sequential", 0, CLIENTS)
                if platform == "gpu":
                    makers["pytorch-graph"] = self._torch(work, "graph", 0, CLIENTS)
                for lanes in _fitting(FUNC_LANES.get(platform, FUNC_LANES_OF_ACCELERATORS), clients):
                    makers[f"pytorch-func-{lanes}"] = self._torch(work, "func", lanes, lanes)
        for lanes in _fitting(VMAP_LANES.get(platform, VMAP_LANES_OF_ACCELERATORS), clients):
            makers[f"jax-vmap-{lanes}"] = _vmapped(work, lanes)
        for name, make in makers.items():
            try:
                found.append(make(name))
            except (NoTorch, jax.errors.JaxRuntimeError) as error:
                if not any(text in str(error) for text in NO_MEMORY):
                    raise TrainingError(f"peers: {name}: {error}") from error
                left_out[name] = "out of memory"
        return found, left_out

    def _torch(self, work: FleetRounds, way: str, lanes: int, clients: int) -> Callable[[str], Peer]:
        worker, clients = self._worker, min(clients, work.federation.data.clients)
        assert worker is not None

        def make(name: str) -> Peer:
            difference = worker.check(work.federation, work, way, lanes)
            examples = int(worker.round(way, lanes, clients)["examples"])  # warms up
            return Peer(name, lambda: float(worker.round(way, lanes, clients)["seconds"]), examples, difference)

        return make


def _fitting(lanes: tuple[int, ...], clients: int) -> list[int]:
    """Numbers of lanes that there are clients for; all clients, where the least is too many."""
    return [n for n in lanes if n <= clients] or [clients]


def _vmapped(work: FleetRounds, lanes: int) -> Callable[[str], Peer]:
    def make(name: str) -> Peer:
        device = work.fleet.mesh.devices.flat[0]
        rounds = PlainRounds(work.federation, lanes, lanes, device)
        rounds()  # compiles
        return Peer(name, rounds, rounds.examples, None)

    return make


def compared(
    ours: np.ndarray, examples: int, theirs: list[float], their_examples: int, difference: float | None
) -> dict[str, Any]:
    """How many times as fast the fleet is, turn by turn, as JSON values.

    Args:
      ours: the fleet's seconds of training in each turn.
      examples: that it trains on in a turn.
      theirs: the other's seconds in each turn.
      their_examples: that it trains on in a turn.
      difference: of its updates from the fleet's.
    """
    ratios = examples / ours / (their_examples / np.asarray(theirs))
    return {
        "seconds": theirs,
        "examples": their_examples,
        "examples_per_second": their_examples / min(theirs),
        "ratio": float(np.median(ratios)),
        "ratio_least": float(ratios.min()),
        "ratio_most": float(ratios.max()),
        "difference": difference,
    }
