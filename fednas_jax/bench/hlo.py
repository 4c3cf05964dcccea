"""An optimised program's text as records: computations, their instructions, shapes and operands."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

_BITS = {"pred": 8, "token": 0, "bf16": 16}  # of the types whose names do not end in their bits
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"\b(?:calls|body|to_apply|called_computations)=\{?%?([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')


class Array(NamedTuple):
    """The shape of one array."""

    dtype: str  # as XLA calls it: f32, bf16, s32, pred
    elements: int

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        bits = _BITS.get(self.dtype) or int((re.search(r"\d+", self.dtype) or ["8"])[0])
        return self.elements * bits // 8 if self.dtype != "token" else 0


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # what it gives: one, or a tuple's
    operands: tuple[str, ...]
    called: str | None  # the computation that it runs, of a loop the body
    target: str  # of a custom call
    number: int  # of a parameter
    root: bool


Computation = dict[str, Instruction]  # by name, in their order


def computations(text: str) -> dict[str, Computation]:
    """All computations of `compiled.as_text()`, by name, of any backend."""
    found: dict[str, Computation] = {}
    current: Computation | None = None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header and not line.startswith("HloModule"):
                current = found.setdefault(header[2], {})
        elif line.startswith("}"):
            current = None
        elif " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    return found


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    root = left.startswith("ROOT ")
    shape, rest = _whole(right) if right.startswith("(") else right.split(" ", 1)
    opcode, _, rest = rest.strip().partition("(")
    inside, attributes = _whole("(" + rest)
    called, target = _CALLED.search(attributes), _TARGET.search(attributes)
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=opcode,
        arrays=tuple(_arrays(shape)),
        operands=tuple(_names(inside)) if opcode not in ("parameter", "constant") else (),
        called=called[1] if called else None,
        target=target[1] if target else "",
        number=int(inside.strip("()")) if opcode == "parameter" else -1,
        root=root,
    )


def _whole(text: str) -> tuple[str, str]:
    """What stands in the parentheses that the text begins with, they included, and what comes after."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[: at + 1], text[at + 1 :]
    raise ValueError(f"no end of {text[:80]}")


def _arrays(shape: str) -> list[Array]:
    sizes = ((dtype, [int(n.lstrip("<=")) for n in dims.split(",") if n]) for dtype, dims in _ARRAY.findall(shape))
    return [Array(dtype, math.prod(dims)) for dtype, dims in sizes]


def _names(operands: str) -> list[str]:
    """Of operands, with or without their shapes before them."""
    plain = re.sub(r"/\*.*?\*/|\{[^}]*\}|\[[^\]]*\]", "", operands[1:-1])
    return [part.split()[-1].lstrip("%") for part in plain.split(",") if part.strip()]
