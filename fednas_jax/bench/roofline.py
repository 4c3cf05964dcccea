"""The roofline of a workload: how fast it could be, given what the device multiplies and what its memory moves.

A step takes at least FLOP / (FLOP/s of matrix products) and at least bytes / (bytes/s of a copy); the larger of the two
is the floor. Bytes are counted for the best program there can be, not for ours, so that a share says how close it is:

- weights: read forward, and read and written by one pass backward (gradient to the input, gradient and update at once);
- running statistics and what the client's optimiser remembers: read and written once;
- what one convolution or product hands to the next: written forward and read backward, once each, in the precision that
  networks compute in. Everything between two of them (bias, normalisation, relu, pooling) is part of them, and what can
  be computed again without another product is not counted;
- images: read twice, forward and backward, as they are stored.

Gradients are not counted: they need not leave the chip. Scoring reads a candidate's weights once for each client, and
the images once. Caches that hold a lane's weights beat this floor, as may happen on a CPU with one small network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from fednas_jax.config.schema import TrainConfig
from fednas_jax.engine.optimizers import client_optimizer
from fednas_jax.space import jaxprs
from fednas_jax.space.network import Network, Widths

WEIGHT_PASSES = 3  # of a training step: read, read, written
STATE_PASSES = 2  # read, written
IMAGE_PASSES = 2  # read, read


@dataclass(frozen=True)
class Roofline:
    """What the devices reach, all of them together."""

    flop_per_second: float  # of a large matrix product
    bytes_per_second: float  # of a large copy, read and written

    def least_seconds(self, flop: float, moved: float) -> float:
        """Seconds that so many operations and bytes take at least."""
        return max(flop / self.flop_per_second, moved / self.bytes_per_second)

    def judge(self, flop: float, moved: float, seconds: float) -> dict[str, Any]:
        """How close `seconds` came to the floor, as JSON values."""
        least = self.least_seconds(flop, moved)
        return {
            "flop": flop,
            "bytes": moved,
            "seconds": seconds,
            "least_seconds": least,
            "share_of_roofline": least / seconds,
            "bound_by": "arithmetic" if flop / self.flop_per_second >= least else "memory",
        }


def handed_on(network: Network, widths: Widths) -> int:
    """Numbers of one example that convolutions and products hand to those after them; images and logits left out."""
    program = jaxprs.flatten(network, widths)
    made: set[int] = set()  # values that come out of a convolution or product, by way of others or not
    handed: set[int] = set()
    for operation in program.operations:
        layer = operation.name in (*jaxprs.LAYERS, *jaxprs.LOOPS)
        reads = made & set(operation.reads)
        if layer:
            handed |= reads
        if layer or reads:
            made |= set(operation.writes)
    return sum(math.prod(program.shape(value)) for value in handed)


def train_bytes(network: Network, widths: Widths, train: TrainConfig, pixel_bytes: int = 1) -> int:
    """Bytes that a client's training step moves at least.

    Args:
      network: what is trained.
      widths: of its groups.
      train: its batch, precision and optimiser.
      pixel_bytes: of a stored pixel's channel.
    """
    variables = network.abstract(widths)
    memory = jax.eval_shape(client_optimizer(train).init, variables.params)
    activations = 2 * handed_on(network, widths) * jnp.dtype(train.precision).itemsize
    images = IMAGE_PASSES * math.prod(network.input_shape) * pixel_bytes
    kept = STATE_PASSES * (_bytes(variables.stats) + _bytes(memory))
    return WEIGHT_PASSES * _bytes(variables.params) + kept + train.batch_size * (activations + images)


def score_bytes(network: Network, widths: Widths, tasks: int, examples: int, pixel_bytes: int = 1) -> int:
    """Bytes that scoring `examples` in `tasks` (a candidate on a client) moves at least."""
    return tasks * _bytes(network.abstract(widths)) + examples * math.prod(network.input_shape) * pixel_bytes


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
