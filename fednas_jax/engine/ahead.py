"""Programs of several shapes compiled in threads, from the forms of their arguments, while the first of them run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from fednas_jax.engine import lane_plan, optimizers, scoring, training
from fednas_jax.engine.mesh import ALL, EACH, Layout
from fednas_jax.engine.programs import Columns, Lanes, Recipe, Room, ScoreInputs, Table, TrainInputs
from fednas_jax.runtime import cores
from fednas_jax.seeds import KEYS
from fednas_jax.space.network import Variables


def arguments(kind: str, recipe: Recipe, layout: Layout, columns: Columns, one: Variables) -> tuple[Any, ...]:
    """The forms of a program's arguments.

    Args:
      kind: 'train' or 'round', of a round that keeps no updates, 'score' or 'scored'.
      recipe: of the program; its slots are the stack's.
      layout: of the devices.
      columns: the examples on the devices, or their forms.
      one: forms of one network's variables.
    """

    def placed(spec: PartitionSpec, tree: Any) -> Any:
        sharding = NamedSharding(layout.mesh, spec)
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)

    def of(shape: tuple[int, ...], dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    devices, rows, slots = layout.mesh.size, lane_plan.SEGMENTS, recipe.slots
    stack = placed(ALL, jax.tree.map(lambda a: of((slots, *a.shape), a.dtype), one))
    facts = len(Lanes._fields)
    sizes = ((devices, rows, facts, recipe.lanes), (devices, rows), (devices,))
    table = placed(EACH, Table(*map(of, sizes)))
    if kind in ("train", "round"):
        key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=KEYS)))
        of_round = placed(ALL, (key, of((slots,)), of((), jnp.float32), {}))
        trained = TrainInputs(stack, columns, *of_round)
        if kind == "train":
            return placed(EACH, jax.eval_shape(lambda s: training.zeros(recipe, Room(), s), stack)), table, trained
        server = jax.eval_shape(lambda s: optimizers.server_state(recipe.train, s), stack)
        return placed(ALL, server), placed(ALL, of((slots, 0))), table, trained
    scored = ScoreInputs(stack, columns)
    if kind == "scored":
        return table, scored
    return placed(EACH, jax.eval_shape(lambda: scoring.no_counts(recipe))), table, scored


@contextlib.contextmanager
def in_threads(makers: Mapping[Any, Callable[[], Any]]) -> Iterator[dict[Any, Future[Any]]]:
    """Calls all makers in threads, in their order, as many at once as there are cores; what nobody waited for ends.

    Args:
      makers: of what, by its key.
    """
    with ThreadPoolExecutor(max(1, min(cores.number(), len(makers))), "fednas-compile") as pool:
        try:
            yield {key: pool.submit(make) for key, make in makers.items()}
        finally:
            pool.shutdown(cancel_futures=True)
