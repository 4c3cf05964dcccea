"""Compiled programs that outlive their fleet, for processes that do one run after another.

Off by default: a process of one run has no use for them, and they take memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import jax

MOST_PROGRAMS = 128  # kept; those that were not used for longest go first

Program = Callable[..., Any]

_kept: OrderedDict[Hashable, Program] | None = None


def keep_programs(keep: bool = True) -> None:
    """From now on compiled programs are kept in this process, or no longer; those that were are forgotten.

    Args:
      keep: whether they are.
    """
    global _kept
    _kept = OrderedDict() if keep else None


def kept(recipe: Hashable, args: tuple[Any, ...]) -> bool:
    """Whether `compiled` would not compile; arguments may be given by their forms."""
    return _kept is not None and _key(recipe, args) in _kept


def compiled(recipe: Hashable, args: tuple[Any, ...], compile_program: Callable[[], Program]) -> tuple[Program, bool]:
    """A program, which is compiled unless the same one was before.

    Args:
      recipe: all that the program depends on beside its arguments' forms, compared by `==`.
      args: that it is compiled for.
      compile_program: makes it.

    Returns:
      The program, and whether it was compiled just now.
    """
    if _kept is None:
        return compile_program(), True
    key = _key(recipe, args)
    fresh = key not in _kept
    if fresh:
        _kept[key] = compile_program()
    _kept.move_to_end(key)
    while len(_kept) > MOST_PROGRAMS:
        _kept.popitem(last=False)
    return _kept[key], fresh


def _key(recipe: Hashable, args: tuple[Any, ...]) -> Hashable:
    leaves, tree = jax.tree.flatten(args)
    return recipe, tree, tuple(map(_form, leaves))


def _form(leaf: Any) -> Hashable:
    """What of an argument a program is compiled for."""
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return aval.shape, aval.dtype, getattr(aval, "weak_type", False), getattr(leaf, "sharding", None)
