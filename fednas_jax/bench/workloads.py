"""What is measured: named workloads, and the synthetic clients of each. numpy only.

Letters: C clients, N examples.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from fednas_jax.config.schema import DataConfig, NetConfig, TrainConfig
from fednas_jax.data import PackedClients, load, pack, partition
from fednas_jax.data.columns import read_columns
from fednas_jax.data.synthetic import write_synthetic_columns
from fednas_jax.files import temporary_folder
from fednas_jax.seeds import Purpose, generator

CLASSES = 10
DISTINCT = 1 << 16  # images drawn; clients beyond them hold them over again, which no speed depends on


@dataclass(frozen=True)
class Sizes:
    """How many examples a client trains on."""

    low: int
    high: int
    median: float | None = None  # of a lognormal, clipped to low..high; None: all of low..high equally likely
    sigma: float = 0.0  # standard deviation of the lognormal's log

    def draw(self, clients: int, rng: np.random.Generator) -> np.ndarray:
        """[C] int32."""
        if self.median is None:
            return rng.integers(self.low, self.high + 1, clients, dtype=np.int32)
        drawn = rng.lognormal(np.log(self.median), self.sigma, clients)
        return np.clip(np.rint(drawn), self.low, self.high).astype(np.int32)


@dataclass(frozen=True)
class Workload:
    """A federation and the piece of work that is timed, again and again: some rounds of it."""

    name: str
    about: str  # one line
    net: NetConfig
    shape: tuple[int, int, int]  # of an image: height, width, channels
    train: TrainConfig
    clients: int
    sizes: Sizes
    candidates: int = 1  # each trains on all clients
    rounds: int = 1  # of one timed piece
    scored: bool = False  # all clients score all candidates after each round, on a quarter as many more examples
    ladder: tuple[int, ...] = ()  # numbers of clients, each measured in turn, instead of `clients`
    cohort: int = 0  # clients sampled for each round; 0 takes all
    on_disk: bool = False  # clients' examples are written to disk and read from there; a fifth are held out

    def with_clients(self, clients: int) -> Workload:
        """The same with another number of clients; a ladder is cut there, and ends there. 0 changes nothing."""
        if not clients:
            return self
        ladder = (*(c for c in self.ladder if c < clients), clients) if self.ladder else ()
        return dataclasses.replace(self, clients=clients, ladder=ladder)


_SIZES = Sizes(20, 500, median=120, sigma=0.5)

_FEDAVG = Workload(
    "fedavg-round",
    "a round of FedAvg: its paper's CNN, 28x28x1, plain SGD, one candidate",
    NetConfig(name="cnn"),
    (28, 28, 1),
    TrainConfig(batch_size=20, learning_rate=0.05, momentum=0.0, weight_decay=0.0),
    clients=30,
    sizes=_SIZES,
)
_NAS = dataclasses.replace(
    _FEDAVG,
    name="nas-round",
    about="two rounds of the same CNN, 8 candidates on all clients, momentum; scoring after each",
    train=TrainConfig(batch_size=20, learning_rate=0.05, momentum=0.9),
    clients=10,
    candidates=8,
    rounds=2,
    scored=True,
)
_MOBILENET = dataclasses.replace(
    _FEDAVG,
    name="mobilenet-round",
    about="a round of MobileNetV1 0.5, 32x32x3, momentum, one candidate",
    net=NetConfig(name="mobilenet_v1", width_multiplier=0.5, stem_stride=1),
    shape=(32, 32, 3),
    train=TrainConfig(batch_size=20, learning_rate=0.05, momentum=0.9),
    clients=10,
)
_RESNET = dataclasses.replace(
    _MOBILENET,
    name="resnet-round",
    about="a round of ResNet-20, 32x32x3, momentum, one candidate",
    net=NetConfig(name="resnet20"),
)
_SCALE = Workload(
    "scale",
    "a round of ever more clients, all of them, of 10 to 30 examples of 8x8x1",
    NetConfig(name="cnn", widths=(4, 8, 16)),
    (8, 8, 1),
    TrainConfig(batch_size=10, learning_rate=0.05, momentum=0.0, weight_decay=0.0),
    clients=100_000,
    sizes=Sizes(10, 30),
    ladder=(100, 1_000, 10_000, 100_000),
)
_MILLION = dataclasses.replace(
    _SCALE,
    name="million",
    about="rounds of 10,000 clients out of a million on disk, of 10 to 30 examples of 8x8x1",
    clients=1_000_000,
    ladder=(),
    cohort=10_000,
    on_disk=True,
)
WORKLOADS = {workload.name: workload for workload in (_FEDAVG, _NAS, _MOBILENET, _RESNET, _SCALE, _MILLION)}
USUAL = tuple(name for name, workload in WORKLOADS.items() if not workload.on_disk)  # need no gigabytes of disk


def make_clients(
    workload: Workload, clients: int, seed: int
) -> tuple[PackedClients, tuple[float, ...], tuple[float, ...]]:
    """The synthetic clients of a workload, labels mixed evenly.

    Args:
      workload: says shape and sizes.
      clients: C, at least 1.
      seed: of sizes and images.

    Returns:
      The clients, and mean and standard deviation of the images' channels.
    """
    if workload.on_disk:
        return _on_disk(workload, clients, seed)
    trains = workload.sizes.draw(clients, generator(seed, Purpose.PARTITION))
    scores = np.maximum(1, trains // 4) if workload.scored else np.zeros_like(trains)
    offsets = np.append(0, np.cumsum(trains + scores, dtype=np.int64))
    total = int(offsets[-1])
    made = load(
        DataConfig(
            source="synthetic",
            synthetic_shape=workload.shape,
            synthetic_classes=CLASSES,
            synthetic_examples=min(total, DISTINCT),
        ),
        seed,
    )
    rows = np.arange(total) % len(made.train.labels)
    packed = PackedClients(made.train.inputs[rows], made.train.labels[rows], offsets, trains)
    return packed, made.mean, made.std


def _on_disk(workload: Workload, clients: int, seed: int) -> tuple[PackedClients, tuple[float, ...], tuple[float, ...]]:
    """The clients in memory-mapped files without a name: the disk is free again when nobody maps them any more."""
    with temporary_folder("fednas-bench-") as root:
        folder = root / "columns"
        low, high = workload.sizes.low, workload.sizes.high
        write_synthetic_columns(folder, clients, low, high, workload.shape, CLASSES, seed)
        made = read_columns(folder)
        config = DataConfig(source="columns", folder=folder, partition="natural", clients=0)
        packed = pack(made.train, partition(made.train.labels, config, seed, made.natural), config.validation, seed)
    return packed, made.mean, made.std
