"""Peak activation memory of a forward pass at batch 1, as a function of the widths.

Counted as an interpreter would allocate that runs one operation after another and frees each value after its last
use: reshapes and slices are views, and an elementwise operation writes over an operand that nobody needs again. The
image counts; weights, and what is computed from weights alone, do not. A loop counts as its inputs and outputs.
XLA may need less, since it fuses, or more, where it unfolds or transposes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fednas_jax.space.intermediates import traced_sizes
from fednas_jax.space.jaxprs import Operation, Program
from fednas_jax.space.masks import Space

VIEWS = ("reshape", "squeeze", "expand_dims", "slice", "split", "unstack", "copy", "stop_gradient")
# jax's operations whose every output number depends on one number of each operand.
ELEMENTWISE = {
    *("abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "convert_element_type", "cos", "div", "eq"),
    *("erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log"),
    *("log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "rem", "round", "rsqrt"),
    *("select_n", "sign", "sin", "sqrt", "square", "sub", "tan", "tanh", "xor"),
}


@dataclass(frozen=True)
class PeakTable:
    """The largest of several sums of products of widths: bytes live at each point of the program."""

    coef: tuple[tuple[int, ...], ...]  # [points][rows] bytes
    exponents: tuple[tuple[int, ...], ...]  # [rows][G]

    def __call__(self, widths: Any) -> Any:
        """Bytes at widths [..., G], exact: an int, or int64 [...]."""
        w = np.asarray(widths, np.int64)
        rows = np.prod(w[..., None, :] ** np.asarray(self.exponents), axis=-1)
        peak = np.max(rows @ np.asarray(self.coef, np.int64).T, axis=-1)
        return int(peak) if peak.ndim == 0 else peak


def peak_table(space: Space) -> PeakTable:
    """Traces the network at its widths and at larger ones, which tell how each value's size depends on them.

    Raises:
      NetworkError: the widths change which operations there are, or a value's size is no sum of products of them.
    """
    found = traced_sizes(space)
    base, larger, _ = found.programs
    buffers = _buffers(base, larger)
    sizes = {value: found.polynomial(space, value) for value, _, _ in buffers}
    rows = {exponents: row for row, exponents in enumerate({e: None for size in sizes.values() for e in size})}
    points = np.zeros((len(base.operations), len(rows)), np.int64)
    for value, born, dies in buffers:
        for exponents, coef in sizes[value].items():
            points[born : dies + 1, rows[exponents]] += coef * base.avals[value].dtype.itemsize
    table = np.unique(points, axis=0)
    # A point that needs no more of anything than another one never is the peak.
    most = [p for p in table if not any((p <= q).all() and (p != q).any() for q in table)]
    return PeakTable(tuple(tuple(int(c) for c in p) for p in most), tuple(rows))


def _buffers(base: Program, grown: Program) -> list[tuple[int, int, int]]:
    """Allocations: the value each was made for, and the first and last operation during which it is live."""
    last = {value: n for n, operation in enumerate(base.operations) for value in operation.reads}
    last[base.logits] = len(base.operations)
    owner = {base.image: base.image}  # of each value that depends on the image: whose memory it lies in
    born, dies = {base.image: 0}, {base.image: last[base.image]}

    def same_size(a: int, b: int) -> bool:
        """At any widths: equal shapes at two choices of them."""
        return all(p.shape(a) == p.shape(b) and p.avals[a].dtype == p.avals[b].dtype for p in (base, grown))

    def home(operation: Operation, value: int, moment: int) -> int:
        """The memory a new value goes to: its own number for fresh memory."""
        operands = [owner[r] for r in operation.reads if r in owner]
        if operation.name in VIEWS:
            return operands[0]
        if operation.name in ELEMENTWISE:
            for read in (r for r in operation.reads if r in owner):
                whole = all(math.prod(p.shape(owner[read])) == math.prod(p.shape(read)) for p in (base, grown))
                if whole and same_size(read, value) and dies[owner[read]] <= moment:
                    return owner[read]
        return value

    for moment, operation in enumerate(base.operations):
        if not any(read in owner for read in operation.reads):
            continue
        for value in operation.writes:
            memory = owner[value] = home(operation, value, moment)
            born.setdefault(memory, moment)
            dies[memory] = max(dies.get(memory, 0), last.get(value, moment))
    return [(memory, born[memory], dies[memory]) for memory in born]
