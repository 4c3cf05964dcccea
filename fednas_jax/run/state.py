"""What a run remembers between its steps, and how that lies on disk: a record in JSON beside a tree of arrays."""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from fednas_jax.files import write_json
from fednas_jax.run import checkpoint
from fednas_jax.run.folder import RunDir
from fednas_jax.runtime import hosts
from fednas_jax.space.network import Network, Variables, Widths


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
    score: float  # validation accuracy


class RunState(NamedTuple):
    """Everything a run needs to go on. Arrays are checkpointed as one pytree, the rest as JSON beside it."""

    stage: Stage
    iteration: int  # iterations done
    round: int  # rounds done in this stage, or in this bucket of the fine-tuning
    bucket: int  # fine-tuning: which group of members is in training
    physical_widths: Widths  # of the stack, as it is compiled
    widths: Widths  # of the parent; channels beyond them are masked
    stack: Variables  # [slots, ...]: the parent alone, or the members in fine-tuning
    kept: tuple[np.ndarray, ...]  # for each group [width] bool: the parent's channels
    server: Any  # the server optimiser's state in pretraining and fine-tuning
    family: tuple[Member, ...]
    stop_reason: str
    ledgers: tuple[str, ...]  # names of the ledger's files
    source: dict[str, Any] | None  # where a given parent came from


ARRAYS = ("stack", "kept", "server")


def arrays(state: RunState) -> dict[str, Any]:
    """The part of a state that orbax saves."""
    # In one array: orbax refuses empty ones, which a removed block's group would have.
    return {"stack": state.stack, "kept": np.concatenate(state.kept), "server": state.server}


def record(state: RunState) -> dict[str, Any]:
    """The rest of a state as JSON values, with what `like` has to know of the arrays."""
    about = {name: value for name, value in state._asdict().items() if name not in ARRAYS}
    return about | {"slots": jax.tree.leaves(state.stack)[0].shape[0], "training": state.server != ()}


def like(
    about: dict[str, Any], network: Network, slots: int, init_server: Callable[[Variables], Any]
) -> dict[str, Any]:
    """Shapes and dtypes of the arrays that belong to a record.

    Args:
      about: from `record`.
      network: the run's.
      slots: K, slots in a full stack; the server's state has them all.
      init_server: the server optimiser's.
    """
    physical_widths = tuple(about["physical_widths"])
    one = network.abstract(physical_widths)

    def stacked(count: int) -> Variables:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), one)

    return {
        "stack": stacked(about["slots"]),
        "kept": jax.ShapeDtypeStruct((sum(physical_widths),), bool),
        "server": jax.eval_shape(init_server, stacked(slots)) if about["training"] else (),
    }


def restored(about: dict[str, Any], saved: dict[str, Any]) -> RunState:
    """The state of a record and its arrays."""
    return RunState(
        stage=Stage(about["stage"]),
        iteration=about["iteration"],
        round=about["round"],
        bucket=about["bucket"],
        physical_widths=tuple(about["physical_widths"]),
        widths=tuple(about["widths"]),
        stack=saved["stack"],
        kept=tuple(np.split(saved["kept"], np.cumsum(about["physical_widths"])[:-1])),
        server=saved["server"],
        family=tuple(Member(i, tuple(w), tuple(s), score) for i, w, s, score in about["family"]),
        stop_reason=about["stop_reason"],
        ledgers=tuple(about["ledgers"]),
        source=about["source"],
    )


def save_member(run: RunDir, network: Network, member: Member, variables: Variables, part: str = "") -> None:
    """Saves a member's variables and widths, on the first host.

    Args:
      run: whose folder takes them.
      network: the run's.
      member: whose they are.
      variables: at the member's own widths.
      part: name of a folder inside the member's own; none: that itself.
    """

    def describe(folder: Path) -> None:
        widths = dict(zip(network.widths, member.widths, strict=True))
        write_json(folder / "widths.json", {"network": network.name, "widths": widths})

    hosts.from_first_host(lambda: checkpoint.save_model(run.model(member.iteration) / part, variables, describe))


def load_member(run: RunDir, network: Network, member: Member, part: str = "") -> Variables:
    """What `save_member` saved, on every host.

    Raises:
      RunError: it isn't there, or cannot be read.
    """
    folder, shapes = run.model(member.iteration) / part, network.abstract(member.widths)
    return hosts.from_first_host(lambda: checkpoint.load_model(folder, shapes))
