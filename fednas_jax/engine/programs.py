"""The programs that the fleet compiles, as functions of records: begin a round, train, serve, score, count.

A small round is one program, `whole_round`, and so is its score; else each part of the tasks is a call of its own.
Training and scoring step through a table of segments: between two boundaries all lanes of a device step together, and
at a boundary lanes that are done hand in what they have and take up their next task. Letters: K slots for candidates in
a stack, C clients, N examples, L lanes of one device, D devices of all hosts, H hosts, S segments, B batch. A stack is
a tree of variables [K, ...].
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding

from fednas_jax.config.schema import ParticipationConfig, TrainConfig
from fednas_jax.engine import attacks, lane_plan, local
from fednas_jax.engine.aggregation import Aggregation, update_norm
from fednas_jax.engine.mesh import ALL, DEVICES, EACH, HOST, HOSTS
from fednas_jax.engine.metrics import Metric, statistics_shape
from fednas_jax.engine.optimizers import server_optimizer
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Network, Variables, Widths


@dataclass(frozen=True)
class Recipe:
    """What programs are compiled from, beside the physical widths; none of it changes during a run."""

    network: Network
    train: TrainConfig
    mesh: Mesh
    slots: int  # K
    lanes: int  # L
    eval_batch: int  # B in scoring
    capacity: int  # examples that the longest client's stream has room for
    streams: bool  # whether columns are every device's own, not a host's
    prepare: Callable[[jax.Array, jax.Array], jax.Array]  # training inputs and their key -> what the network sees
    normalise: Callable[[jax.Array], jax.Array]  # inputs that score -> what the network sees
    classes: int
    aggregation: Aggregation
    metric: Metric
    attack: ParticipationConfig | None  # what malicious clients do; None: there are none


class Lanes(NamedTuple):
    """What each lane works on in one segment; zeros in a lane without work."""

    candidate: Any  # [L] int32 slot in the stack
    client: Any  # [L] int32
    first: Any  # [L] int32 first row of the client's examples in the columns
    rows: Any  # [L] int32 number of them
    steps: Any  # [L] int32 the task takes in all; 0: no work
    malicious: Any  # [L] int32 1: the client attacks
    place: Any  # [L] int32 where the device keeps the task's update, if updates are kept
    begun: Any  # [L] int32 steps done before this segment


class Table(NamedTuple):
    """A part's work on every device; see `lane_plan.Segments`."""

    lanes: Any  # [D, S, 8, L] int32: the fields of Lanes, in their order
    length: Any  # [D, S] int32
    count: Any  # [D] int32


class Columns(NamedTuple):
    """Examples on the devices; the first dimension is H where they lie there for the whole run, D where streamed."""

    inputs: Any  # [H or D, N, ...] as the data has them; in a segment [N, ...]
    labels: Any  # [H or D, N] int32, or [H or D, N, T] with -1 where a position has none; in a segment [N, ...]


class TrainInputs(NamedTuple):
    """What a training program reads beside its table."""

    stack: Variables  # [K, ...] start of the round
    columns: Columns
    key: Any  # data of the round's key, or [K, ...] of each slot's
    candidate_ids: Any  # [K] int32
    learning_rate: Any  # float32, or [K] of each slot
    own: dict[str, Any]  # numbers of the training's config in which slots differ, by name: [K] float32


class ScoreInputs(NamedTuple):
    """What a scoring program reads beside its table."""

    stack: Variables  # [K, ...]
    columns: Columns


class Sums(NamedTuple):
    """A round's accumulators on each device."""

    update: Variables  # [D, K, ...] weighted sums of the clients' updates
    weight: jax.Array  # [D, K] examples
    left_out: jax.Array  # [D, K] int32 updates that were no finite numbers, or beyond the bound


class Kept(NamedTuple):
    """A round's updates on each device, for an aggregation that needs them at once."""

    update: Variables  # [D, P, ...]; 0 where there is none, or it was left out
    weight: jax.Array  # [D, P] examples, likewise
    left_out: jax.Array  # [D, K] int32


class Room(NamedTuple):
    """How many updates a round keeps, rounded up to powers of two so that programs are few."""

    places: int = 0  # P, on each device
    most: int = 0  # n, of one candidate


class Counts(NamedTuple):
    """What evaluation adds up on each device, int32."""

    examples: jax.Array  # [D, 3, K] examples or positions: predicted rightly, in all, with logits that aren't finite
    metric: jax.Array  # [D, K, ...] the metric's statistics


class Carry(NamedTuple):
    """What goes from segment to segment."""

    lanes: Any  # what each lane holds, [L, ...]
    totals: Any  # what is handed in at boundaries, [1, ...]: this device's part


def lane_table(plan: lane_plan.Segments, lanes: Lanes) -> np.ndarray:
    """[S, 8, L] int32 of one device's part.

    Args:
      plan: which task is in which lane when.
      lanes: facts of each task, [n] instead of [L]; `begun` is the plan's.
    """

    def of(fact: Any) -> np.ndarray:
        padded = np.append(np.asarray(fact, np.int32), np.int32(0))  # task -1 is the last
        return padded[plan.task]

    return np.stack([*map(of, lanes[:-1]), plan.begun], axis=1)


def zeros(recipe: Recipe, room: Room, stack: Variables) -> Sums | Kept:
    """The totals of a round in which nothing was done yet."""
    devices = recipe.mesh.size
    kind, number = (Sums, recipe.slots) if recipe.aggregation.together is None else (Kept, room.places)
    empty = kind(
        jax.tree.map(lambda a: jnp.zeros((devices, number, *a.shape[1:]), a.dtype), stack),
        jnp.zeros((devices, number), jnp.float32),
        jnp.zeros((devices, recipe.slots), jnp.int32),
    )
    return lax.with_sharding_constraint(empty, NamedSharding(recipe.mesh, EACH))


def whole_round(
    recipe: Recipe, physical_widths: Widths, room: Room, server: Any, of: jax.Array, table: Table, inputs: TrainInputs
) -> tuple[Variables, Any, jax.Array]:
    """A round whose tasks are all in one part; arguments and result are those of `zeros`, `train` and `serve`."""
    totals, _ = train(recipe, physical_widths, zeros(recipe, room, inputs.stack), table, inputs)
    return serve(recipe, inputs.stack, totals, server, of)


def train(recipe: Recipe, physical_widths: Widths, totals: Sums | Kept, table: Table, inputs: TrainInputs) -> Any:
    """Adds the updates of a part's tasks to the totals, each device those of its own lanes.

    Returns:
      The totals, and a small array that is there when they are.
    """
    batch = recipe.train.batch_size

    def client(own: dict[str, Any]) -> local.Local:
        """A lane's training; numbers that all slots share are constants of the program."""
        return local.make_local(recipe.network, physical_widths, dataclasses.replace(recipe.train, **own))

    def begun(own: dict[str, Any], start: Variables) -> local.LocalState:
        return client(own).init(start)

    def stepped(own: dict[str, Any], *args: Any) -> local.LocalState:
        return client(own).step(*args)

    def segment(lanes: Lanes, length: jax.Array, carry: Carry, inputs: TrainInputs) -> Carry:
        examples, labels = inputs.columns
        root = jax.random.wrap_key_data(inputs.key, impl=KEYS)

        def key_of(slot: jax.Array, client: jax.Array) -> jax.Array:
            of_round = root[slot] if root.ndim else root
            return jax.random.fold_in(jax.random.fold_in(of_round, inputs.candidate_ids[slot]), client)

        keys = jax.vmap(key_of)(lanes.candidate, lanes.client)
        own = jax.tree.map(lambda a: a[lanes.candidate], inputs.own)
        rate, rate_axis = inputs.learning_rate, None
        if rate.ndim:
            rate, rate_axis = rate[lanes.candidate], 0
        stream = functools.partial(local.stream, capacity=recipe.capacity)
        order = jax.vmap(stream)(keys, jnp.maximum(lanes.rows, 1))
        dropout = jax.vmap(local.dropout_key)(keys)
        start = jax.tree.map(lambda a: a[lanes.candidate], inputs.stack)
        before, taken = carry.lanes
        state = jax.vmap(begun)(own, start)
        if recipe.lanes > 1:  # a lone lane waits for nobody: each of its segments is a whole task
            state = _choose(lanes.begun == 0, state, before)

        def step(t: jax.Array, state: local.LocalState) -> local.LocalState:
            now = lanes.begun + t  # [L]
            at = jax.vmap(lambda o, n: lax.dynamic_slice_in_dim(o, n * batch, batch))(order, now)
            at = lanes.first[:, None] + at  # [L, B]
            step_keys = jax.vmap(jax.random.fold_in)(dropout, now)
            shown = jax.vmap(recipe.prepare)(examples[at], step_keys)
            told = labels[at]
            if recipe.attack:
                told = attacks.attacked_labels(recipe.attack, lanes.malicious, told, recipe.classes)
            return jax.vmap(stepped, (0, 0, 0, 0, rate_axis, 0))(own, state, shown, told, rate, step_keys)

        left = lanes.steps - lanes.begun  # [L]; none in a lane without work
        done = (lanes.steps > 0) & (left <= length)
        if recipe.lanes == 1:
            state = lax.fori_loop(0, length, step, state)
            trained = state.variables
        else:
            ends = jnp.where(done, left, length)
            state, taken = _until_each_is_done(ends, length, step, state, taken)
            trained = _choose(ends == length, state.variables, taken)
        update = jax.vmap(client({}).final)(start, trained)
        if recipe.attack:
            update = jax.vmap(functools.partial(attacks.attacked_update, recipe.attack))(lanes.malicious, update)
        return Carry((state, taken), _handed_in(recipe, lanes, done, update, carry.totals))

    def nothing(inputs: TrainInputs) -> tuple[local.LocalState, Any]:
        first = (inputs.own, inputs.stack)
        own, stack = jax.tree.map(lambda a: jnp.broadcast_to(a[0], (recipe.lanes, *a.shape[1:])), first)
        return jax.vmap(begun)(own, stack), stack if recipe.lanes > 1 else ()

    return _over_segments(recipe, segment, nothing, table, totals, inputs)


def _until_each_is_done(
    ends: jax.Array,
    length: jax.Array,
    step: Callable[[jax.Array, local.LocalState], local.LocalState],
    state: local.LocalState,
    taken: Variables,
) -> tuple[local.LocalState, Variables]:
    """Steps all lanes together, and takes a lane's variables aside where it ends before the others.

    A lane that has ended goes on, with nobody looking at it. So a step has no choice between new and old state, which
    would be a pass over all weights, and is compiled once; the pass is made where a lane ends, not in every step after.

    Args:
      ends: [L] after how many steps each lane's variables are wanted; at most `length`.
      length: of the segment.
      step: (number, state) -> state of all lanes.
      state: [L, ...].
      taken: [L, ...], of the variables' shapes; what it holds is not looked at.

    Returns:
      The state after the last step, and the variables [L, ...] of each lane that ended before it, as they were then.
    """

    def stretch(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        begin, (state, taken) = carry
        end = jnp.min(jnp.where(ends > begin, ends, length))  # until the next lane ends
        state = lax.fori_loop(begin, end, step, state)
        # A loop of one turn or none, since a conditional would copy what it doesn't change.
        early = (end < length).astype(jnp.int32)
        taken = lax.fori_loop(0, early, lambda _, old: _choose(ends == end, state.variables, old), taken)
        return end, (state, taken)

    _, found = lax.while_loop(lambda carry: carry[0] < length, stretch, (jnp.int32(0), (state, taken)))
    return found


def _handed_in(recipe: Recipe, lanes: Lanes, done: jax.Array, update: Variables, totals: Sums | Kept) -> Sums | Kept:
    """The totals with the updates [L, ...] of lanes that are done, each looked at before it is believed."""
    usable = done & jax.vmap(functools.partial(_usable, recipe.train.update_bound))(update)
    if recipe.aggregation.alone:
        update = jax.vmap(recipe.aggregation.alone)(update)
    weight = lanes.rows.astype(jnp.float32)
    # A lane that isn't done, or whose update isn't usable, hands in to a place that isn't there, which drops it: a
    # weight of 0 would not do for what is no number.
    bad = jnp.where(done & ~usable, lanes.candidate, recipe.slots)
    left_out = totals.left_out.at[0, bad].add(1, mode="drop")
    if isinstance(totals, Kept):
        place = jnp.where(usable, lanes.place, totals.weight.shape[1])
        kept = jax.tree.map(lambda s, u: s.at[0, place].set(u, mode="drop"), totals.update, update)
        return Kept(kept, totals.weight.at[0, place].set(weight, mode="drop"), left_out)
    slot = jnp.where(usable, lanes.candidate, recipe.slots)
    total = jax.tree.map(lambda s, u: s.at[0, slot].add(wide(weight, u) * u, mode="drop"), totals.update, update)
    return Sums(total, totals.weight.at[0, slot].add(weight, mode="drop"), left_out)


def _usable(bound: float | None, update: Variables) -> jax.Array:
    """Whether an update is of finite numbers, and its parameters' norm is no more than the bound."""
    norm = update_norm(update)
    finite = [jnp.isfinite(norm), *(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(update.stats))]
    return jnp.stack(finite).all() & (True if bound is None else norm <= bound)


def serve(
    recipe: Recipe, stack: Variables, totals: Sums | Kept, server: Any, of: jax.Array
) -> tuple[Variables, Any, jax.Array]:
    """One update for each candidate, and the server optimiser's step with it; statistics take the update itself.

    Args:
      recipe: says how updates are brought together.
      stack: [K, ...] start of the round.
      totals: of all parts.
      server: the optimiser's state [K, ...].
      of: [K, n] int32 where each candidate's updates are kept, device x P + place, -1 for none; [K, 0] with sums.

    Returns:
      The stack, the state, and how many updates of each candidate were left out [K].
    """
    if isinstance(totals, Kept):
        mean, weight = _brought_together(recipe, totals, of)
    else:
        weight = totals.weight.sum(0)  # over devices: the round's one reduction between them
        mean = jax.tree.map(lambda s: s.sum(0) / wide(jnp.maximum(weight, 1), s[0]), totals.update)
    optimizer = server_optimizer(recipe.train)
    descent = jax.tree.map(jnp.negative, mean.params)
    updates, new_server = jax.vmap(optimizer.update)(descent, server, stack.params)
    moved = Variables(jax.tree.map(jnp.add, stack.params, updates), jax.tree.map(jnp.add, stack.stats, mean.stats))
    choose = functools.partial(jax.tree.map, lambda a, b: jnp.where(wide(weight > 0, a), a, b))
    new = (choose(moved, stack), choose(new_server, server), totals.left_out.sum(0))
    return lax.with_sharding_constraint(new, NamedSharding(recipe.mesh, ALL))


def _brought_together(recipe: Recipe, kept: Kept, of: jax.Array) -> tuple[Variables, jax.Array]:
    """[K, ...] one update for each candidate, by the aggregation, and [K] their examples; one candidate at a time."""
    together, places = recipe.aggregation.together, kept.weight.shape[1]
    assert together is not None

    def device(kept: Kept, of: jax.Array) -> tuple[Variables, jax.Array]:
        own = lax.axis_index((HOSTS, DEVICES))

        def candidate(of: jax.Array) -> tuple[Variables, jax.Array]:
            mine = (of >= 0) & (of // places == own)  # [n]
            # Every update is of one device, and 0 on the others: the sum over devices is the update itself.
            gathered = jax.tree.map(
                lambda a: lax.psum(jnp.where(wide(mine, a[0]), a[0, of % places], 0), (HOSTS, DEVICES)),
                (kept.update, kept.weight),
            )
            updates, weight = gathered
            return together(updates, weight, weight > 0), weight.sum()

        return lax.map(candidate, of)

    return jax.shard_map(device, mesh=recipe.mesh, in_specs=(EACH, ALL), out_specs=ALL, check_vma=False)(kept, of)


def no_counts(recipe: Recipe) -> Counts:
    """The counts before anything was scored."""
    devices, slots = recipe.mesh.size, recipe.slots
    statistics = statistics_shape(recipe.metric, recipe.classes).shape
    empty = Counts(
        jnp.zeros((devices, 3, slots), jnp.int32),
        jnp.zeros((devices, slots, *statistics), jnp.int32),
    )
    return lax.with_sharding_constraint(empty, NamedSharding(recipe.mesh, EACH))


def whole_score(recipe: Recipe, physical_widths: Widths, table: Table, inputs: ScoreInputs) -> Counts:
    """The counts of a score whose tasks are all in one part."""
    counts, _ = score(recipe, physical_widths, no_counts(recipe), table, inputs)
    return count(recipe, counts)


def score(recipe: Recipe, physical_widths: Widths, counts: Counts, table: Table, inputs: ScoreInputs) -> Any:
    """Adds a part's predictions to the counts.

    Returns:
      The counts, and a small array that is there when they are.
    """
    forward = local.make_forward(recipe.network, physical_widths, recipe.train)

    def segment(lanes: Lanes, length: jax.Array, carry: Carry, inputs: ScoreInputs) -> Carry:
        examples, labels = inputs.columns
        variables = jax.tree.map(lambda a: a[lanes.candidate], inputs.stack)
        have = jnp.where(lanes.steps > 0, lanes.rows, 0)

        def one(t: jax.Array, counts: Counts) -> Counts:
            row = (lanes.begun + t)[:, None] * recipe.eval_batch + jnp.arange(recipe.eval_batch)
            real = row < have[:, None]  # [L, B]
            at = jnp.where(real, lanes.first[:, None] + row, 0)
            logits = jax.vmap(lambda v, x: forward(v, x, train=False)[0])(variables, recipe.normalise(examples[at]))
            logits, told, real = _positions(logits, labels[at], real)
            right = (jnp.argmax(logits, -1) == told) & real
            nonfinite = ~jnp.all(jnp.isfinite(logits), -1) & real
            found = jnp.stack([a.sum(-1, dtype=jnp.int32) for a in (right, real, nonfinite)])  # [3, L]
            statistics = jax.vmap(recipe.metric.statistics)(logits, told, real)  # [L, ...]
            return Counts(
                counts.examples.at[0, :, lanes.candidate].add(found.T),
                counts.metric.at[0, lanes.candidate].add(statistics.astype(jnp.int32)),
            )

        return Carry((), lax.fori_loop(0, length, one, carry.totals))

    return _over_segments(recipe, segment, lambda inputs: (), table, counts, inputs)


def _positions(logits: jax.Array, labels: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Positions side by side as if they were examples; those without a label are not real.

    Args:
      logits: [L, B, C], or [L, B, T, C].
      labels: [L, B], or [L, B, T] with -1 where there is none.
      real: [L, B] whether there is such an example.

    Returns:
      logits [L, B', C], labels [L, B'] from 0, real [L, B'], with B' = B or B x T.
    """
    if labels.ndim == 2:
        return logits, labels, real
    real = (real[:, :, None] & (labels >= 0)).reshape(len(real), -1)
    labels = jnp.maximum(labels, 0).reshape(len(real), -1)
    return logits.reshape(len(real), -1, logits.shape[-1]), labels, real


def count(recipe: Recipe, counts: Counts) -> Counts:
    """The counts of all devices, without the first dimension."""
    return lax.with_sharding_constraint(jax.tree.map(lambda a: a.sum(0), counts), NamedSharding(recipe.mesh, ALL))


def _over_segments(
    recipe: Recipe,
    segment: Callable[[Lanes, jax.Array, Carry, Any], Carry],
    before: Callable[[Any], Any],
    table: Table,
    totals: Any,
    inputs: Any,
) -> tuple[Any, jax.Array]:
    """Runs `segment` over each device's segments, on its own columns and totals.

    Args:
      recipe: says where the columns lie.
      segment: (lanes, length, carry, inputs) -> carry.
      before: inputs -> what the first segment finds in the lanes.
      table: of the part.
      totals: [D, ...].
      inputs: TrainInputs or ScoreInputs: `columns` become the device's own, all else is the same on every device.

    Returns:
      The totals, and a small array that is there when they are.
    """

    def device(table: Table, totals: Any, inputs: Any) -> tuple[Any, jax.Array]:
        lanes, length, number = (field[0] for field in table)
        inputs = inputs._replace(columns=jax.tree.map(lambda a: a[0], inputs.columns))
        first = Carry(before(inputs), totals)

        def one(n: jax.Array, carry: Carry) -> Carry:
            return segment(Lanes(*lanes[n]), length[n], carry, inputs)

        last = lax.fori_loop(0, number, one, first)
        return last.totals, table.count + 0

    mine = type(inputs)(*[ALL] * len(inputs))._replace(columns=EACH if recipe.streams else HOST)
    mapped = jax.shard_map(device, mesh=recipe.mesh, in_specs=(EACH, EACH, mine), out_specs=EACH, check_vma=False)
    return mapped(table, totals, inputs)


def _choose(new: jax.Array, yes: Any, no: Any) -> Any:
    """Lane by lane the one tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(wide(new, a), a, b), yes, no)


def wide(values: jax.Array, like: jax.Array) -> jax.Array:
    """[n] as [n, 1, ...], to meet an array [n, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
