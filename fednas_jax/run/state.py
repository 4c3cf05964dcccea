"""What a run remembers between its rounds, as one record; and its form on disk: named arrays beside JSON values.

Letters: K slots of a stack, G width groups.
"""

from __future__ import annotations

import enum
import io
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fednas_jax.engine.tasks import Effort
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger
from fednas_jax.phones.totals import Clock
from fednas_jax.run.manifest import Entry
from fednas_jax.search.proposals import Proposal
from fednas_jax.space import stacks
from fednas_jax.space.network import Variables, Widths


class Stage(enum.IntEnum):
    """Where a run is."""

    PRETRAIN = 0
    SEARCH = 1
    FINETUNE = 2
    TEST = 3


class Member(NamedTuple):
    """One network of the family: an iteration's winner, or the parent as iteration 0."""

    iteration: int
    widths: Widths
    physical_widths: Widths  # of the stack it was trained in
    score: float  # on the clients' validation examples


class Stack(NamedTuple):
    """Networks of one physical shape, which train side by side in one program."""

    physical_widths: Widths  # as it is compiled
    numbers: tuple[int, ...]  # of the networks in its first slots: candidates of an iteration, or members of a bucket
    variables: Variables  # [numbers, ...] or, in training, [slots, ...] with all slots filled
    server: Any = ()  # the server optimiser's state [slots, ...] in training

    @property
    def slots(self) -> int:
        """Of the variables as they are."""
        return len(jax.tree.leaves(self.variables.params)[0])


class Trial(NamedTuple):
    """An iteration of the search in its midst; its stacks are the run's."""

    proposals: tuple[Proposal, ...]
    masks: tuple[tuple[np.ndarray, ...], ...]  # [proposals][G][width] bool: the channels that each keeps
    policy: Any  # the policy's state, arrays
    lost: np.ndarray  # [K] bool: all of its updates were left out in some round, so that it is inferior to any other


class Spent(NamedTuple):
    """Running sums of what was spent, so that nobody has to read the ledger or the events for them."""

    seconds: float = 0.0  # simulated, since the beginning
    client_seconds: float = 0.0  # of all clients
    clock: Clock = Clock()  # simulated hours by stage and iteration


class RunState(NamedTuple):
    """Everything a run needs to go on from the end of any round."""

    stage: Stage
    iteration: int  # iterations done
    round: int  # rounds done in this stage, iteration, or bucket of the fine-tuning
    bucket: int  # fine-tuning: which group of members is in training
    physical_widths: Widths  # of the parent, as it was compiled
    widths: Widths  # of the parent; channels beyond them are masked
    stacks: tuple[Stack, ...]  # of the parent alone, of an iteration's candidates, or of members in fine-tuning
    kept: tuple[np.ndarray, ...]  # for each group [width] bool: the parent's channels; () once the search is over
    trial: Trial | None  # the iteration in its midst
    family: tuple[Member, ...]
    stop_reason: str
    source: dict[str, Any] | None  # where a given parent came from
    given_score: float | None  # of a given parent before it was trained on, for diagnosis alone
    spent: Spent
    effort: Effort  # of the simulator
    warnings: tuple[str, ...]
    files: tuple[Entry, ...]  # of the run's folder: ledger, models, inputs; each with its checksum
    pending: pa.Table  # rows of the ledger that lie in no file yet


PLAIN = (
    "iteration",
    "round",
    "bucket",
    "stop_reason",
    "source",
    "given_score",
)  # fields that are JSON values


def pack(state: RunState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name, on the host, and the rest as JSON values."""
    masks = [] if state.trial is None else [*state.trial.masks]
    trees = {
        "stacks": [stacks.first(jax.device_get(stack.variables), len(stack.numbers)) for stack in state.stacks],
        "kept": list(state.kept),
        "servers": [jax.device_get(stack.server) for stack in state.stacks],
        "masks": [list(mask) for mask in masks],
        "policy": () if state.trial is None else jax.device_get(state.trial.policy),
        "lost": () if state.trial is None else state.trial.lost,
        "pending": _to_bytes(state.pending),
    }
    arrays = {f"{tree}{path}": np.asarray(leaf) for tree, value in trees.items() for path, leaf in _leaves(value)}
    record = {
        "stage": int(state.stage),
        "trial": None if state.trial is None else [[p.name, list(p.widths)] for p in state.trial.proposals],
        "keeps": bool(state.kept),
        "stacks": [[list(stack.physical_widths), list(stack.numbers)] for stack in state.stacks],
        "training": any(bool(jax.tree.leaves(stack.server)) or stack.server != () for stack in state.stacks),
        "family": [[m.iteration, list(m.widths), list(m.physical_widths), m.score] for m in state.family],
        "spent": list(state.spent),
        "effort": list(state.effort),
        "files": list(state.files),
        "warnings": list(state.warnings),
        **{name: getattr(state, name) for name in PLAIN},
        "physical_widths": list(state.physical_widths),
        "widths": list(state.widths),
    }
    return arrays, record


class Likeness(NamedTuple):
    """Trees of the shapes that a run's arrays have; what they hold is not read."""

    stacks: list[Any]  # [numbers, ...] of each
    servers: list[Any]  # [slots, ...] of each
    policy: Any


def unpack(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], like: Likeness) -> RunState:
    """The state that `pack` took apart.

    Args:
      record: the JSON values.
      arrays: by name.
      like: shapes and types that the run's network, optimiser and policy ask for.

    Raises:
      RunError: the arrays are those of another network, optimiser or policy.
    """
    physical = tuple(record["physical_widths"])
    trial = None
    if record["trial"] is not None:
        proposals = tuple(Proposal(name, tuple(widths)) for name, widths in record["trial"])
        masks = tuple(
            tuple(_array(arrays, f"masks[{n}][{g}]", (width,), bool) for g, width in enumerate(physical))
            for n in range(len(proposals))
        )
        trial = Trial(proposals, masks, _tree(arrays, "policy", like.policy), arrays["lost"].astype(bool))
    seconds, client_seconds, (stages, iterations) = record["spent"]
    return RunState(
        stage=Stage(record["stage"]),
        iteration=record["iteration"],
        round=record["round"],
        bucket=record["bucket"],
        physical_widths=physical,
        widths=tuple(record["widths"]),
        stacks=_stacks(record, arrays, like),
        kept=tuple(_array(arrays, f"kept[{g}]", (w,), bool) for g, w in enumerate(physical)) if record["keeps"] else (),
        trial=trial,
        family=tuple(Member(i, tuple(w), tuple(p), score) for i, w, p, score in record["family"]),
        stop_reason=record["stop_reason"],
        source=record["source"],
        given_score=record["given_score"],
        spent=Spent(seconds, client_seconds, Clock(tuple(stages), tuple(iterations))),
        effort=Effort(*record["effort"]),
        warnings=tuple(record["warnings"]),
        files=tuple(record["files"]),
        pending=_from_bytes(arrays["pending"]),
    )


def _stacks(record: Mapping[str, Any], arrays: Mapping[str, np.ndarray], like: Likeness) -> tuple[Stack, ...]:
    variables, servers = _tree(arrays, "stacks", like.stacks), _tree(arrays, "servers", like.servers)
    return tuple(
        Stack(tuple(physical), tuple(numbers), variables[n], servers[n])
        for n, (physical, numbers) in enumerate(record["stacks"])
    )


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """Path and leaf of a tree's arrays; the path of a lone leaf is ''."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _tree(arrays: Mapping[str, np.ndarray], name: str, like: Any) -> Any:
    leaves = [_array(arrays, f"{name}{path}", leaf.shape, leaf.dtype) for path, leaf in _leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _array(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    found = arrays.get(name)
    if found is None or found.shape != tuple(shape) or found.dtype != dtype:
        got = "none" if found is None else f"{found.dtype} {found.shape}"
        raise RunError(f"checkpoint: '{name}' got {got}, want {np.dtype(dtype)} {tuple(shape)}, as in this run")
    return found


def _to_bytes(table: pa.Table) -> np.ndarray:
    """Rows as an Arrow stream [n] uint8: written in every round, and many times faster than Parquet."""
    rows, out = table.unify_dictionaries().combine_chunks(), io.BytesIO()
    with pa.ipc.new_stream(out, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    return np.frombuffer(out.getbuffer(), np.uint8)


def _from_bytes(data: np.ndarray) -> pa.Table:
    raw = data.tobytes()
    if raw.startswith(b"PAR1"):  # of a checkpoint of version 0.1
        return ledger.conformed(pq.read_table(io.BytesIO(raw), use_threads=False, pre_buffer=False))
    return ledger.conformed(pa.ipc.open_stream(raw).read_all())
