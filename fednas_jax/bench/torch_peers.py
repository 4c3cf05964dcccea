"""PyTorch as something to be held against: its process (`torch_worker.py`), weights in its layout, and the check.

Before anything is timed, both sides train the same few clients from the same weights in the same order, and the
averaged weights must agree. Letters: K candidates, C clients.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from fednas_jax.bench.rounds import Federation, FleetRounds
from fednas_jax.engine import local
from fednas_jax.engine.tasks import Tasks
from fednas_jax.runtime import cores
from fednas_jax.seeds import KEYS

NETWORKS = ("cnn", "mobilenet_v1", "resnet20")  # those that the worker has too
CHECKED = 3  # clients
# Largest difference of the averaged updates that rounding may make, as a share of the update. TF32, in which
# accelerators multiply, has 10 bits; a wrong step, order or optimiser differs by 1.
TOLERANCE = {"cpu": 1e-3}
TOLERANCE_OF_ACCELERATORS = 0.05


class NoTorch(Exception):
    """The worker cannot do what was asked; the text says why."""


class TorchWorker:
    """The worker process: started once, alive until `close`.

    Raises:
      NoTorch: this is no Python, or one without torch.
    """

    def __init__(self, python: str):
        worker = Path(__file__).with_name("torch_worker.py")
        try:
            self.process = subprocess.Popen(
                [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise NoTorch(f"{python}: {error.strerror}") from error
        self._folder = tempfile.TemporaryDirectory(prefix="fednas-bench-")
        self.folder = Path(self._folder.name)
        try:
            told = self.ask(do="version")
        except NoTorch:
            self.close()
            raise
        self.version, self.cuda = str(told["torch"]), bool(told["cuda"])

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
        told: dict[str, Any] = json.loads(line) if line else {"error": "the PyTorch worker ended without a word"}
        if "error" in told:
            raise NoTorch(told["error"])
        return told

    def close(self) -> None:
        """Ends the worker."""
        self.process.communicate()
        self._folder.cleanup()

    def load(self, federation: Federation, platform: str, threads: int = 0) -> int:
        """Hands the clients and the first weights over.

        Args:
          federation: what will be trained.
          platform: jax's name for the device that the fleet trains on.
          threads: of PyTorch on a CPU; 0: the cores there are.

        Returns:
          The threads it uses.

        Raises:
          NoTorch: it cannot, for instance since it has no CUDA where the fleet has a GPU.
        """
        if platform not in ("cpu", "gpu") or (platform == "gpu" and not self.cuda):
            raise NoTorch(f"torch {self.version} cannot use this {platform}")
        f, t = federation, federation.workload.train
        clients, start = self.folder / "clients.npz", self.folder / "start.npz"
        np.savez(
            clients,
            **f.data._asdict(),
            mean=np.asarray(f.mean),
            std=np.asarray(f.std),
            steps=local.local_steps(f.data.train_count, t),
            batch=t.batch_size,
            rate=t.learning_rate,
            momentum=t.momentum,
            decay=t.weight_decay,
            rounds=f.workload.rounds,
        )
        weights: dict[str, Any] = to_torch(f.start().params, pooled(f))
        np.savez(start, **weights)
        told = self.ask(
            do="load",
            clients=str(clients),
            start=str(start),
            net=f.workload.net.name,
            device="cuda" if platform == "gpu" else "cpu",
            threads=threads or cores.number(),
            exact=t.matmul_precision != "default",
        )
        return int(told["threads"])

    def round(self, way: str, lanes: int = 0, clients: int = 0, scored: bool = False) -> dict[str, Any]:
        """One timed piece of work: its seconds, and its examples; see `torch_worker.py` for the arguments."""
        return self.ask(do="round", way=way, lanes=lanes, clients=clients, scored=scored)

    def check(self, federation: Federation, work: FleetRounds, way: str = "sequential", lanes: int = 0) -> float:
        """Difference of the averaged update of a few clients from the fleet's, as a share of the update.

        Momentum multiplies a rate by 1 / (1 - momentum), and with it what float32 rounds differently at every step: it
        is checked at a rate that makes up for it.

        Raises:
          NoTorch: they differ by more than rounding may make them.
        """
        f, train = federation, federation.workload.train
        rate = train.learning_rate * (1 - train.momentum)
        clients = min(CHECKED, f.data.clients)
        tasks = f.first(clients)
        orders, out = self.folder / "orders.npz", self.folder / "trained.npz"
        np.savez(orders, orders=_orders(f, tasks))
        self.ask(do="check", way=way, lanes=lanes, clients=clients, rate=rate, orders=str(orders), out=str(out))

        start = f.start()
        trained = work.fleet.train(
            f.widths, start, work.fleet.init_server(start), tasks, f.moment(0), f.names, rate
        ).stack
        before, ours = (to_torch(jax.device_get(v.params), pooled(f)) for v in (start, trained))
        with np.load(out) as theirs:
            difference = _norm({n: ours[n] - theirs[n] for n in ours}) / _norm({n: ours[n] - before[n] for n in ours})
        allowed = TOLERANCE.get(work.fleet.mesh.devices.flat[0].platform, TOLERANCE_OF_ACCELERATORS)
        if not difference <= allowed:
            name = f"{f.workload.name}, PyTorch {way}"
            raise NoTorch(f"{name}: the averaged updates differ by {difference:.1e} of them, want {allowed} at most")
        return difference


def _orders(federation: Federation, tasks: Tasks) -> np.ndarray:
    """[T, longest] the order in which each task's client meets its examples in the fleet's round 0."""
    f, train = federation, federation.workload.train
    key = jax.random.key(f.seed, impl=KEYS)
    for part in f.moment(0):
        key = jax.random.fold_in(key, part)
    capacity = local.stream_capacity(f.data.train_count, train)
    names = np.asarray(f.names)[tasks.candidate]
    keys = [jax.random.fold_in(jax.random.fold_in(key, k), c) for k, c in zip(names, tasks.client, strict=True)]
    counts = f.data.train_count[tasks.client]
    return np.asarray(jax.vmap(lambda key, count: local.stream(key, count, capacity))(jax.numpy.stack(keys), counts))


def _norm(weights: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(value, dtype=np.float64)) for value in weights.values())))


def pooled(federation: Federation) -> tuple[int, int]:
    """Height and width after the cnn's two poolings."""
    height, width, _ = federation.workload.shape
    return height // 4, width // 4


def to_torch(params: dict[str, np.ndarray], pooled: tuple[int, int]) -> dict[str, np.ndarray]:
    """Parameters [K, ...] by PyTorch's names and in its layout.

    Args:
      params: by path, kernels HWIO and [inputs, outputs].
      pooled: height and width of what the cnn's dense layer flattens, channels last here and channels first there.
    """
    found = {}
    for path, value in params.items():
        module, leaf = path.replace("/", ".").rsplit(".", 1)
        if leaf == "kernel" and value.ndim == 5:
            value = value.transpose(0, 4, 3, 1, 2)
        elif path == "dense/kernel":
            slots, inputs, outputs = value.shape
            value = value.reshape(slots, *pooled, -1, outputs).transpose(0, 4, 3, 1, 2).reshape(slots, outputs, inputs)
        elif leaf == "kernel":
            value = value.swapaxes(1, 2)
        name = "weight" if leaf in ("kernel", "scale") else leaf
        found[f"{module}.{name}"] = np.ascontiguousarray(value)
    return found
