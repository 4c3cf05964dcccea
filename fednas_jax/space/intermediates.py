"""How large each value of the forward pass is at any widths: those of several groups at once among them.

Found from the shapes at three choices of widths. A dimension that grows as no product of widths does is one that some
variable has too, for instance the kernel that reads it, or a concatenation of such.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from fednas_jax.errors import NetworkError
from fednas_jax.space import segments
from fednas_jax.space.costs import grown, powers, primes
from fednas_jax.space.jaxprs import Program, flatten
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths
from fednas_jax.space.segments import Affine, Polynomial

Sizes = tuple[int, ...]  # of one dimension, at the widths of each program


class Intermediates(NamedTuple):
    """The values of the forward pass by their numbers."""

    programs: tuple[Program, ...]  # at the space's widths and at two larger ones; alike but for sizes
    polynomials: tuple[Polynomial | None, ...]  # numbers that a value consists of; None where no rule is known

    def polynomial(self, space: Space, value: int) -> Polynomial:
        """The size of a value as a sum of products of the widths.

        Raises:
          NetworkError: it is none, as far as is known.
        """
        found = self.polynomials[value]
        if found is None:
            got = f"an intermediate value of shape {self.programs[0].shape(value)}"
            raise NetworkError(f"{space.network.name}: the size of {got} is no sum of products of the widths")
        return found


def traced_sizes(space: Space) -> Intermediates:
    """Traces a network at its widths and two larger ones.

    Raises:
      NetworkError: the widths change which operations there are.
    """
    dealt = primes(max(2, len(space.widths)))
    factors = [(*dealt[turn:], *dealt[:turn])[: len(space.widths)] for turn in (0, 1)]
    programs = tuple(flatten(space.network, w) for w in (space.widths, *(grown(space.widths, f) for f in factors)))
    names = {tuple(operation.name for operation in program.operations) for program in programs}
    if len(names) > 1:
        raise NetworkError(f"{space.network.name}: the widths change which operations there are")
    known = _known(space, programs)
    return Intermediates(
        programs,
        tuple(_polynomial(space, programs, factors[0], known, value) for value in range(len(programs[0].avals))),
    )


def _known(space: Space, programs: Sequence[Program]) -> dict[Sizes, Affine]:
    """How the dimensions of the variables depend on the widths, and those of what is concatenated, by their sizes."""
    known: dict[Sizes, Affine] = {}
    paths = [path for part in space.network.abstract(space.widths) for path in sorted(part)]
    for value, path in enumerate(paths, programs[0].image - len(paths)):
        for sizes, dim in zip(_dimensions(programs, value), space.labels[path], strict=True):
            if dim is not None:
                known[sizes] = segments.affine(dim)
    for operation in programs[0].operations:
        if operation.name == "concatenate":
            axis = operation.equation.params["dimension"]
            parts = [list(_dimensions(programs, value))[axis] for value in operation.reads]
            if all(part in known or len(set(part)) == 1 for part in parts):
                total: Counter[int | None] = Counter()
                for part in parts:
                    total.update(known.get(part, {None: part[0]}))
                known.setdefault(list(_dimensions(programs, operation.writes[0]))[axis], total)
    return known


def _polynomial(
    space: Space, programs: Sequence[Program], factors: Sequence[int], known: Mapping[Sizes, Affine], value: int
) -> Polynomial | None:
    """The size of a value; None where no rule is known for one of its dimensions."""
    total, part = segments.product([], len(space.widths)), Fraction(1)
    for sizes in _dimensions(programs, value):
        found = _dimension(space.widths, sizes, factors, known)
        if found is None:
            return None
        total, part = segments.times(total, found[0]), part * found[1]
    whole = {exponents: coef * part for exponents, coef in total.items()}
    return {e: int(coef) for e, coef in whole.items()} if all(c.denominator == 1 for c in whole.values()) else None


def _dimension(
    widths: Widths, sizes: Sizes, factors: Sequence[int], known: Mapping[Sizes, Affine]
) -> tuple[Polynomial, Fraction] | None:
    """One dimension, as what part of which size: a constant, a variable's dimension, or a product of widths."""
    if len(set(sizes)) == 1:
        return segments.product([{None: sizes[0]}], len(widths)), Fraction(1)
    if sizes in known:
        return segments.product([known[sizes]], len(widths)), Fraction(1)
    if exponents := powers(sizes[0], sizes[1], factors):
        return {exponents: 1}, Fraction(sizes[0], math.prod(w**e for w, e in zip(widths, exponents, strict=True)))
    for others, affine in known.items():
        part = Fraction(sizes[0], others[0])
        if all(part * n == size for n, size in zip(others, sizes, strict=True)):
            return segments.product([affine], len(widths)), part
    return None


def _dimensions(programs: Sequence[Program], value: int) -> Iterator[Sizes]:
    """The sizes of each dimension of a value."""
    return zip(*(program.shape(value) for program in programs), strict=True)
