"""How many lanes a device takes, and which lowering: measured with a few training steps, remembered on disk.

A CPU climbs a ladder of lanes. An accelerator is asked about lowerings too, as `lane_search` says. Letters: L lanes, T
tasks.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.schema import LoweringName, TrainConfig
from fednas_jax.engine import lane_search
from fednas_jax.engine.lane_search import Rung, Speeds
from fednas_jax.engine.lane_steps import Program, compiled_steps
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import read_json, write_json
from fednas_jax.nets import conv, lowerings
from fednas_jax.registry import said_of
from fednas_jax.space.network import Network
from fednas_jax.space.training_macs import training_layer_macs

_log = logging.getLogger(__name__)

LADDER = (1, 4, 16, 64, 256, 1024)
WORTH = 1.1  # more lanes must bring this factor: they also cost memory, and padding where tasks are few
MEMORY = 0.5  # share of a device's memory that lanes may take; clients' data and the stack need the rest
COPIES = 5  # of a lane's weights: where it starts and ended, as they are now, gradients, momentum
# Multiply-accumulates of a round below which nothing is measured: some tenths of a second of a CPU and less than a
# millisecond of an accelerator, so that a search ends before what a measurement saves has paid for it.
SMALL = 3e9


class Choice(NamedTuple):
    """How a device trains clients side by side."""

    lanes: int
    lowering: LoweringName


def choice(
    network: Network,
    config: TrainConfig,
    device: jax.Device,
    memory: int,
    steps: np.ndarray,
    wanted: Choice,
    folder: Path | None = None,
) -> Choice:
    """The lanes and the lowering with which a device trains a round fastest.

    Args:
      network: as for `lanes`.
      config: likewise.
      device: likewise.
      memory: likewise.
      steps: [T] of each task of a usual round on the device.
      wanted: what is not to be chosen; 0 lanes and 'auto' are.
      folder: where results are remembered; None remembers nothing.

    Raises:
      ConfigError: the lowering that is wanted is not made for the device.
      RunError: it computes other numbers there than the default does, or does not work there.
    """
    free, offered = wanted.lowering == "auto", lowerings.offered(device.platform)
    if not free and wanted.lowering not in offered:
        want = ", ".join(("auto", *offered))
        raise ConfigError(f"engine.lowering: got {wanted.lowering} on a {device.platform}, want one of {want}")
    cpu, lowering = device.platform == "cpu", lowerings.DEFAULT if free else wanted.lowering
    _agree(lowering, config, device)
    if wanted.lanes and (cpu or not free or len(steps) < 2):  # a CPU's lowering is known: docs/performance.md
        return Choice(wanted.lanes, lowering)
    if not wanted.lanes and (len(steps) < 2 or is_small(network, config, steps)):
        return Choice(1 if cpu else min(lane_search.side_by_side(steps), _room(network, memory)), lowering)
    if cpu:
        with lowerings.using(lowering):
            return Choice(lanes(network, config, device, memory, len(steps), folder), lowering)
    names = offered if free else (wanted.lowering,)
    rungs = (wanted.lanes,) if wanted.lanes else lane_search.ladder(len(steps))
    speeds = _speeds(network, config, device, memory, rungs, names, folder)
    return Choice(wanted.lanes or lane_search.fewest_lanes(steps, speeds.of), cast(LoweringName, speeds.lowering))


def is_small(network: Network, config: TrainConfig, steps: np.ndarray) -> bool:
    """Whether a device has so little to do in a round, tasks [T] of `steps`, that starting it is what takes time."""
    return _macs_of_example(network) * config.batch_size * float(steps.sum()) < SMALL


def _room(network: Network, memory: int) -> int:
    """Lanes whose weights fit, at least one: a large embedding is little work, but as much memory as any."""
    variables = jax.tree.leaves(network.abstract(tuple(network.widths.values())))
    return max(1, int(MEMORY * memory) // (COPIES * sum(a.size * a.dtype.itemsize for a in variables)))


@functools.lru_cache(maxsize=16)
def _macs_of_example(network: Network) -> int:
    """Of a training step of the parent; a run has several fleets."""
    return sum(training_layer_macs(network, tuple(network.widths.values())))


def _speeds(
    network: Network,
    config: TrainConfig,
    device: jax.Device,
    memory: int,
    rungs: Sequence[int],
    names: Sequence[str],
    folder: Path | None,
) -> Speeds:
    """What `lane_search.search` finds, or found before."""
    name = _fingerprint(network, config, device, memory, tuple(rungs), tuple(names))
    remembered = folder and folder / f"speeds-{name}.json"
    if remembered and remembered.exists():
        try:
            told = read_json(remembered)
            of = {number: float(told["speeds"][str(number)]) for number in rungs if str(number) in told["speeds"]}
            if of and all(0 <= speed < np.inf for speed in of.values()):
                return Speeds(names[names.index(told["lowering"])], of)
        except (RunError, ValueError, KeyError, TypeError, AttributeError):
            remembered.unlink(missing_ok=True)  # half-written by a run that was killed
    share = int(MEMORY * memory)

    def prepare(rung: Rung) -> Program | None:
        own = _one_platform(rung.lowering)
        try:
            _agree(rung.lowering, config, device)
            with lowerings.using(rung.lowering):
                found = compiled_steps(network, config, device, rung.lanes)
        except jax.errors.JaxRuntimeError as error:
            _not_taken(rung, error)
            return None
        except Exception as error:  # any: what is made for one platform alone is refused by jax in many ways
            if not own or len(names) == 1:
                raise
            _not_taken(rung, error)
            return None
        return found if rung.lanes == rungs[0] or found.bytes <= share else None

    def speed(program: Program) -> float:
        try:
            return program.speed()
        except jax.errors.JaxRuntimeError as error:  # as where others take the device's memory
            _not_taken(program.lanes, error)
            return 0.0

    speeds = lane_search.search(rungs, names, prepare, speed)
    if remembered:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {"lowering": speeds.lowering, "speeds": {str(n): v for n, v in speeds.of.items()}})
    return speeds


def _one_platform(lowering: str) -> bool:
    """Whether it is a kernel of our own, made for one platform alone."""
    return lowerings.LOWERINGS[lowering].platform is not None


def _agree(lowering: str, config: TrainConfig, device: jax.Device) -> None:
    """Tries a kernel of our own against the default.

    Raises:
      RunError: it computes other numbers, or cannot be had here.
    """
    if not _one_platform(lowering):
        return
    try:
        with jax.default_matmul_precision(config.matmul_precision):
            right = conv.agrees(lowering, device, jnp.dtype(config.precision))
    except Exception as error:  # any: jax may have no such compiler any more, and the compiler none for this device
        raise RunError(f"engine.lowering: {lowering} does not work here: {said_of(error, None)}") from error
    if not right:
        raise RunError(f"engine.lowering: {lowering} computes other numbers here than {lowerings.DEFAULT}")


def _not_taken(what: object, error: Exception) -> None:
    """A rung that the device refuses is not taken; were it the only one, training would say what is wrong."""
    _log.info("lanes: %s: %s", what, error)


def lanes(
    network: Network,
    config: TrainConfig,
    device: jax.Device,
    memory: int,
    most: int,
    folder: Path | None = None,
) -> int:
    """The number of lanes at which a device trains the most examples a second.

    Climbs a ladder, each rung four times the last, until more lanes are not worth it or would not fit the memory.

    Args:
      network: the family; its parent is what is measured.
      config: batch, optimiser and precision.
      device: the one to measure.
      memory: its bytes.
      most: lanes beyond which there is never work.
      folder: where results are remembered; None remembers nothing.

    Returns:
      A rung of the ladder; the first even where it does not fit, since less cannot be had.
    """
    if _rung(most) == LADDER[0]:
        return LADDER[0]  # nothing to choose from
    remembered = folder and folder / f"lanes-{_fingerprint(network, config, device, memory)}.json"
    if remembered and remembered.exists():
        try:
            return min(LADDER[LADDER.index(read_json(remembered)["lanes"])], _rung(most))
        except (RunError, ValueError, KeyError, TypeError):
            remembered.unlink(missing_ok=True)  # half-written by a run that was killed
    best, speed = LADDER[0], 0.0
    for number in LADDER:
        if number > _rung(most):
            break
        found = _speed(network, config, device, number, int(MEMORY * memory), speed == 0.0)
        if found < WORTH * speed:
            break
        best, speed = number, found
    if remembered and best < _rung(most):  # else the ladder ended early: another run may have more work
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_json(remembered, {"lanes": best})
    return best


def _rung(most: int) -> int:
    """The last rung for which there is work in most lanes."""
    return max([number for number in LADDER if number <= most], default=LADDER[0])


def _speed(network: Network, config: TrainConfig, device: jax.Device, number: int, memory: int, needed: bool) -> float:
    """Lane-steps a second; 0 where the program would not fit the memory and is not `needed`."""
    program = compiled_steps(network, config, device, number)
    return program.speed() if needed or program.bytes <= memory else 0.0


def _fingerprint(network: Network, config: TrainConfig, device: jax.Device, memory: int, *more: Any) -> str:
    """Everything that the answer depends on, as a short name; jaxlib and the processor name the folder."""
    shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), network.abstract(tuple(network.widths.values())))
    used = lowerings.in_use()
    facts = (network.name, network.input_shape, sorted(shapes.params.items()), config, device.device_kind, memory)
    return hashlib.sha256(repr((*facts, used, *more)).encode()).hexdigest()[:16]
