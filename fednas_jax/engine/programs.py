"""What the fleet's programs read and write, and how they go through their work segment by segment.

`training.py` and `scoring.py` have the programs, as functions of these records. Both step through a table of segments:
between two boundaries all lanes of a device step together, and at a boundary lanes that are done hand in what they have
and take up their next task. Letters: K slots for candidates in a stack, C clients, N examples, L lanes of one device, D
devices of all hosts, H hosts, S segments, B batch. A stack is a tree of variables [K, ...].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from fednas_jax.config.schema import ParticipationConfig, TrainConfig
from fednas_jax.engine import lane_plan
from fednas_jax.engine.aggregation import Aggregation
from fednas_jax.engine.mesh import ALL, EACH, HOST
from fednas_jax.engine.metrics import Metric
from fednas_jax.space.network import Network, Variables


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


def over_segments(
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


def choose(new: jax.Array, yes: Any, no: Any) -> Any:
    """Lane by lane the one tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(wide(new, a), a, b), yes, no)


def wide(values: jax.Array, like: jax.Array) -> jax.Array:
    """[n] as [n, 1, ...], to meet an array [n, ...]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
