"""A round's parts, each loaded by a thread while the one before it is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from fednas_jax.engine.programs import Table


class Parts:
    """Iterates over a round's parts, each loaded by a thread of its own while the one before it is worked on.

    Used as a context, which ends the thread. `done`: set by the user to an array that is there when the part is done;
    one part is worked on, one is ready and one being loaded at most, so that memory stays flat.
    """

    def __init__(self, cut: Sequence[Any], load: Callable[[Any], tuple[Any, Table, int]]):
        self._cut, self._load = cut, load
        # A lone part has nothing to be loaded beside: a thread would only cost its start, in every round.
        self._thread = ThreadPoolExecutor(1, "fednas-feed") if len(cut) > 1 else None
        self.lane_steps = 0
        self.done: jax.Array | None = None

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[Any, Table]]:
        before: jax.Array | None = None
        for columns, table, lane_steps in self._loaded():
            self.lane_steps += lane_steps
            yield columns, table
            if before is not None:
                jax.block_until_ready(before)
            before = self.done

    def _loaded(self) -> Iterator[tuple[Any, Table, int]]:
        """Each part, loaded while the one before it is worked on."""
        if self._thread is None:
            yield from map(self._load, self._cut)
            return
        future = self._thread.submit(self._load, self._cut[0])
        for following in self._cut[1:]:
            loaded, future = future.result(), self._thread.submit(self._load, following)
            yield loaded
        yield future.result()
