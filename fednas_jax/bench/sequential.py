"""The baseline that the fleet is held against: one client after another, as FedJAX's `for_each_client` under jit does.

FedJAX trains a client by a Python loop over its batches: each is gathered on the host from the client's numpy arrays
and handed to one jitted step, the state stays on the device, and steps are dispatched without waiting. So does this; it
also donates the state. It trains on the fleet's very batches, full ones in `local.stream`'s order, so that both compute
the same round.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.schema import TrainConfig
from fednas_jax.data import PackedClients
from fednas_jax.engine import augment, local
from fednas_jax.engine.tasks import Tasks
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Network, Variables, Widths


class Sequential:
    """Rounds of plain FedAvg (`train.server_optimizer` is not looked at) on one device, without lanes.

    Args are as for `fleet.FleetSpec`; the network is compiled once, with lax's convolutions.
    """

    def __init__(
        self,
        network: Network,
        widths: Widths,
        data: PackedClients,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: TrainConfig,
        seed: int,
    ):
        self.data, self.batch, self.precision = data, train.batch_size, train.matmul_precision
        self.steps = local.local_steps(data.train_count, train)
        self._root = jax.random.key(seed, impl=KEYS)
        client = local.make_local(network, widths, train)
        capacity = local.stream_capacity(data.train_count, train)
        prepare = augment.preparation(train.augment, mean, std, data.inputs.shape[1:])

        def step(
            state: local.LocalState, inputs: jax.Array, labels: jax.Array, rate: jax.Array, key: jax.Array, t: jax.Array
        ) -> local.LocalState:
            key = jax.random.fold_in(local.dropout_key(key), t)
            return client.step(state, prepare(inputs, key), labels, rate, key)

        def add(total: Variables, start: Variables, state: local.LocalState, weight: jax.Array) -> Variables:
            return jax.tree.map(lambda s, u: s + weight * u, total, client.final(start, state.variables))

        # Copied: the first step is given the client's weights away, and the next client starts from them too.
        self._init = jax.jit(lambda start: client.init(jax.tree.map(jnp.copy, start)))
        self._step = jax.jit(step, donate_argnums=0)
        self._add = jax.jit(add, donate_argnums=0)
        self._orders = jax.jit(jax.vmap(functools.partial(local.stream, capacity=capacity)))
        self._keys = jax.jit(
            lambda key, names, clients: jax.vmap(
                lambda name, client: jax.random.fold_in(jax.random.fold_in(key, name), client)
            )(names, clients)
        )

    def train(
        self, stack: Variables, tasks: Tasks, moment: tuple[int, int, int], names: Sequence[int], learning_rate: float
    ) -> Variables:
        """One round, as `Fleet.train` does it.

        Args:
          stack: [K, ...] start of the round.
          tasks: who trains what; a candidate without tasks is left as it is.
          moment: purpose, iteration and round.
          names: [K] number of each candidate.
          learning_rate: of the clients.

        Returns:
          The stack after the round.
        """
        with jax.default_matmul_precision(self.precision):
            return jax.block_until_ready(self._train(stack, tasks, moment, names, np.float32(learning_rate)))

    def _train(
        self, stack: Variables, tasks: Tasks, moment: tuple[int, int, int], names: Sequence[int], rate: np.float32
    ) -> Variables:
        key = self._root
        for part in moment:
            key = jax.random.fold_in(key, part)
        keys = self._keys(key, np.asarray(names, np.int32)[tasks.candidate], np.asarray(tasks.client, np.int32))
        orders = np.asarray(self._orders(keys, self.data.train_count[tasks.client]))
        result = []
        for k in range(len(names)):
            start = jax.tree.map(lambda a, k=k: a[k], stack)
            total, weight = jax.tree.map(jnp.zeros_like, start), 0
            for t in np.flatnonzero(tasks.candidate == k):
                state = self._client(start, int(tasks.client[t]), orders[t], rate, keys[t])
                count = int(self.data.train_count[tasks.client[t]])
                total, weight = self._add(total, start, state, np.float32(count)), weight + count
            scale = np.float32(1 / max(weight, 1))
            result.append(jax.tree.map(lambda s, u, scale=scale: s + scale * u, start, total))
        return jax.tree.map(lambda *a: jnp.stack(a), *result)

    def _client(
        self, start: Variables, client: int, order: np.ndarray, rate: np.float32, key: jax.Array
    ) -> local.LocalState:
        first, state = self.data.offsets[client], self._init(start)
        for t in range(self.steps[client]):
            rows = first + order[t * self.batch : (t + 1) * self.batch]
            state = self._step(state, self.data.inputs[rows], self.data.labels[rows], rate, key, np.int32(t))
        return state
