"""The programs of a round: begin it, train its tasks, bring each candidate's updates together.

A small round is one program, `whole_round`; else each part of the tasks is a call of its own. Letters: those of
`programs.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from fednas_jax.engine import attacks, local
from fednas_jax.engine.aggregation import update_norm
from fednas_jax.engine.mesh import ALL, DEVICES, EACH, HOSTS
from fednas_jax.engine.optimizers import server_optimizer
from fednas_jax.engine.programs import (
    Carry,
    Kept,
    Lanes,
    Recipe,
    Room,
    Sums,
    Table,
    TrainInputs,
    choose,
    over_segments,
    wide,
)
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Variables, Widths


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
            state = choose(lanes.begun == 0, state, before)

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
            trained = choose(ends == length, state.variables, taken)
        update = jax.vmap(client({}).final)(start, trained)
        if recipe.attack:
            update = jax.vmap(functools.partial(attacks.attacked_update, recipe.attack))(lanes.malicious, update)
        return Carry((state, taken), _handed_in(recipe, lanes, done, update, carry.totals))

    def nothing(inputs: TrainInputs) -> tuple[local.LocalState, Any]:
        first = (inputs.own, inputs.stack)
        own, stack = jax.tree.map(lambda a: jnp.broadcast_to(a[0], (recipe.lanes, *a.shape[1:])), first)
        return jax.vmap(begun)(own, stack), stack if recipe.lanes > 1 else ()

    return over_segments(recipe, segment, nothing, table, totals, inputs)


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
        taken = lax.fori_loop(0, early, lambda _, old: choose(ends == end, state.variables, old), taken)
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
    served = weight > 0
    new = (choose(served, moved, stack), choose(served, new_server, server), totals.left_out.sum(0))
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
