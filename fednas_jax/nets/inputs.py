"""The form of what a network takes: images, rows, series or texts, and where their labels are."""

from __future__ import annotations

from typing import NamedTuple


class Inputs(NamedTuple):
    """Form of an example and of its labels."""

    shape: tuple[int, ...]
    """[H, W, C] of an image, [F] of a row, [T, F] of a series, [T] of a text."""
    tokens: int = 0
    """Number of token ids; 0 where the inputs are none."""
    positions: bool = False
    """Whether every one of the T positions has a label, instead of the example."""

    @property
    def kind(self) -> str:
        """What the examples are called: images, rows, series or texts."""
        return "texts" if self.tokens else {1: "rows", 2: "series"}.get(len(self.shape), "images")

    def __str__(self) -> str:
        labels = ", a label for every position" if self.positions else ""
        return f"{self.kind} of {'x'.join(map(str, self.shape))}{labels}"
