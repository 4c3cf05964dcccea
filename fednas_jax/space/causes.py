"""Why masks change what a network computes: the first operation of its pass whose kept channels come out otherwise.

The pass is followed value by value at the whole widths, with removed channels at zero, and at the kept widths. What a
value's dimensions carry is found as for variables: by how they grow with the widths.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fednas_jax.space import segments
from fednas_jax.space.costs import grown, powers, primes
from fednas_jax.space.jaxprs import Operation, Program, flatten
from fednas_jax.space.network import RUN_ONCE, Dim, Label, Network, Row, Variables, Widths, random_inputs

TOLERANCE = 1e-4  # relative to the largest number where that is above 1

IN_GROUPS = "channels are normalised or mixed in groups that masks would cut"
BY_CHANNEL = "normalisation by channel, or by blocks of channels that `blocks` names"
FROM_ZERO = "activations that map 0 to 0"


Carried = tuple[Dim | Row | None, ...]  # what each dimension of a value carries
Known = Mapping[tuple[int, int], Dim | Row]  # the variables' dimensions, by their size at the whole and grown widths


class Cause(NamedTuple):
    """Why masking is not exact, and what to write instead to have it exact."""

    what: str
    instead: str


def first_cause(
    network: Network,
    known: Mapping[str, Label],
    whole: Widths,
    keep: Sequence[np.ndarray],
    masked: Variables,
    sliced: Variables,
) -> Cause | None:
    """The cause in the forward pass; None where none is found there.

    Args:
      network: the family.
      known: the labels of its variables.
      whole: widths of the masked network.
      keep: for each group a boolean mask [width].
      masked: variables at the whole widths, zero where channels are removed.
      sliced: the same at the kept widths.
    """
    kept = tuple(int(k.sum()) for k in keep)
    factors = primes(len(whole))
    programs = [flatten(network, widths) for widths in (whole, kept, grown(whole, factors))]
    if len({tuple(operation.name for operation in p.operations) for p in programs}) > 1:
        return None
    large, small, larger = programs
    image = random_inputs(network, 1, seed=1)
    shapes = list(zip((a.shape for a in large.avals), (a.shape for a in larger.avals), strict=True))
    rows = _sizes(network, known, whole, grown(whole, factors))
    pass_ = _Pass(
        network,
        whole,
        kept,
        tuple(keep),
        large,
        small,
        labels=[_label(*pair, whole, factors, rows) for pair in shapes],
        cut={n for n, pair in enumerate(shapes) if _is_cut(*pair, whole, factors)},
        masked=_values(large, masked, image),
        sliced=_values(small, sliced, image),
    )
    found = next((n for n in range(len(large.operations)) if pass_.differs(n)), None)
    return pass_.leak_alone() if found is None else pass_.cause(found)


def constants_differ(network: Network, whole: Widths, keep: Sequence[np.ndarray]) -> bool:
    """Whether the pass at the kept widths reads other numbers, as a scale by the width does."""
    programs = [flatten(network, widths) for widths in (whole, tuple(int(k.sum()) for k in keep))]
    found = [[float(c) for c in program.constants.values() if np.ndim(c) == 0] for program in programs]
    return found[0] != found[1]


class _Pass(NamedTuple):
    """The forward pass of one image, masked and sliced; values are in the order of their numbers."""

    network: Network
    whole: Widths
    kept: Widths
    keep: tuple[np.ndarray, ...]
    large: Program
    small: Program
    labels: list[Carried | None]  # of the large program's values; None where a dimension mixes groups, or cuts one
    cut: set[int]  # values of which a dimension is a part of a group's channels
    masked: dict[int, np.ndarray]
    sliced: dict[int, np.ndarray]

    def differs(self, number: int) -> bool:
        """Whether an operation's outputs differ in the channels that are kept."""
        pairs = zip(self.large.operations[number].writes, self.small.operations[number].writes, strict=True)
        return any(self._value_differs(a, b) for a, b in pairs)

    def leak_alone(self) -> Cause | None:
        """The cause where only gradients differ, since the removed channels' kernels are 0 but not their inputs."""
        leak = next(filter(self._leaks, self.large.operations), None)
        return None if leak is None else self._of_leak(leak)

    def cause(self, number: int) -> Cause | None:
        """Why they do, where the outputs of all operations before do not."""
        here, there = self.large.operations[number], self.small.operations[number]
        if constant := self._constant(here, there):
            return self._of_constant(number, here, constant)
        if self.cut & set(here.reads):
            return Cause(IN_GROUPS, BY_CHANNEL)
        if any(self.labels[value] is None for value in here.reads):
            return None
        leak = next((o for o in self.large.operations[: number + 1] if self._leaks(o)), None)
        groups = self._groups(leak or here)
        if here.name == "reduce_max":
            return Cause(
                f"the largest of the channels of {groups} is taken, as softmax does", "softmax over a fixed size"
            )
        if leak is None:
            return Cause(f"'{here.name}' mixes the channels of {groups}", BY_CHANNEL)
        if any(o.name == "exp" and set(o.writes) & set(here.reads) for o in self.large.operations[:number]):
            return Cause(
                f"a softmax over the channels of {groups} counts those that are removed", "softmax over a fixed size"
            )
        return self._of_leak(leak)

    def _of_leak(self, leak: Operation) -> Cause:
        return Cause(f"'{leak.name}' makes removed channels of {self._groups(leak)} something else than 0", FROM_ZERO)

    def _of_constant(self, number: int, here: Operation, constant: tuple[float, float]) -> Cause:
        writers = [o for o in self.large.operations[:number] if set(o.writes) & set(here.reads)]
        while writers and writers[-1].name in ("reshape", "broadcast_in_dim", "squeeze", "convert_element_type"):
            writers = [o for o in self.large.operations[:number] if set(o.writes) & set(writers[-1].reads)]
        if writers and writers[-1].name == "reduce_sum" and (groups := self._groups(writers[-1])):
            return Cause(
                f"a mean over the channels of {groups} counts those that are removed, as in LayerNorm", BY_CHANNEL
            )
        at, instead = (f"{value:.4g}" for value in constant)
        groups = self._where_constant(number, constant[0])
        return Cause(
            f"a scale depends on the width of {groups}: {at} where {instead} is at the smaller widths",
            "a scale that does not",
        )

    def _where_constant(self, number: int, value: float) -> str:
        """The groups on whose widths a constant depends."""
        found = []
        for g, name in enumerate(self.network.widths):
            widths = (*self.whole[:g], self.kept[g], *self.whole[g + 1 :])
            other = flatten(self.network, widths)
            if number < len(other.operations) and value not in self._constants(other, other.operations[number]):
                found.append(name)
        return " and ".join(found) or "a group"

    def _constants(self, program: Program, operation: Operation) -> list[float]:
        known = (program.constants[value] for value in operation.reads if value in program.constants)
        return [float(value) for value in known if np.ndim(value) == 0]

    def _constant(self, here: Operation, there: Operation) -> tuple[float, float] | None:
        """A number that an operation reads, where it is another one at the smaller widths."""
        pairs = zip(self._constants(self.large, here), self._constants(self.small, there), strict=False)
        return next(((a, b) for a, b in pairs if a != b), None)

    def _value_differs(self, large: int, small: int) -> bool:
        label = self.labels[large]
        if label is None or not np.issubdtype(self.masked[large].dtype, np.floating):
            return False
        inside, want = self._inside(self.masked[large], label), self.sliced[small]
        if inside.shape != want.shape:
            return False
        with np.errstate(invalid="ignore"):  # what is not finite is told by the step itself
            gap = np.max(np.abs(inside - want), initial=0)
        return bool(gap > TOLERANCE * max(1, np.max(np.abs(want), initial=0)))

    def _inside(self, value: np.ndarray, label: Carried) -> np.ndarray:
        for axis, dim in enumerate(label):
            if dim is not None:
                value = np.take(value, self._kept(value.shape[axis], dim), axis)
        return value

    def _leaks(self, operation: Operation) -> bool:
        """Whether removed channels that were 0 before an operation are not 0 after it."""
        return any(map(self._outside, operation.writes)) and not any(map(self._outside, operation.reads))

    def _outside(self, value: int) -> bool:
        """Whether a value has channels that should be removed and are not 0."""
        label = self.labels[value]
        if label is None or not any(label) or value not in self.masked:
            return False
        array = np.copy(self.masked[value])
        if not np.issubdtype(array.dtype, np.floating):
            return False
        array[np.ix_(*(self._kept(size, dim) for size, dim in zip(array.shape, label, strict=True)))] = 0
        return bool(array.any())

    def _kept(self, size: int, dim: Dim | Row | None) -> np.ndarray:
        if dim is None:
            return np.arange(size)
        return segments.index(dim, dict(enumerate(self.whole)), [np.flatnonzero(k) for k in self.keep])

    def _carried(self, values: Sequence[int]) -> set[int]:
        dims = [dim for value in values for dim in self.labels[value] or () if dim]
        return {group for dim in dims for group in segments.affine(dim) if group is not None}

    def _groups(self, operation: Operation) -> str:
        """The groups that an operation's inputs carry, and its outputs do not where it is a reduction."""
        read, written = self._carried(operation.reads), self._carried(operation.writes)
        names = list(self.network.widths)
        return " and ".join(names[g] for g in sorted(read - written or read | written))


def _sizes(network: Network, known: Mapping[str, Label], whole: Widths, larger: Widths) -> Known:
    """The dimensions of the variables that are more than one group's, by their sizes; not those in no order to name."""
    shapes = [
        {path: leaf.shape for part in network.abstract(w) for path, leaf in part.items()} for w in (whole, larger)
    ]
    return {
        (shapes[0][path][axis], shapes[1][path][axis]): dim
        for path, label in known.items()
        for axis, dim in enumerate(label)
        if isinstance(dim, Row) and len(segments.affine(dim)) > 1 and not segments.wired(dim)
    }


def _label(
    before: tuple[int, ...], after: tuple[int, ...], whole: Widths, factors: Sequence[int], known: Known
) -> Carried | None:
    """What a value's dimensions carry, from its shapes at the whole widths and at those grown by primes."""
    found: list[Dim | Row | None] = []
    for size, larger in zip(before, after, strict=True):
        if (size, larger) in known:
            found.append(known[size, larger])
            continue
        exponents = powers(size, larger, factors) if size else None
        if exponents is None or sum(exponents) > 1:
            return None
        group = exponents.index(1) if any(exponents) else None
        if group is not None and size % whole[group]:
            return None
        found.append(None if group is None else Dim(group, size // whole[group]))
    return tuple(found)


def _is_cut(before: tuple[int, ...], after: tuple[int, ...], whole: Widths, factors: Sequence[int]) -> bool:
    """Whether a dimension is a part of a group's channels."""
    grows = ((size, powers(size, larger, factors)) for size, larger in zip(before, after, strict=True) if size)
    return any(e is not None and sum(e) == 1 and size % whole[e.index(1)] > 0 for size, e in grows)


def _values(program: Program, variables: Variables, image: np.ndarray) -> dict[int, np.ndarray]:
    """Every value of the pass by its number."""
    leaves = jax.tree.leaves(variables)
    inputs = {program.image - len(leaves) + n: leaf for n, leaf in enumerate(leaves)} | {program.image: image}

    @functools.partial(jax.jit, compiler_options=RUN_ONCE)
    def run(given: dict[int, Any]) -> dict[int, Any]:
        values = program.constants | given
        for operation in program.operations:
            equation = operation.equation
            out = equation.primitive.bind(*(values[r] for r in operation.reads), **equation.params)
            values |= zip(operation.writes, out if equation.primitive.multiple_results else [out], strict=True)
        return {n: value for n, value in values.items() if n not in program.constants}

    return {n: np.asarray(value) for n, value in jax.device_get(run(inputs)).items()}
