"""What jax does by itself with many clients: `jax.vmap` of a training step with lax's own convolutions.

The network is the fleet's, and so are batches, loss and optimiser; what is left out is all that makes lanes fast:
lowerings with gradients of their own, and a schedule that fills lanes. Clients train in chunks side by side, each chunk
as long as its longest client. Letters: L lanes, C clients.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from fednas_jax.bench.rounds import Federation
from fednas_jax.engine import augment, local
from fednas_jax.seeds import KEYS
from fednas_jax.space import jaxprs
from fednas_jax.space.network import Network, Variables, Widths

KEPT = "custom_jvp_call"  # jax's own functions, relu among them, keep their gradients


class Plain:
    """A network as lax computes and differentiates it: the project's own lowerings and gradients are opened up."""

    def __init__(self, network: Network):
        self._network = network
        self.name, self.widths, self.input_shape = network.name, network.widths, network.input_shape
        self.blocks, self.removable, self.counted = network.blocks, network.removable, network.counted
        self.tokens = network.tokens
        self.abstract, self.init = network.abstract, network.init

    def apply(
        self, widths: Widths, variables: Variables, inputs: jax.Array, *, train: bool, key: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, Any]]:
        """As `Network.apply`."""

        def forward(variables: Variables, inputs: jax.Array, key: jax.Array | None) -> Any:
            return self._network.apply(widths, variables, inputs, train=train, key=key)

        closed, shapes = jax.make_jaxpr(forward, return_shape=True)(variables, inputs, key)
        found = _opened(closed.jaxpr, closed.consts, jax.tree.leaves((variables, inputs, key)))
        result: tuple[jax.Array, dict[str, Any]] = jax.tree.unflatten(jax.tree.structure(shapes), found)
        return result


def _opened(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """What a jaxpr computes, with calls in it replaced by what they call."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        body = None if equation.primitive.name == KEPT else jaxprs.called(equation)
        if body is not None:
            found = _opened(*body, given)
        else:
            found = equation.primitive.bind(*given, **equation.primitive.get_bind_params(equation.params))
            found = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


class PlainRounds:
    """The workload's first clients, side by side on one device; each call does one piece of work.

    Args:
      federation: what to train.
      lanes: L clients side by side.
      clients: the first so many train; a multiple of the lanes, or fewer than there are lanes.
      device: where.
    """

    def __init__(self, federation: Federation, lanes: int, clients: int, device: jax.Device):
        f = self.federation = federation
        train, self.device = f.workload.train, device
        self.lanes, self.clients = min(lanes, clients), clients
        self._batch, self._precision = train.batch_size, train.matmul_precision
        self.steps = local.local_steps(f.data.train_count, train)[:clients]
        self._root = jax.random.key(f.seed, impl=KEYS)
        self._capacity = local.stream_capacity(f.data.train_count[:clients], train)
        client = local.make_local(Plain(f.network), f.widths, train)
        prepare = augment.preparation(train.augment, f.mean, f.std, f.data.inputs.shape[1:])
        last = int(f.data.offsets[clients])
        self._columns = jax.device_put((f.data.inputs[:last], f.data.labels[:last]), device)
        self.stack = jax.device_put(f.start(), device)
        self.round = 0

        def chunk(
            start: Variables, columns: Any, first: jax.Array, count: jax.Array, steps: jax.Array, key: Any, rate: Any
        ) -> Variables:
            """The sum of [L] clients' updates, times their examples."""
            inputs, labels = columns
            orders = jax.vmap(functools.partial(local.stream, capacity=self._capacity))(key, count)

            def step(t: jax.Array, states: local.LocalState) -> local.LocalState:
                def of_client(state: Any, first: Any, order: Any, steps: Any, key: Any) -> local.LocalState:
                    rows = first + lax.dynamic_slice(order, (t * self._batch,), (self._batch,))
                    key = jax.random.fold_in(local.dropout_key(key), t)
                    done = client.step(state, prepare(inputs[rows], key), labels[rows], rate, key)
                    return jax.tree.map(lambda new, old: jnp.where(t < steps, new, old), done, state)

                return jax.vmap(of_client)(states, first, orders, steps, key)

            states = jax.vmap(lambda _: client.init(start))(first)
            states = lax.fori_loop(0, steps.max(), step, states)
            updates = jax.vmap(lambda state: client.final(start, state.variables))(states)
            return jax.tree.map(lambda u: jnp.tensordot(count.astype(u.dtype), u, 1), updates)

        self._chunk = jax.jit(chunk)

    @property
    def examples(self) -> int:
        """Of a piece of work; steps in which a lane idles, while another is not done, are counted too."""
        chunks = [self.steps[first : first + self.lanes] for first in range(0, self.clients, self.lanes)]
        gone = sum(int(chunk.max()) * len(chunk) for chunk in chunks)
        return gone * self._batch * self.federation.workload.candidates * self.federation.workload.rounds

    def __call__(self) -> float:
        """Seconds of the next piece of work."""
        f = self.federation
        began = time.perf_counter()
        for _ in range(f.workload.rounds):
            self.round += 1
            self.stack = self.train(self.stack, f.moment(self.round), f.workload.train.learning_rate)
        jax.block_until_ready(self.stack)
        return time.perf_counter() - began

    def train(self, stack: Variables, moment: tuple[int, int, int], learning_rate: float) -> Variables:
        """One round of plain FedAvg: the stack after it."""
        f, key = self.federation, self._root
        for part in moment:
            key = jax.random.fold_in(key, part)
        count, first = f.data.train_count[: self.clients], f.data.offsets[: self.clients].astype(np.int32)
        found, rate = [], np.float32(learning_rate)
        with jax.default_matmul_precision(self._precision), jax.default_device(self.device):
            for k, name in enumerate(f.names):
                start = jax.tree.map(lambda a, k=k: a[k], stack)
                of_slot = jax.random.fold_in(key, name)
                keys = jax.vmap(lambda client, key=of_slot: jax.random.fold_in(key, client))(np.arange(self.clients))
                updates = []
                for at in range(0, self.clients, self.lanes):
                    lanes = slice(at, at + self.lanes)
                    of_clients = (first[lanes], count[lanes], self.steps[lanes], keys[lanes])
                    updates.append(self._chunk(start, self._columns, *of_clients, rate))
                scale = np.float32(1 / count.sum())
                found.append(jax.tree.map(lambda s, *u, scale=scale: s + scale * sum(u), start, *updates))
            return jax.tree.map(lambda *a: jnp.stack(a), *found)
