"""How often a compiled step passes over its weights: what its instructions read and write, counted from its text.

The roofline says what the best step would move; this says what the step that XLA made moves, before caches. It needs no
device: the text may be of a program that was compiled for one that is not there.

An instruction reads its operands and writes its result. What happens inside a fusion stays on the chip. Where a fusion
takes only slices of an operand, the slices are read; where it updates a slice in place, the slice is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fednas_jax.bench.hlo import Array, Computation, Instruction, computations

_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "iota", "after-all", "partition-id"}
_RUNS = {"call", "while", "conditional", "async-start"}  # what they run is counted instead of themselves
_SLICES = {"slice", "dynamic-slice", "gather"}
_PRODUCTS = {"dot", "convolution"}
_LIBRARY = ("__cublas", "__cudnn", "__onednn", "__triton", "__gpu$xla.gpu.triton")


class Access(NamedTuple):
    """One array that one instruction reads or writes."""

    instruction: str
    array: Array  # the whole
    bytes: int  # of them that are moved
    written: bool


class Passes(NamedTuple):
    """How often all of an array, or of others as large, is read and written in one step."""

    read: float
    written: float


class Traffic(NamedTuple):
    """What one step moves."""

    accesses: tuple[Access, ...]

    @property
    def bytes(self) -> int:
        """Read and written."""
        return sum(access.bytes for access in self.accesses)

    def passes(self, elements: int, dtype: str | None = None) -> Passes:
        """Passes over arrays of so many elements: a variable's of all lanes, its gradient and its momentum.

        Args:
          elements: of the array; choose a variable that no activation is as large as.
          dtype: only of this type, as XLA calls it.
        """
        found = [0.0, 0.0]
        for access in self.accesses:
            if access.array.elements == elements and dtype in (None, access.array.dtype):
                found[access.written] += access.bytes / access.array.bytes
        return Passes(*found)


def step_traffic(text: str) -> Traffic:
    """What one turn of a program's loop of steps reads and writes.

    Args:
      text: `compiled.as_text()`. The loop of steps is the innermost with matrix products in it, of these the longest.

    Raises:
      ValueError: no loop has a product.
    """
    program = computations(text)
    bodies = [i.called for c in program.values() for i in c.values() if i.opcode == "while" and i.called]
    steps = [
        name
        for name in bodies
        if _has_product(program, name) and not any(_has_product(program, inner) for inner in _loops(program, name))
    ]
    if not steps:
        raise ValueError("program: got no loop with a matrix product, want the text of an optimised training program")
    longest = max(steps, key=lambda name: len(program[name]))
    return Traffic(tuple(_accesses(program, longest)))


def _loops(program: dict[str, Computation], name: str) -> Iterator[str]:
    """The bodies of the loops in a computation and in what it calls."""
    for instruction in program[name].values():
        if instruction.called in program:
            if instruction.opcode == "while":
                yield instruction.called
            yield from _loops(program, instruction.called)


def _has_product(program: dict[str, Computation], name: str) -> bool:
    return any(
        instruction.opcode in _PRODUCTS
        or instruction.target.startswith(_LIBRARY)
        or (instruction.called in program and _has_product(program, instruction.called))
        for instruction in program[name].values()
    )


def _accesses(program: dict[str, Computation], name: str) -> Iterator[Access]:
    computation = program[name]
    for instruction in computation.values():
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        if instruction.opcode in _RUNS and instruction.called in program:
            yield from _accesses(program, instruction.called)  # of a loop in the loop one turn
        else:
            yield from _of_one(program, computation, instruction)


def _of_one(program: dict[str, Computation], computation: Computation, instruction: Instruction) -> Iterator[Access]:
    inner = program.get(instruction.called or "", {}) if instruction.opcode == "fusion" else {}
    parameters = {i.number: i for i in inner.values() if i.opcode == "parameter"}
    updated = _updated(inner)
    for number, operand in enumerate(instruction.operands):
        source = computation.get(operand)
        if source is None or len(source.arrays) != 1:
            continue  # a tuple is looked at by what takes it apart
        (array,) = source.arrays
        moved = array.bytes
        if instruction.opcode in _SLICES and number == 0:
            moved = instruction.arrays[0].bytes
        elif number in parameters:
            moved = _read_of(inner, parameters[number], updated)
        yield Access(instruction.name, array, min(moved, array.bytes), written=False)
    # Of what a library's product gives, all but the first is room to work in.
    arrays = instruction.arrays[:1] if instruction.opcode == "custom-call" else instruction.arrays
    for array in arrays:
        whole = instruction.opcode != "dynamic-update-slice" and array not in {i.arrays[0] for i in updated}
        moved = array.bytes if whole else _update(inner or computation, updated or [instruction])
        yield Access(instruction.name, array, min(moved, array.bytes), written=True)


def _updated(inner: Computation) -> list[Instruction]:
    """The slices that a fusion updates in place: what it ends in."""
    roots = [i for i in inner.values() if i.root]
    if roots and roots[0].opcode == "tuple":
        roots = [inner[name] for name in roots[0].operands]
    return [i for i in roots if i.opcode == "dynamic-update-slice"]


def _update(computation: Computation, updates: list[Instruction]) -> int:
    return sum(computation[i.operands[1]].arrays[0].bytes for i in updates)


def _read_of(inner: Computation, parameter: Instruction, updated: list[Instruction]) -> int:
    """Bytes that a fusion reads of one of its operands."""
    names, total = {parameter.name}, 0
    for instruction in inner.values():  # in an order in which operands come first
        used = names & set(instruction.operands)
        if not used:
            continue
        if instruction.opcode == "bitcast":
            names.add(instruction.name)
        elif instruction in updated and instruction.operands[0] in used:
            continue  # overwritten where it lies
        elif instruction.opcode in _SLICES and instruction.operands[0] in used:
            total += instruction.arrays[0].bytes
        else:
            return parameter.arrays[0].bytes
    return total
