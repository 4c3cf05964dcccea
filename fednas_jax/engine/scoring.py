"""The programs of a score: predict the tasks' validation examples, and add up what was right.

A small round's score is one program, `whole_score`; else each part of the tasks is a call of its own. Letters: those of
`programs.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from fednas_jax.engine import local
from fednas_jax.engine.mesh import ALL, EACH
from fednas_jax.engine.metrics import statistics_shape
from fednas_jax.engine.programs import Carry, Counts, Lanes, Recipe, ScoreInputs, Table, over_segments
from fednas_jax.space.network import Widths


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

    return over_segments(recipe, segment, lambda inputs: (), table, counts, inputs)


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
