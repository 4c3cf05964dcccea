"""What a fleet is made of, and what follows from that alone: how its devices train, what tells its programs apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from fednas_jax.config.schema import EngineConfig, ParticipationConfig, TrainConfig
from fednas_jax.data import PackedClients
from fednas_jax.engine import lane_tuning, optimizers
from fednas_jax.engine.lane_tuning import Choice
from fednas_jax.engine.mesh import Layout, memory_of
from fednas_jax.engine.programs import Recipe
from fednas_jax.nets import lowerings
from fednas_jax.runtime import cache, hosts
from fednas_jax.space.network import Network


@dataclass(frozen=True)
class FleetSpec:
    """What a fleet is made of."""

    network: Network
    """The family of networks."""
    data: PackedClients
    """The clients. Where it is on disk, or larger than its share of a device's memory, it is sent part by part."""
    mean: tuple[float, ...]
    """Of each channel, of images scaled to [0, 1]; of each feature; () of tokens."""
    std: tuple[float, ...]
    """Likewise."""
    classes: int
    """Number of labels."""
    train: TrainConfig
    """Optimisers, loss, aggregation, and which updates are left out."""
    engine: EngineConfig
    """Lanes and lowering, evaluation batch and the data's share of the memory."""
    seed: int
    """The run's seed."""
    slots: int
    """K."""
    devices: Sequence[jax.Device] | None = None
    """Those to use; all devices of all hosts by default, as many on each host."""
    tasks: int = 0
    """Of a round, so that no more lanes are taken than have work; 0: every candidate on every client."""
    metric: str = "accuracy"
    """What scores are."""
    participation: ParticipationConfig = field(default_factory=ParticipationConfig)
    """Who attacks, and how; nothing else of it is looked at."""
    malicious: np.ndarray | None = None
    """[C] bool: who attacks; None: drawn from the seed."""
    client_ids: np.ndarray | None = None
    """[C] that random numbers belong to; None: 0 to C - 1."""


def choice_of(spec: FleetSpec, layout: Layout, steps: np.ndarray) -> Choice:
    """The lanes and the lowering at which a device is fastest; the first host's answer is everyone's.

    Args:
      spec: says what is not to be measured.
      layout: of the devices.
      steps: [T] of each task of a usual round on a device.
    """
    wanted = Choice(spec.engine.lanes, spec.engine.lowering)
    if not np.all(spec.data.train_count):  # a test split trains nowhere
        # As many examples at once as in training, which fit: nobody could finish a run whose test does not.
        batch = min(spec.engine.eval_batch, max(1, int(np.max(spec.data.val_count))))
        lanes = min(wanted.lanes, max(1, wanted.lanes * spec.train.batch_size // batch))
        return Choice(lanes or 1, lowerings.DEFAULT if wanted.lowering == "auto" else wanted.lowering)
    device = layout.mesh.local_devices[0]

    def measure() -> Choice:
        memory = memory_of(device)
        return lane_tuning.choice(spec.network, spec.train, device, memory, steps, wanted, cache.folder())

    return measure() if layout.hosts == 1 else hosts.from_first_host(measure)


def form_of(spec: FleetSpec, recipe: Recipe) -> Hashable:
    """What tells a recipe's programs from another's: plain values in place of the functions that are made of them.

    Choices of the user's own are told by their names, whose modules are imported once in a process.
    """
    train = spec.train
    if not optimizers.any_own(train):
        # Arguments of the programs, or what the host plans by: only an optimiser of the user's own may look at them.
        train = dataclasses.replace(
            train, learning_rate=1.0, learning_rate_decay=1.0, schedule="constant", local_epochs=1.0
        )
    inputs = spec.data.inputs
    numbers = (recipe.slots, recipe.lanes, recipe.eval_batch, recipe.capacity, recipe.streams, recipe.classes)
    looks = (tuple(spec.mean), tuple(spec.std), inputs.shape[1:], str(inputs.dtype), spec.data.labels.shape[1:])
    return (spec.network, train, recipe.mesh, numbers, looks, spec.metric, recipe.attack)
