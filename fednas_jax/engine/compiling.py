"""A fleet's compiled programs: one for each kind and size, kept while they are used, shared with later fleets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax

from fednas_jax.config.schema import LoweringName
from fednas_jax.engine import ahead, scoring, training, warm
from fednas_jax.engine.programs import Recipe, Room
from fednas_jax.engine.tasks import Effort
from fednas_jax.nets import lowerings
from fednas_jax.space.network import Widths

# Programs that stay: of each stack five, for the shapes of two iterations, and some more.
LEAST_PROGRAMS, SETS_OF_PROGRAMS = 40, 10
DONATING = ("train", "score")  # kinds whose first argument is a total, which they add to in place
TRAINING = ("train", "round")  # kinds whose compilations are counted

Program = Callable[..., Any]


class Size(NamedTuple):
    """What a program is compiled for beside the fleet's own facts."""

    physical_widths: Widths
    slots: int  # of the stack
    room: Room = Room()


class Compiled:
    """Programs of one recipe, by their kind (a function of `training.py` or `scoring.py`) and size."""

    def __init__(self, recipe: Recipe, form: Hashable, lowering: LoweringName):
        """
        Args:
          recipe: of the programs; its slots are those of the largest stack.
          form: tells the recipe's programs from another's.
          lowering: that they are compiled with.
        """
        self.recipe, self._form, self._lowering = recipe, form, lowering
        self._most = max(LEAST_PROGRAMS, SETS_OF_PROGRAMS * recipe.slots)
        self.kept: OrderedDict[tuple[str, Size], Program] = OrderedDict()
        self._ahead: dict[tuple[str, Size], Future[Program]] = {}

    def call(self, kind: str, size: Size, effort: Effort, *args: Any) -> tuple[Any, Effort]:
        """Calls a program, compiled once for a size; returns what it does, and the effort so far."""
        if (kind, size) not in self.kept:
            began = time.perf_counter()
            begun = self._ahead.get((kind, size))
            wait = functools.partial(self.compile, kind, size, args) if begun is None else begun.result
            self.kept[kind, size], fresh = warm.compiled(self._recipe_of(kind, size), args, wait)
            if fresh:
                effort += Effort(compilations=int(kind in TRAINING), compile_seconds=time.perf_counter() - began)
            while len(self.kept) > self._most:
                self.kept.popitem(last=False)
        self.kept.move_to_end((kind, size))
        return self.kept[kind, size](*args), effort

    @contextlib.contextmanager
    def in_threads(
        self, kind: str, sizes: Sequence[Size], arguments: Callable[[Size], tuple[Any, ...]]
    ) -> Iterator[None]:
        """While it is open, a kind's programs are compiled in threads, each while those before it run.

        Args:
          kind: of the programs.
          sizes: in the order of their turns.
          arguments: forms of a program's arguments.
        """
        wanted: dict[Any, Callable[[], Program]] = {}
        for size in sizes:
            if (kind, size) not in self.kept:
                args = arguments(size)
                if not warm.kept(self._recipe_of(kind, size), args):
                    wanted[kind, size] = functools.partial(self.compile, kind, size, args)
        with ahead.in_threads(wanted) as self._ahead:
            try:
                yield
            finally:
                self._ahead = {}

    def compile(self, kind: str, size: Size, args: tuple[Any, ...]) -> Program:
        """A program for arguments of these forms; may be called in any thread."""
        donated = (0,) if kind in DONATING else ()
        with jax.default_matmul_precision(self.recipe.train.matmul_precision), lowerings.using(self._lowering):
            return jax.jit(self.function(kind, size), donate_argnums=donated).lower(*args).compile()

    def function(self, kind: str, size: Size) -> Callable[..., Any]:
        """What a kind of program is compiled from."""
        recipe = self.of_slots(size.slots)
        kinds: dict[str, Callable[..., Any]] = {
            "round": functools.partial(training.whole_round, recipe, size.physical_widths, size.room),
            "zeros": functools.partial(training.zeros, recipe, size.room),
            "train": functools.partial(training.train, recipe, size.physical_widths),
            "serve": functools.partial(training.serve, recipe),
            "scored": functools.partial(scoring.whole_score, recipe, size.physical_widths),
            "score": functools.partial(scoring.score, recipe, size.physical_widths),
            "count": functools.partial(scoring.count, recipe),
        }
        return kinds[kind]

    def of_slots(self, slots: int) -> Recipe:
        """The recipe for a stack of so many slots."""
        return dataclasses.replace(self.recipe, slots=slots)

    def _recipe_of(self, kind: str, size: Size) -> Hashable:
        """What a program depends on beside its arguments' forms."""
        return kind, size, self._lowering, self._form
