"""A network's forward pass as a flat list of operations, and that list cut into one piece for each layer.

Values are numbered; calls inside the traced program (jit, custom gradients) are opened up, so that the operations are
jax's own. What does not contribute to the logits is left out.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal, jaxprs_in_params, subjaxprs

from fednas_jax.space.network import Network, Widths, inputs_of

LAYERS = ("conv_general_dilated", "dot_general")
LOOPS = ("scan", "while", "cond")  # stay one operation: what runs inside is not what the inputs and outputs say


class Operation(NamedTuple):
    """One equation of the traced program."""

    equation: Any  # has the primitive and its parameters
    reads: tuple[int, ...]  # numbers of values
    writes: tuple[int, ...]

    @property
    def name(self) -> str:
        """The primitive's name, such as 'add'."""
        return self.equation.primitive.name


@dataclass(frozen=True)
class Program:
    """The forward pass of one example: `image`, whatever it is, and the variables in, `logits` out."""

    operations: tuple[Operation, ...]
    avals: tuple[Any, ...]  # shape and dtype of each value, by its number
    constants: dict[int, Any]  # values known when the program was traced
    image: int
    logits: int

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return tuple(self.avals[value].shape)


class Piece(NamedTuple):
    """A layer: a convolution or matrix product and all that is computed until the next one."""

    inputs: tuple[int, ...]  # values it needs from before, variables among them
    outputs: tuple[int, ...]  # values that are needed after it
    operations: tuple[Operation, ...]


class Body(NamedTuple):
    """A traced program whose calls are opened up, with all of its operations."""

    operations: tuple[Operation, ...]
    avals: tuple[Any, ...]  # shape and dtype of each value, by its number
    constants: dict[int, Any]  # values known when the program was traced
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def flatten(network: Network, widths: Widths) -> Program:
    """The forward pass of a network at these widths, traced; nothing is allocated."""
    body = opened_forward(network, widths)
    (logits,) = body.outputs
    return Program(_needed(body.operations, logits), body.avals, body.constants, body.inputs[-1], logits)


def opened_forward(network: Network, widths: Widths) -> Body:
    """The forward pass with all of its operations, needed or not: of the variables and, last, the example."""
    forward = traced(network, widths)
    return opened(forward.jaxpr, forward.consts)


def opened(jaxpr: Any, consts: Sequence[Any] = ()) -> Body:
    """The operations of a jaxpr, those of the programs that it merely calls among them."""
    avals: list[Any] = []
    constants: dict[int, Any] = {}
    operations: list[Operation] = []

    def new(aval: Any) -> int:
        avals.append(aval)
        return len(avals) - 1

    def walk(inner: Any, env: dict[Any, int]) -> list[int]:
        def number(atom: Any) -> int:
            if isinstance(atom, Literal):
                value = new(atom.aval)
                constants[value] = atom.val
                return value
            return env[atom]

        for equation in inner.eqns:
            reads = [number(atom) for atom in equation.invars]
            body = called(equation)
            if body is None:
                writes = [new(var.aval) for var in equation.outvars]
                operations.append(Operation(equation, tuple(reads), tuple(writes)))
            else:
                program, consts = body
                known = {var: new(var.aval) for var in program.constvars}
                constants.update({known[var]: value for var, value in zip(program.constvars, consts, strict=True)})
                writes = walk(program, known | dict(zip(program.invars, reads, strict=True)))
            env.update(zip(equation.outvars, writes, strict=True))
        return [number(atom) for atom in inner.outvars]

    env = {var: new(var.aval) for var in (*jaxpr.constvars, *jaxpr.invars)}
    constants.update({env[v]: value for v, value in zip(jaxpr.constvars, consts, strict=True)})
    inputs = tuple(env[var] for var in jaxpr.invars)
    outputs = walk(jaxpr, env)
    return Body(tuple(operations), tuple(avals), constants, inputs, tuple(outputs))


def pieces(program: Program) -> list[Piece]:
    """The program cut before each layer; what comes before the first belongs to it."""
    starts = [n for n, operation in enumerate(program.operations) if _is_layer(operation)]
    cuts = [0, *starts[1:], len(program.operations)]
    parts = [program.operations[a:b] for a, b in itertools.pairwise(cuts)]
    found, later = [], {program.logits}
    for part in reversed(parts):
        written = {value for operation in part for value in operation.writes}
        read = {value for operation in part for value in operation.reads}
        inputs = tuple(sorted(read - written - program.constants.keys()))
        found.append(Piece(inputs, tuple(sorted(written & later)), part))
        later = (later - written) | set(inputs)
    return found[::-1]


def runner(program: Program, piece: Piece) -> Callable[..., list[Any]]:
    """A piece as a function of its inputs that returns its outputs; it can be jitted."""

    def run(*inputs: Any) -> list[Any]:
        values = program.constants | dict(zip(piece.inputs, inputs, strict=True))
        for operation in piece.operations:
            equation = operation.equation
            out = equation.primitive.bind(*(values[r] for r in operation.reads), **equation.params)
            values |= zip(operation.writes, out if equation.primitive.multiple_results else [out], strict=True)
        return [values[o] for o in piece.outputs]

    return run


def signature(program: Program, piece: Piece) -> str:
    """Text that is equal for pieces that compute the same at the same shapes, with other variables."""
    local: dict[int, str] = {}

    def named(value: int) -> str:
        if value in program.constants:
            return f"{program.constants[value]!r}"
        return local.setdefault(value, f"{len(local)}:{program.avals[value].str_short()}")

    lines = []
    for operation in piece.operations:
        parameters = ", ".join(f"{k}={v}" for k, v in sorted(operation.equation.params.items()))
        reads, writes = (" ".join(map(named, values)) for values in (operation.reads, operation.writes))
        lines.append(f"{operation.name}[{parameters}] {reads} -> {writes}")
    return "\n".join([*lines, " ".join(map(named, piece.outputs))])


def called(equation: Any) -> tuple[Any, Any] | None:
    """The program that an equation merely calls, and its constants; None for any other equation."""
    if equation.primitive.name in LOOPS:
        return None
    found = [value for value in equation.params.values() if hasattr(getattr(value, "jaxpr", value), "eqns")]
    if len(found) != 1:
        return None
    body = getattr(found[0], "jaxpr", found[0])
    fits = len(body.invars) == len(equation.invars) and len(body.outvars) == len(equation.outvars)
    return (body, getattr(found[0], "consts", ())) if fits else None


def _needed(operations: Sequence[Operation], logits: int) -> tuple[Operation, ...]:
    """Operations that the logits depend on."""

    def backwards() -> Iterator[Operation]:
        needed = {logits}
        for operation in reversed(operations):
            if needed & set(operation.writes):
                needed |= set(operation.reads)
                yield operation

    return tuple(backwards())[::-1]


def _is_layer(operation: Operation) -> bool:
    """Whether an operation is a convolution or product, or a loop with one inside."""

    def inside(jaxpr: Any) -> bool:
        return any(e.primitive.name in LAYERS for e in jaxpr.eqns) or any(map(inside, subjaxprs(jaxpr)))

    return operation.name in LAYERS or any(map(inside, jaxprs_in_params(operation.equation.params)))


def count_macs(network: Network, widths: Widths) -> int:
    """Multiply-accumulates of one example's forward pass, counted directly from the traced network."""
    return sum(layer_macs(network, widths))


def layer_macs(network: Network, widths: Widths) -> list[int]:
    """Multiply-accumulates of each convolution and matrix product of one example's forward pass, in order."""
    return list(_equation_macs(traced(network, widths).jaxpr, 1))


@functools.lru_cache(maxsize=16)
def traced(network: Network, widths: Widths) -> Any:
    """The closed jaxpr of one example's forward pass: its inputs are the variables and, last, the example."""
    variables = network.abstract(widths)
    return jax.make_jaxpr(lambda v, x: network.apply(widths, v, x, train=False)[0])(variables, inputs_of(network, 1))


def product_macs(eqn: Any) -> int | None:
    """Multiply-accumulates of an equation of a jaxpr; None where it is neither a convolution nor a product."""
    if eqn.primitive.name == "conv_general_dilated":
        makes, reads, *_ = eqn.params["dimension_numbers"].rhs_spec
        kernel = eqn.invars[1].aval.shape
        return window_macs(eqn) * kernel[makes] * kernel[reads]
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(left.shape[d] for d in contracted)
    return None


def window_macs(eqn: Any) -> int:
    """Multiply-accumulates of a convolution for one pair of channels: of all windows of the batch.

    Padding is counted. The zeros that a transposed convolution puts between its inputs are not: each of these meets the
    kernel once.
    """
    numbers, given = eqn.params["dimension_numbers"], eqn.params
    image, kernel, out = (v.aval.shape for v in (*eqn.invars, *eqn.outvars))
    steps = zip(given["window_strides"], given["lhs_dilation"], numbers.lhs_spec[2:], numbers.out_spec[2:], strict=True)
    windows = (image[before] if step == 1 < spread else out[after] for step, spread, before, after in steps)
    return math.prod((out[numbers.out_spec[0]], *windows, *(kernel[axis] for axis in numbers.rhs_spec[2:])))


def inner_jaxprs(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls, without their constants."""
    for value in eqn.params.values():
        for sub in value if isinstance(value, (tuple, list)) else (value,):
            closed = getattr(sub, "jaxpr", sub)
            if hasattr(closed, "eqns"):
                yield closed


def inner_layers(eqn: Any) -> int:
    """How many convolutions and products the programs have that an equation calls."""
    return sum(1 for sub in inner_jaxprs(eqn) for _ in _equation_macs(sub, 1))


class ScanParts(NamedTuple):
    """How many of a scan's inputs are of which kind; jax names the numbers by version."""

    constants: int
    carries: int


def scan_parts(eqn: Any) -> ScanParts:
    """Constants and carries of a scan, which come first; what is scanned has one dimension more outside."""
    (inner,) = inner_jaxprs(eqn)
    carries = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.outvars, inner.outvars, strict=True))
    same = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.invars, inner.invars, strict=True))
    return ScanParts(same - carries, carries)


def _equation_macs(jaxpr: Any, times: int) -> Iterator[int]:
    for eqn in jaxpr.eqns:
        macs = product_macs(eqn)
        if macs is not None:
            yield times * macs
            continue
        inner = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        for sub in inner_jaxprs(eqn):
            yield from _equation_macs(sub, inner)
