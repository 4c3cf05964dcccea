"""Residual branches that a search may remove: the gate that makes a masked block train as one that is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp


def unless_removed(branch: jax.Array, kernel: jax.Array) -> jax.Array:
    """The branch of a residual block, or zeros where the block is removed: `x + unless_removed(branch, kernel)`.

    A block whose inner width is 0 has no variables; masked, in the shape of its parent, all of them are zero. Without
    this gate the bias behind the last kernel would still learn, since the skip hands it a gradient. Weights that are
    trained are never all exactly zero, so nothing else closes the gate.

    Args:
      branch: [...] what the block adds to its skip.
      kernel: [...] a kernel of the block that carries its inner width; a small one is cheapest.

    Returns:
      [...] `branch` if any number of `kernel` is not zero; else zeros, through which no gradient passes.
    """
    return jnp.where(jnp.any(jax.lax.stop_gradient(kernel) != 0), branch, 0)


def stages_of(widths: Mapping[str, int]) -> list[tuple[int, dict[str, int]]]:
    """Width of each stage and, by name, the inner widths of the blocks that follow it in the order of the groups.

    So the names of a residual network's width groups ('stage1', 'block1', 'block2', 'stage2', ...) say how deep it is.
    """
    stages: list[tuple[int, dict[str, int]]] = []
    for group, width in widths.items():
        if group.startswith("stage"):
            stages.append((width, {}))
        elif group.startswith("block"):
            stages[-1][1][group] = width
    return stages


def groups_of(stages: Iterable[tuple[int, Iterable[int]]]) -> dict[str, int]:
    """Width groups of stages (width, inner widths of its blocks), blocks numbered through: `stages_of` backwards."""
    groups: dict[str, int] = {}
    blocks = 0
    for number, (width, inner) in enumerate(stages, 1):
        groups[f"stage{number}"] = width
        for narrow in inner:
            blocks += 1
            groups[f"block{blocks}"] = narrow
    return groups
