"""Candidates x clients in one compiled program: tasks are cut into waves of lanes, and lanes lie across the devices.

The only room that names the mesh. Letters: K places for candidates in a stack, C clients, N examples, L lanes of one
device, D devices, B batch, T tasks. A stack is a tree of variables [K, ...].
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fednas_jax import local
from fednas_jax.config import EngineConfig, TrainConfig
from fednas_jax.data import PackedClients, normalise
from fednas_jax.space import Network, Variables, Widths

AXIS = "lanes"
WAVES = 64  # waves in one call of a program; longer task lists take more calls


class Tasks(NamedTuple):
    """A round's work: task t is client[t] training or scoring candidate[t]."""

    candidate: np.ndarray  # [T] place in the stack
    client: np.ndarray  # [T]


class Tally(NamedTuple):
    """What evaluation counted, for each place in the stack."""

    correct: np.ndarray  # [K] int64
    total: np.ndarray  # [K] int64
    finite: np.ndarray  # [K] bool: all logits were finite numbers

    @property
    def accuracy(self) -> np.ndarray:
        """[K]; NaN for a candidate that nobody scored or whose logits were not finite."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.finite, self.correct / self.total, np.nan)


@dataclass
class Meter:
    """The simulator's own effort; never mixed with what the simulated clients spend."""

    compilations: int = 0
    compile_seconds: float = 0.0
    steps: int = 0  # local training steps, over all tasks
    lane_steps: int = 0  # steps that lanes went through, those without work included
    examples: int = 0  # examples trained on
    train_seconds: float = 0.0  # in training, compilation apart
    wall_seconds: float = 0.0  # of the processes that worked on this run before


class Sums(NamedTuple):
    """A round's accumulators on each device."""

    update: Variables  # [D, K, ...] weighted sums of the clients' updates
    weight: jax.Array  # [D, K] examples


class Fleet:
    """The clients of one packed data set, ready to train and to score any stack of K candidates of a network.

    Args:
      network: the family of networks.
      data: the clients.
      mean: of each channel, of images scaled to [0, 1].
      std: likewise.
      train: the clients' and the server's optimisers.
      engine: lanes and evaluation batch.
      seed: the run's seed.
      candidates: K.
      devices: those to use; all local ones by default.
      meter: counts compilations and steps; fleets may share one.
    """

    def __init__(
        self,
        network: Network,
        data: PackedClients,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: TrainConfig,
        engine: EngineConfig,
        seed: int,
        candidates: int,
        devices: Sequence[jax.Device] | None = None,
        meter: Meter | None = None,
    ):
        self.network, self.config, self.candidates = network, train, candidates
        self.mesh = Mesh(np.asarray(devices or jax.local_devices()), (AXIS,))
        self.lanes = engine.lanes or default_lanes(self.mesh.devices.flat[0].platform)
        self.meter = meter or Meter()
        self.train_count = np.asarray(data.train_count)
        self.val_count = np.asarray(data.val_count)
        self.steps = local.local_steps(self.train_count, train)
        self.eval_batch = int(min(engine.eval_batch, max(1, self.val_count.max())))
        self._normalise = functools.partial(normalise, mean=mean, std=std)
        self._data = jax.device_put(PackedClients(*(np.asarray(a) for a in data)), self._everywhere)
        self._capacity = local.stream_capacity(self.train_count, train) if self.train_count.all() else 0
        self._root = jax.random.key(seed)
        self._programs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def init_server(self, stack: Variables) -> Any:
        """The server optimiser's state for a stack, [K, ...]."""
        return jax.vmap(local.server_optimizer(self.config).init)(stack.params)

    def train(
        self,
        widths: Widths,
        stack: Variables,
        server: Any,
        tasks: Tasks,
        moment: tuple[int, int, int],
        names: Sequence[int],
        learning_rate: float,
    ) -> tuple[Variables, Any]:
        """One round: every task trains its client, the server averages each candidate's updates by examples.

        Args:
          widths: physical widths of the stack.
          stack: [K, ...] start of the round.
          server: `init_server`'s state.
          tasks: who trains what; a candidate without tasks is left as it is.
          moment: purpose, iteration and round, which the round's random numbers come from.
          names: [K] number of each candidate; random numbers belong to the number, not to the place in the stack.
          learning_rate: of the clients.

        Returns:
          The stack and the server's state after the round.
        """
        stack, server = jax.device_put((stack, server), self._everywhere)
        key = self._root
        for part in moment:
            key = jax.random.fold_in(key, part)
        steps = self.steps[tasks.client]
        waves, deepest = plan_waves(tasks, steps, self._width)
        rate = np.float32(learning_rate)
        fixed = jax.device_put((key, np.asarray(names, np.int32), rate), self._everywhere)
        sums = self._program("zeros", widths, stack)(stack)
        began, compiling = time.perf_counter(), self.meter.compile_seconds
        for chunk, count in self._chunks(waves):
            sums = self._program("train", widths, stack, sums, self._data, chunk, count, *fixed)(
                stack, sums, self._data, chunk, count, *fixed
            )
        stack, server = self._program("serve", widths, stack, sums, server)(stack, sums, server)
        jax.block_until_ready(stack)
        compiling = self.meter.compile_seconds - compiling
        self.meter.train_seconds += time.perf_counter() - began - compiling
        self.meter.steps += int(steps.sum())
        self.meter.examples += int(steps.sum()) * self.config.batch_size
        self.meter.lane_steps += int(deepest.sum()) * self._width
        return stack, server

    def evaluate(self, widths: Widths, stack: Variables, tasks: Tasks) -> Tally:
        """Scores candidates on their tasks' clients' validation examples.

        Args:
          widths: physical widths of the stack.
          stack: [K, ...].
          tasks: who scores what.
        """
        stack = jax.device_put(stack, self._everywhere)
        batches = -(-self.val_count[tasks.client] // self.eval_batch)
        waves, _ = plan_waves(tasks, batches, self._width)
        shape = (self.mesh.size, 3, self.candidates)
        counts = jax.device_put(np.zeros(shape, np.int32), NamedSharding(self.mesh, P(AXIS)))
        for chunk, count in self._chunks(waves):
            counts = self._program("score", widths, stack, counts, self._data, chunk, count)(
                stack, counts, self._data, chunk, count
            )
        correct, total, strange = np.asarray(counts, np.int64).sum(0)
        return Tally(correct, total, (strange == 0) & (total > 0))

    @property
    def _width(self) -> int:
        """Lanes of all devices: tasks in a wave."""
        return self.lanes * self.mesh.size

    @property
    def _everywhere(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def _chunks(self, waves: np.ndarray) -> list[tuple[jax.Array, jax.Array]]:
        """Pieces of WAVES waves, the last padded, with the number of waves in them."""
        pieces = []
        for first in range(0, len(waves), WAVES):
            piece = waves[first : first + WAVES]
            padded = np.zeros((WAVES, *waves.shape[1:]), np.int32)
            padded[: len(piece)] = piece
            lanes = NamedSharding(self.mesh, P(None, None, AXIS))
            pieces.append((jax.device_put(padded, lanes), jax.device_put(np.int32(len(piece)), self._everywhere)))
        return pieces

    def _program(self, kind: str, widths: Widths, *args: Any) -> Callable[..., Any]:
        """The compiled program of a kind at these widths; compiled once, from the first call's arguments."""
        if (kind, widths) not in self._programs:
            programs: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
                "zeros": (self._zeros, ()),
                "train": (functools.partial(self._train, widths), (1,)),
                "serve": (self._serve, ()),
                "score": (functools.partial(self._score, widths), (1,)),
            }
            function, donated = programs[kind]
            began = time.perf_counter()
            lowered = jax.jit(function, donate_argnums=donated).lower(*args)
            self._programs[kind, widths] = lowered.compile()
            self.meter.compile_seconds += time.perf_counter() - began
            self.meter.compilations += kind == "train"
        return self._programs[kind, widths]

    def _zeros(self, stack: Variables) -> Sums:
        devices = self.mesh.size
        zeros = Sums(
            jax.tree.map(lambda a: jnp.zeros((devices, *a.shape), a.dtype), stack),
            jnp.zeros((devices, self.candidates), jnp.float32),
        )
        return lax.with_sharding_constraint(zeros, NamedSharding(self.mesh, P(AXIS)))

    def _train(
        self,
        widths: Widths,
        stack: Variables,
        sums: Sums,
        data: PackedClients,
        waves: jax.Array,
        count: jax.Array,
        key: jax.Array,
        names: jax.Array,
        rate: jax.Array,
    ) -> Sums:
        """Adds the updates of `count` waves [W, 3, D x L] to the sums, each device its own lanes."""
        client = local.make_local(self.network, widths, self.config)
        batch = self.config.batch_size

        def wave(tasks: jax.Array, sums: Sums, shared: Any) -> Sums:
            candidate, who, steps = tasks  # each [L]
            stack, data, key, names, rate = shared
            start = jax.tree.map(lambda a: a[candidate], stack)
            keys = jax.vmap(lambda k, c: jax.random.fold_in(jax.random.fold_in(key, names[k]), c))(candidate, who)
            order = jax.vmap(functools.partial(local.stream, capacity=self._capacity))(keys, data.train_count[who])
            first = data.offsets[who]

            def step(t: jax.Array, state: local.LocalState) -> local.LocalState:
                rows = first[:, None] + lax.dynamic_slice_in_dim(order, t * batch, batch, axis=1)
                images = self._normalise(data.images[rows])
                step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, t)
                new = jax.vmap(client.step, (0, 0, 0, None, 0))(state, images, data.labels[rows], rate, step_keys)
                if self.lanes == 1:  # a lone lane is never without work
                    return new
                return jax.tree.map(lambda a, b: jnp.where(_wide(t < steps, a), a, b), new, state)

            trained = lax.fori_loop(0, jnp.max(steps), step, jax.vmap(client.init)(start))
            weight = jnp.where(steps > 0, data.train_count[who], 0).astype(jnp.float32)
            update = jax.vmap(client.final)(start, trained)
            total = jax.tree.map(lambda s, u: s.at[0, candidate].add(_wide(weight, u) * u), sums.update, update)
            return Sums(total, sums.weight.at[0, candidate].add(weight))

        return self._over_waves(wave, waves, count, sums, (stack, data, key, names, rate))

    def _over_waves(self, wave: Any, waves: jax.Array, count: jax.Array, totals: Any, shared: Any) -> Any:
        """Runs `totals = wave(tasks [3, L], totals, shared)` over the first `count` waves, on each device."""

        def device(waves: jax.Array, count: jax.Array, totals: Any, shared: Any) -> Any:
            return lax.fori_loop(0, count, lambda n, t: wave(waves[n], t, shared), totals)

        specs = (P(None, None, AXIS), P(), P(AXIS), P())
        mapped = jax.shard_map(device, mesh=self.mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
        return mapped(waves, count, totals, shared)

    def _serve(self, stack: Variables, sums: Sums, server: Any) -> tuple[Variables, Any]:
        """FedAvg of the sums, and the server optimiser's step; statistics are averaged plainly."""
        weight = sums.weight.sum(0)  # over devices: the round's one reduction between them
        mean = jax.tree.map(lambda s: s.sum(0) / _wide(jnp.maximum(weight, 1), s[0]), sums.update)
        optimizer = local.server_optimizer(self.config)
        descent = jax.tree.map(jnp.negative, mean.params)
        updates, new_server = jax.vmap(optimizer.update)(descent, server, stack.params)
        moved = Variables(jax.tree.map(jnp.add, stack.params, updates), jax.tree.map(jnp.add, stack.stats, mean.stats))
        choose = functools.partial(jax.tree.map, lambda a, b: jnp.where(_wide(weight > 0, a), a, b))
        new = lax.with_sharding_constraint((choose(moved, stack), choose(new_server, server)), self._everywhere)
        return new

    def _score(
        self,
        widths: Widths,
        stack: Variables,
        counts: jax.Array,
        data: PackedClients,
        waves: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        """Adds correct predictions, examples and rows of strange logits of the waves to counts [D, 3, K]."""

        def wave(tasks: jax.Array, counts: jax.Array, shared: Any) -> jax.Array:
            candidate, who, batches = tasks  # each [L]
            stack, data = shared
            variables = jax.tree.map(lambda a: a[candidate], stack)
            first = data.offsets[who] + data.train_count[who]
            have = jnp.where(batches > 0, data.offsets[who + 1] - first, 0)

            def one(t: jax.Array, counts: jax.Array) -> jax.Array:
                place = t * self.eval_batch + jnp.arange(self.eval_batch)
                real = place < have[:, None]  # [L, B]
                rows = jnp.where(real, first[:, None] + place, 0)
                images, labels = self._normalise(data.images[rows]), data.labels[rows]
                logits = jax.vmap(lambda v, x: self.network.apply(widths, v, x, train=False)[0])(variables, images)
                right = (jnp.argmax(logits, -1) == labels) & real
                strange = ~jnp.all(jnp.isfinite(logits), -1) & real
                found = jnp.stack([a.sum(-1, dtype=jnp.int32) for a in (right, real, strange)])  # [3, L]
                return counts.at[0, :, candidate].add(found.T)

            return lax.fori_loop(0, jnp.max(batches), one, counts)

        return self._over_waves(wave, waves, count, counts, (stack, data))


def default_lanes(platform: str) -> int:
    """Lanes of a device where the user names none: a CPU core is full with few, an accelerator needs many."""
    return 4 if platform == "cpu" else 64


def plan_waves(tasks: Tasks, steps: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts tasks into waves of equal-sized work.

    Args:
      tasks: T tasks.
      steps: [T] steps of each.
      width: tasks in a wave.

    Returns:
      Waves [W, 3, width] int32 of candidate, client and steps, the longest tasks first and the last wave filled up
      with tasks of no steps; and the steps [W] of each wave's longest task. Tasks without steps are left out.
    """
    order = np.argsort(-steps, kind="stable")[: int(np.count_nonzero(steps))]
    count = -(-len(order) // width)
    table = np.zeros((3, count * width), np.int32)
    table[:, : len(order)] = np.stack([tasks.candidate, tasks.client, steps])[:, order]
    waves = table.reshape(3, count, width).transpose(1, 0, 2)
    return waves, waves[:, 2].max(1, initial=0)


def _wide(values: jax.Array, like: jax.Array) -> jax.Array:
    """[n] as [n, 1, ...], to meet an array [n, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
