"""Training steps of some lanes as a program of their own: what is measured where lanes and lowerings are chosen."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import SingleDeviceSharding

from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine import local
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Network, Variables, inputs_of

LEAST_SECONDS = 0.1  # of one measurement


class Program(NamedTuple):
    """Training steps of some lanes, compiled for a device."""

    lanes: int
    device: jax.Device
    run: Any  # (count, variables, inputs, labels) -> a number that is there when all steps are done
    shapes: Any  # of variables, inputs and labels

    @property
    def bytes(self) -> int:
        """Memory that it takes; 0 where the device does not say."""
        sizes = self.run.memory_analysis()
        return sizes.argument_size_in_bytes + sizes.temp_size_in_bytes if sizes else 0

    def speed(self) -> float:
        """Lane-steps a second."""
        sharding = SingleDeviceSharding(self.device)
        zeros = functools.partial(jax.tree.map, lambda a: jnp.zeros(a.shape, a.dtype), self.shapes)
        arguments = jax.jit(zeros, out_shardings=sharding)()  # one program, not one for each shape

        def seconds(count: int) -> float:
            began = time.perf_counter()
            jax.block_until_ready(self.run(jax.device_put(np.int32(count), sharding), *arguments))
            return time.perf_counter() - began

        seconds(1)
        count = 1
        while (taken := seconds(count)) < LEAST_SECONDS:
            count *= 2
        return self.lanes * count / min(taken, seconds(count))


def compiled_steps(network: Network, config: TrainConfig, device: jax.Device, number: int) -> Program:
    """Steps of `number` lanes, compiled with the lowering in use."""
    widths = tuple(network.widths.values())
    client = local.make_local(network, widths, config)

    def run(count: jax.Array, variables: Variables, inputs: jax.Array, labels: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(0, impl=KEYS), number)

        def step(t: jax.Array, state: local.LocalState) -> local.LocalState:
            del t
            return jax.vmap(client.step, (0, 0, 0, None, 0))(state, inputs, labels, jnp.float32(0.1), keys)

        state = lax.fori_loop(0, count, step, jax.vmap(client.init)(variables))
        return sum(leaf.ravel()[0] for leaf in jax.tree.leaves(state.variables))

    inputs, variables = inputs_of(network, config.batch_size), network.abstract(widths)
    logits = jax.eval_shape(lambda v, x: network.apply(widths, v, x, train=False)[0], variables, inputs)
    shapes = (
        jax.tree.map(lambda a: jax.ShapeDtypeStruct((number, *a.shape), a.dtype), variables),
        jax.ShapeDtypeStruct((number, *inputs.shape), inputs.dtype),
        jax.ShapeDtypeStruct((number, *logits.shape[:-1]), jnp.int32),
    )
    count = jax.ShapeDtypeStruct((), jnp.int32)
    with jax.default_matmul_precision(config.matmul_precision):
        program = jax.jit(run, in_shardings=SingleDeviceSharding(device)).lower(count, *shapes).compile()
    return Program(number, device, program, shapes)
