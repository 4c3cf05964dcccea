"""How many lanes a device takes: measured with a few training steps, bounded by its memory, remembered on disk.

Letters: L lanes, B batch.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding

from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine import local
from fednas_jax.space.network import Network, Variables

LADDER = (1, 4, 16, 64, 256, 1024)
WORTH = 1.1  # more lanes must bring this factor: they also cost memory, and padding where tasks are few
MEMORY = 0.5  # share of a device's memory that lanes may take; clients' data and the stack need the rest
LEAST_SECONDS = 0.1  # of one measurement


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
            return min(int(json.loads(remembered.read_text())["lanes"]), _rung(most))
        except (ValueError, KeyError, TypeError):
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
        remembered.write_text(json.dumps({"lanes": best}))
    return best


def _rung(most: int) -> int:
    """The last rung for which there is work in most lanes."""
    return max([number for number in LADDER if number <= most], default=LADDER[0])


def _speed(network: Network, config: TrainConfig, device: jax.Device, number: int, memory: int, needed: bool) -> float:
    """Lane-steps a second; 0 where the program would not fit the memory and is not `needed`."""
    widths = tuple(network.widths.values())
    client = local.make_local(network, widths, config)
    keys = jax.random.split(jax.random.key(0), number)

    def run(count: jax.Array, variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array:
        def step(t: jax.Array, state: local.LocalState) -> local.LocalState:
            del t
            return jax.vmap(client.step, (0, 0, 0, None, 0))(state, images, labels, jnp.float32(0.1), keys)

        state = lax.fori_loop(0, count, step, jax.vmap(client.init)(variables))
        return sum(leaf.ravel()[0] for leaf in jax.tree.leaves(state.variables))

    shapes = (
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.tree.map(lambda a: jax.ShapeDtypeStruct((number, *a.shape), a.dtype), network.abstract(widths)),
        jax.ShapeDtypeStruct((number, config.batch_size, *network.input_shape), jnp.float32),
        jax.ShapeDtypeStruct((number, config.batch_size), jnp.int32),
    )
    sharding = SingleDeviceSharding(device)
    with jax.default_matmul_precision(config.matmul_precision):
        program = jax.jit(run, in_shardings=sharding).lower(*shapes).compile()
    sizes = program.memory_analysis()
    if sizes and not needed and sizes.argument_size_in_bytes + sizes.temp_size_in_bytes > memory:
        return 0.0
    inputs = [jax.device_put(jnp.zeros(a.shape, a.dtype), sharding) for a in jax.tree.leaves(shapes[1:])]
    arguments = jax.tree.unflatten(jax.tree.structure(shapes[1:]), inputs)

    def seconds(count: int) -> float:
        began = time.perf_counter()
        jax.block_until_ready(program(jax.device_put(np.int32(count), sharding), *arguments))
        return time.perf_counter() - began

    seconds(1)
    count = 1
    while (taken := seconds(count)) < LEAST_SECONDS:
        count *= 2
    return number * count / min(taken, seconds(count))


def _fingerprint(network: Network, config: TrainConfig, device: jax.Device, memory: int) -> str:
    """Everything that the answer depends on, as a short name; jaxlib and the processor name the folder."""
    shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), network.abstract(tuple(network.widths.values())))
    facts = (network.name, network.input_shape, sorted(shapes.params.items()), config, device.device_kind, memory)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
