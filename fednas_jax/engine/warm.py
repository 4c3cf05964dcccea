"""Compiled programs that outlive their fleet, for processes that do one run after another (`runtime.shelf`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax

from fednas_jax.runtime.shelf import Shelf

Program = Callable[..., Any]

PROGRAMS: Shelf[Program] = Shelf(most=128)


def kept(recipe: Hashable, args: tuple[Any, ...]) -> bool:
    """Whether `compiled` would not compile; arguments may be given by their forms."""
    return _key(recipe, args) in PROGRAMS


def compiled(recipe: Hashable, args: tuple[Any, ...], compile_program: Callable[[], Program]) -> tuple[Program, bool]:
    """A program, which is compiled unless the same one was before.

    Args:
      recipe: all that the program depends on beside its arguments' forms, compared by `==`.
      args: that it is compiled for.
      compile_program: makes it.

    Returns:
      The program, and whether it was compiled just now.
    """
    return PROGRAMS.get(_key(recipe, args), compile_program)


def _key(recipe: Hashable, args: tuple[Any, ...]) -> Hashable:
    leaves, tree = jax.tree.flatten(args)
    return recipe, tree, tuple(map(_form, leaves))


def _form(leaf: Any) -> Hashable:
    """What of an argument a program is compiled for."""
    aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return aval.shape, aval.dtype, getattr(aval, "weak_type", False), getattr(leaf, "sharding", None)
