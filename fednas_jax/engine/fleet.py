"""Candidates x clients in one compiled program: tasks are cut into lanes, and lanes lie across devices and hosts.

The only room that names the mesh. Letters: K slots for candidates in a stack, C clients, N examples, L lanes of one
device, D devices of all hosts, S segments, B batch, T tasks. A stack is a tree of variables [K, ...].
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fednas_jax.config.schema import EngineConfig, TrainConfig
from fednas_jax.data import PackedClients, normalise
from fednas_jax.engine import augment, local
from fednas_jax.engine import lane_plan as schedule
from fednas_jax.engine import lane_tuning as tuning
from fednas_jax.engine.feed import Feed, Share
from fednas_jax.errors import DeviceError
from fednas_jax.runtime import cache, hosts
from fednas_jax.space.network import Network, Variables, Widths

HOSTS, DEVICES = "hosts", "devices"
EACH = P((HOSTS, DEVICES))  # an array [D, ...]: every device its own
HOST = P(HOSTS)  # an array [H, ...]: every host its own, all its devices the same
ALL = P()


class Tasks(NamedTuple):
    """A round's work: task t is client[t] training or scoring candidate[t]."""

    candidate: np.ndarray  # [T] slot in the stack
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


class Table(NamedTuple):
    """A part's work on every device; see `schedule.Segments`."""

    lane: Any  # [D, S, 6, L] int32: candidate, client, first row, rows, steps (0: no work), steps begun
    length: Any  # [D, S] int32
    count: Any  # [D] int32


class Fleet:
    """The clients of one packed data set, ready to train and to score any stack of K candidates of a network.

    Args:
      network: the family of networks.
      data: the clients. Where it is on disk, or larger than its share of a device's memory, it is sent part by part.
      mean: of each channel, of images scaled to [0, 1].
      std: likewise.
      train: the clients' and the server's optimisers.
      engine: lanes, evaluation batch and the data's share of the memory.
      seed: the run's seed.
      candidates: K.
      devices: those to use; all devices of all hosts by default, as many on each host.
      meter: counts compilations and steps; fleets may share one.
      tasks: of a round, so that no more lanes are taken than have work; 0: every candidate on every client.
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
        tasks: int = 0,
    ):
        self.network, self.config, self.candidates = network, train, candidates
        self.mesh = mesh_of(devices or jax.devices())
        self.hosts, self.devices = self.mesh.devices.shape
        first = self.mesh.local_devices[0]
        self._prepare = augment.preparation(train.augment, mean, std, data.images.shape[1:])
        self.meter = meter or Meter()
        self.train_count = np.asarray(data.train_count)
        self.val_count = np.asarray(data.val_count)
        self.steps = local.local_steps(self.train_count, train)
        self.eval_batch = int(min(engine.eval_batch, max(1, self.val_count.max())))
        self.lanes = engine.lanes or self._measured_lanes(first, tasks or candidates * data.clients)
        self._normalise = functools.partial(normalise, mean=mean, std=std)
        self._capacity = local.stream_capacity(self.train_count, train) if self.train_count.all() else 0
        self._root = jax.random.key(seed)
        self._programs: dict[tuple[Any, ...], Callable[..., Any]] = {}
        own = [d.process_index for d in self.mesh.devices[:, 0]].index(first.process_index)
        self._local = range(own * self.devices, (own + 1) * self.devices)
        # Hosts of unequal memory must cut alike, or they would run different programs.
        memory = memory_of(first) if self.hosts == 1 else min(hosts.allgather(memory_of(first)))
        self._feed = Feed(data, self.hosts, own, int(engine.data_share * memory), self.lanes)
        self._resident = None
        if self._feed.resident:
            columns = self._feed.columns()
            self._resident = tuple(self._place([column], HOST, self.hosts, own) for column in columns)

    @property
    def streams(self) -> bool:
        """Whether clients' data is sent part by part instead of lying on the devices."""
        return not self._feed.resident

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
          names: [K] number of each candidate; random numbers belong to the number, not to the slot in the stack.
          learning_rate: of the clients.

        Returns:
          The stack and the server's state after the round, on every device.
        """
        stack, server = self._everywhere((stack, server))
        key = self._root
        for part in moment:
            key = jax.random.fold_in(key, part)
        fixed = self._everywhere((jax.random.key_data(key), np.asarray(names, np.int32), np.float32(learning_rate)))
        steps = self.steps[tasks.client]
        sums = self._program("zeros", widths, stack)(stack)
        began, compiling = time.perf_counter(), self.meter.compile_seconds
        with self._parts(tasks, steps, self._feed.train) as parts:
            for data, table in parts:
                arguments = (stack, sums, data, table, *fixed)
                sums, parts.done = self._program("train", widths, *arguments)(*arguments)
        stack, server = self._program("serve", widths, stack, sums, server)(stack, sums, server)
        jax.block_until_ready(stack)
        compiling = self.meter.compile_seconds - compiling
        self.meter.train_seconds += time.perf_counter() - began - compiling
        self.meter.steps += int(steps.sum())
        self.meter.examples += int(steps.sum()) * self.config.batch_size
        self.meter.lane_steps += parts.lane_steps
        return stack, server

    def evaluate(self, widths: Widths, stack: Variables, tasks: Tasks) -> Tally:
        """Scores candidates on their tasks' clients' validation examples.

        Args:
          widths: physical widths of the stack.
          stack: [K, ...].
          tasks: who scores what.
        """
        stack = self._everywhere(stack)
        batches = -(-self.val_count[tasks.client] // self.eval_batch)
        counts = self._place([np.zeros((3, self.candidates), np.int32)] * self.devices, EACH, self.mesh.size)
        with self._parts(tasks, batches, self._feed.validation) as parts:
            for data, table in parts:
                arguments = (stack, counts, data, table)
                counts, parts.done = self._program("score", widths, *arguments)(*arguments)
        correct, total, nonfinite = np.asarray(self._program("count", widths, counts)(counts), np.int64)
        return Tally(correct, total, (nonfinite == 0) & (total > 0))

    def _measured_lanes(self, device: jax.Device, tasks: int) -> int:
        """The lanes at which this device is fastest; the first host's answer is everyone's."""
        if not self.train_count.all():  # a test split trains nowhere
            return 1
        most = -(-tasks // self.mesh.size)

        def measure() -> int:
            return tuning.lanes(self.network, self.config, device, memory_of(device), most, cache.folder())

        return measure() if self.hosts == 1 else hosts.from_first_host(measure)

    def _parts(self, tasks: Tasks, steps: np.ndarray, share: Share) -> Parts:
        """The program calls that a task list takes, each with its data and its table on the devices."""
        feed, client = self._feed, np.asarray(tasks.client)
        first_rows = feed.first_rows(share) if feed.resident else None
        cut = schedule.parts(steps, client, share.size, feed.owner, self.hosts, self.devices, self.lanes, feed.capacity)

        def load(part: list[np.ndarray]) -> tuple[Any, Table, int]:
            data, rows, lane_steps = [], [], 0
            for device, mine in enumerate(part):
                plan = schedule.segments(steps[mine], self.lanes)
                lane_steps += int(plan.length.sum()) * self.lanes
                if device not in self._local:
                    continue
                if first_rows is None:
                    *columns, first = feed.gather(share, client[mine])
                    data.append(columns)
                else:
                    first = first_rows[client[mine]]
                facts = (tasks.candidate[mine], client[mine], first, share.size[client[mine]], steps[mine])
                rows.append((_lanes(plan, facts), plan.length, np.int32(plan.number)))
            placed = self._resident
            if first_rows is None:
                placed = tuple(self._place(column, EACH, self.mesh.size) for column in zip(*data, strict=True))
            table = Table(*(self._place(field, EACH, self.mesh.size) for field in zip(*rows, strict=True)))
            return placed, table, lane_steps

        return Parts(cut, load)

    def _place(self, own: Sequence[np.ndarray], spec: P, number: int, first: int | None = None) -> jax.Array:
        """An array [number, ...] over the mesh, of which this process gives its own rows, from number `first` on."""
        sharding = NamedSharding(self.mesh, spec)
        shape = (number, *np.shape(own[0]))
        start = self._local.start if first is None else first

        def row(at: Any) -> np.ndarray:
            return np.asarray(own[(at[0].start or 0) - start])[None]

        return jax.make_array_from_callback(shape, sharding, row)

    def _everywhere(self, tree: Any) -> Any:
        """The same tree on every device of every host."""
        sharding = NamedSharding(self.mesh, ALL)
        if self.hosts == 1:
            return jax.device_put(tree, sharding)

        def place(leaf: Any) -> jax.Array:
            if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
                return leaf
            value = np.asarray(leaf)
            return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])

        return jax.tree.map(place, tree)

    def _program(self, kind: str, widths: Widths, *args: Any) -> Callable[..., Any]:
        """The compiled program of a kind at these widths; compiled once, from the first call's arguments."""
        if (kind, widths) not in self._programs:
            programs: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
                "zeros": (self._zeros, ()),
                "train": (functools.partial(self._train, widths), (1,)),
                "serve": (self._serve, ()),
                "score": (functools.partial(self._score, widths), (1,)),
                "count": (self._count, ()),
            }
            function, donated = programs[kind]
            began = time.perf_counter()
            with jax.default_matmul_precision(self.config.matmul_precision):
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
        return lax.with_sharding_constraint(zeros, NamedSharding(self.mesh, EACH))

    def _train(
        self,
        widths: Widths,
        stack: Variables,
        sums: Sums,
        data: tuple[jax.Array, jax.Array],
        table: Table,
        key: jax.Array,
        names: jax.Array,
        rate: jax.Array,
    ) -> tuple[Sums, jax.Array]:
        """Adds the updates of a part's tasks to the sums, each device those of its own lanes."""
        client = local.make_local(self.network, widths, self.config)
        batch = self.config.batch_size

        def segment(lane: jax.Array, length: jax.Array, carry: Any, shared: Any) -> Any:
            candidate, who, first, rows, steps, begun = lane  # each [L]
            state, sums = carry
            stack, (images, labels), key, names, rate = shared
            root = jax.random.wrap_key_data(key)
            keys = jax.vmap(lambda k, c: jax.random.fold_in(jax.random.fold_in(root, names[k]), c))(candidate, who)
            order = jax.vmap(functools.partial(local.stream, capacity=self._capacity))(keys, jnp.maximum(rows, 1))
            dropout = jax.vmap(local.dropout_key)(keys)
            start = jax.tree.map(lambda a: a[candidate], stack)
            state = self._choose(begun == 0, jax.vmap(client.init)(start), state)

            def step(t: jax.Array, state: local.LocalState) -> local.LocalState:
                now = begun + t  # [L]
                at = jax.vmap(lambda o, n: lax.dynamic_slice_in_dim(o, n * batch, batch))(order, now)
                at = first[:, None] + at
                step_keys = jax.vmap(jax.random.fold_in)(dropout, now)
                shown = jax.vmap(self._prepare)(images[at], step_keys)
                new = jax.vmap(client.step, (0, 0, 0, None, 0))(state, shown, labels[at], rate, step_keys)
                return self._choose(now < steps, new, state)

            state = lax.fori_loop(0, length, step, state)
            done = (steps > 0) & (begun + length >= steps)
            weight = rows.astype(jnp.float32)
            # A lane that isn't done adds to a place that isn't there, which drops it: what it holds may be no number.
            place = jnp.where(done, candidate, self.candidates)
            update = jax.vmap(client.final)(start, state)
            total = jax.tree.map(
                lambda s, u: s.at[0, place].add(_wide(weight, u) * u, mode="drop"), sums.update, update
            )
            return state, Sums(total, sums.weight.at[0, place].add(weight, mode="drop"))

        def before(shared: Any) -> local.LocalState:
            first = jax.tree.map(lambda a: jnp.broadcast_to(a[0], (self.lanes, *a.shape[1:])), shared[0])
            return jax.vmap(client.init)(first)

        return self._over_segments(segment, before, table, sums, data, stack, key, names, rate)

    def _choose(self, new: jax.Array, yes: Any, no: Any) -> Any:
        """Lane by lane the one tree or the other; a lone lane waits for nobody, so it is always `yes`."""
        if self.lanes == 1:
            return yes
        return jax.tree.map(lambda a, b: jnp.where(_wide(new, a), a, b), yes, no)

    def _over_segments(
        self, segment: Any, before: Any, table: Table, totals: Any, data: tuple[jax.Array, jax.Array], *shared: Any
    ) -> Any:
        """Runs `state, totals = segment(lane [6, L], length, (state, totals), shared)` over each device's segments.

        `before(shared)` is the state in which the first segment finds the lanes. `shared` is given as
        (first of shared, data without its device's dimension, the rest of shared). Returns the totals and a small
        array that is there when they are.
        """

        def device(table: Table, totals: Any, data: Any, shared: Any) -> Any:
            lane, length, count = table.lane[0], table.length[0], table.count[0]
            inner = (shared[0], jax.tree.map(lambda a: a[0], data), *shared[1:])
            carry = (before(inner), totals)
            _, totals = lax.fori_loop(0, count, lambda n, c: segment(lane[n], length[n], c, inner), carry)
            return totals, table.count + 0

        specs = (EACH, EACH, EACH if self.streams else HOST, ALL)
        mapped = jax.shard_map(device, mesh=self.mesh, in_specs=specs, out_specs=EACH, check_vma=False)
        return mapped(table, totals, data, shared)

    def _serve(self, stack: Variables, sums: Sums, server: Any) -> tuple[Variables, Any]:
        """FedAvg of the sums, and the server optimiser's step; statistics are averaged plainly."""
        weight = sums.weight.sum(0)  # over devices: the round's one reduction between them
        mean = jax.tree.map(lambda s: s.sum(0) / _wide(jnp.maximum(weight, 1), s[0]), sums.update)
        optimizer = local.server_optimizer(self.config)
        descent = jax.tree.map(jnp.negative, mean.params)
        updates, new_server = jax.vmap(optimizer.update)(descent, server, stack.params)
        moved = Variables(jax.tree.map(jnp.add, stack.params, updates), jax.tree.map(jnp.add, stack.stats, mean.stats))
        choose = functools.partial(jax.tree.map, lambda a, b: jnp.where(_wide(weight > 0, a), a, b))
        new = (choose(moved, stack), choose(new_server, server))
        return lax.with_sharding_constraint(new, NamedSharding(self.mesh, ALL))

    def _score(
        self, widths: Widths, stack: Variables, counts: jax.Array, data: tuple[jax.Array, jax.Array], table: Table
    ) -> tuple[jax.Array, jax.Array]:
        """Adds correct predictions, examples and rows of nonfinite logits of a part to counts [D, 3, K]."""
        forward = local.make_forward(self.network, widths, self.config)

        def segment(lane: jax.Array, length: jax.Array, carry: Any, shared: Any) -> Any:
            candidate, _, first, rows, batches, begun = lane  # each [L]
            stack, (images, labels) = shared
            variables = jax.tree.map(lambda a: a[candidate], stack)
            have = jnp.where(batches > 0, rows, 0)

            def one(t: jax.Array, counts: jax.Array) -> jax.Array:
                place = (begun + t)[:, None] * self.eval_batch + jnp.arange(self.eval_batch)
                real = place < have[:, None]  # [L, B]
                at = jnp.where(real, first[:, None] + place, 0)
                score = jax.vmap(lambda v, x: forward(v, x, train=False)[0])
                logits = score(variables, self._normalise(images[at]))
                right = (jnp.argmax(logits, -1) == labels[at]) & real
                nonfinite = ~jnp.all(jnp.isfinite(logits), -1) & real
                found = jnp.stack([a.sum(-1, dtype=jnp.int32) for a in (right, real, nonfinite)])  # [3, L]
                return counts.at[0, :, candidate].add(found.T)

            return (), lax.fori_loop(0, length, one, carry[1])

        return self._over_segments(segment, lambda shared: (), table, counts, data, stack)

    def _count(self, counts: jax.Array) -> jax.Array:
        """[3, K] over all devices."""
        return lax.with_sharding_constraint(counts.sum(0), NamedSharding(self.mesh, ALL))


class Parts:
    """Iterates over a round's parts, each loaded by a thread of its own while the one before it is worked on.

    Used as a context, which ends the thread. `done`: set by the user to an array that is there when the part is done;
    one part is worked on, one is ready and one being loaded at most, so that memory stays flat.
    """

    def __init__(self, cut: Sequence[Any], load: Callable[[Any], tuple[Any, Table, int]]):
        self._cut, self._load = cut, load
        self._thread = ThreadPoolExecutor(1, "fednas-feed")
        self.lane_steps = 0
        self.done: jax.Array | None = None

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Any, Table]]:
        before: jax.Array | None = None
        future = self._thread.submit(self._load, self._cut[0]) if self._cut else None
        for following in [*self._cut[1:], None]:
            if future is None:
                return
            data, table, lane_steps = future.result()
            self.lane_steps += lane_steps
            future = None if following is None else self._thread.submit(self._load, following)
            yield data, table
            if before is not None:
                jax.block_until_ready(before)
            before = self.done


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Hosts x devices of each, in the order of the processes.

    Raises:
      DeviceError: where hosts have different numbers of devices.
    """
    ordered = sorted(devices, key=lambda d: (d.process_index, d.id))
    found, number = np.unique([d.process_index for d in ordered], return_counts=True)
    if len(set(number.tolist())) > 1:
        raise DeviceError(f"devices: got {number.tolist()} of the hosts {found.tolist()}, want as many of each host")
    return Mesh(np.asarray(ordered).reshape(len(found), -1), (HOSTS, DEVICES))


def memory_of(device: jax.Device) -> int:
    """Bytes of memory that a device has; the fake devices of one CPU share the machine's."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole // len(jax.local_devices(backend=device.platform))


def _lanes(plan: schedule.Segments, facts: tuple[np.ndarray, ...]) -> np.ndarray:
    """[S, 6, L] int32: the facts of each lane's task, and how much of it was done before; zeros without a task."""
    padded = [np.append(np.asarray(fact, np.int32), np.int32(0)) for fact in facts]  # task -1 is the last
    return np.stack([*(fact[plan.task] for fact in padded), plan.begun], axis=1)


def _wide(values: jax.Array, like: jax.Array) -> jax.Array:
    """[n] as [n, 1, ...], to meet an array [n, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
