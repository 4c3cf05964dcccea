"""What outlives a run, in processes that do one run after another: programs, data, clients. No jax here.

Off by default: a process of one run has no use for it, and it takes memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")

_on = False
_shelves: list[Shelf] = []


class Shelf(Generic[T]):
    """Values that are kept, those that were not used for longest going first.

    Args:
      most: values at a time.
    """

    def __init__(self, most: int):
        self.most = most
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        _shelves.append(self)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable | None, make: Callable[[], T]) -> tuple[T, bool]:
        """A value, made unless it was before, and whether it was made just now.

        Args:
          key: all that the value depends on, compared by `==`; None: it is not to be kept.
          make: makes it.
        """
        if not _on or key is None:
            return make(), True
        fresh = key not in self._kept
        if fresh:
            made = make()
            while len(self._kept) >= self.most:
                self._kept.popitem(last=False)
            self._kept[key] = made
        self._kept.move_to_end(key)
        return self._kept[key], fresh


def keeping() -> bool:
    """Whether anything is kept; where nothing is, no key need be made."""
    return _on


def keep_between_runs(keep: bool = True) -> None:
    """From now on this process keeps what it can from run to run, or no longer; what was kept is forgotten.

    Args:
      keep: whether it does.
    """
    global _on
    _on = keep
    for shelf in _shelves:
        shelf._kept.clear()
