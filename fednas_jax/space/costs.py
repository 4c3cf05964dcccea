"""Resources that are sums of products of widths: MACs, parameters and bytes as tables, found by growing every width."""

from __future__ import annotations

import functools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.errors import NetworkError
from fednas_jax.space import segments
from fednas_jax.space.jaxprs import layer_macs
from fednas_jax.space.network import Label, Network, Widths
from fednas_jax.space.segments import Polynomial, Products


@dataclass(frozen=True)
class CostTable:
    """A resource as a sum of products of widths: R(w) = sum over rows of coef x prod over g of w_g^exponent.

    A row that goes with a removed block without scaling with its width, such as the block's last normalisation, counts
    only while the width that it needs is not 0.
    """

    coef: tuple[int, ...]  # [rows]
    exponents: tuple[tuple[int, ...], ...]  # [rows][G]
    needs: tuple[int | None, ...]  # [rows] the group that must not be 0, where the exponents do not see to that
    largest: int  # R of the parent, the largest value the search will ask for

    def __call__(self, widths: Any) -> Any:
        """R of widths [..., G].

        Tuples and numpy arrays are counted in 64-bit integers, exactly. A jax array (jit, vmap) is counted in int64
        where x64 is on; else in uint32, exact, if the parent fits; else in float32, to 1 part in 10^6.
        """
        if not isinstance(widths, jax.Array):
            w = np.asarray(widths, np.int64)
            terms = np.prod(w[..., None, :] ** np.asarray(self.exponents), axis=-1)
            for row, g in enumerate(self.needs):
                if g is not None:
                    terms[..., row] *= w[..., g] > 0
            total = terms @ np.asarray(self.coef, np.int64)
            return int(total) if total.ndim == 0 else total
        wide = jax.dtypes.canonicalize_dtype(np.int64) == np.int64
        dtype = np.int64 if wide else np.uint32 if self.largest < 2**32 else np.float32
        factors = widths.astype(dtype)

        def term(coef: int, row: tuple[int, ...], need: int | None) -> jax.Array:
            powers = [factors[..., g] for g, e in enumerate(row) for _ in range(e)]
            there = [] if need is None else [(widths[..., need] > 0).astype(dtype)]
            return functools.reduce(operator.mul, powers + there, jnp.asarray(coef, dtype))

        rows = zip(self.coef, self.exponents, self.needs, strict=True)
        return functools.reduce(operator.add, [term(*row) for row in rows])


def reductions(widths: Widths, removable: Sequence[int]) -> dict[int | None, Widths]:
    """Widths with every removable group at 0 (under None), and with every one but g (under g).

    A network of one block is small: building it costs less than building the whole without that block.
    """
    bare = tuple(0 if g in removable else w for g, w in enumerate(widths))
    return {None: bare} | {g: (*bare[:g], widths[g], *bare[g + 1 :]) for g in removable}


def primes(count: int, apart_from: Iterable[int] = ()) -> tuple[int, ...]:
    """The first primes that divide none of some numbers."""
    numbers, before, n = set(apart_from), list[int](), 2
    found: list[int] = []
    while len(found) < count:
        if all(n % p for p in before):
            before.append(n)
            if all(number % n for number in numbers):
                found.append(n)
        n += 1
    return tuple(found)


def powers(before: int, after: int, factors: Sequence[int]) -> tuple[int, ...] | None:
    """The exponents [G] with which a size depends on the widths, from what it grew to when each grew by a prime.

    None where the size is no constant times a product of powers of widths.

    Args:
      before: the size at some widths.
      after: the size at those widths times the factors.
      factors: [G] the primes.
    """
    growth, rest = divmod(after, before)
    if rest or not growth:
        return None
    found = tuple(next(e for e in range(64) if growth % p ** (e + 1)) for p in factors)
    return found if growth == math.prod(p**e for p, e in zip(factors, found, strict=True)) else None


def grown(widths: Widths, factors: tuple[int, ...]) -> Widths:
    """Every width times its factor."""
    return tuple(w * f for w, f in zip(widths, factors, strict=True))


def macs_table(
    network: Network,
    widths: Widths,
    layers: Callable[[Network, Widths], list[int]] = layer_macs,
    removable: Sequence[int] = (),
    products: Products | None = None,
) -> CostTable:
    """The MACs that `layers` counts, as a function of the widths.

    Each convolution or product of the trace scales with every width as w_g^e; factoring its growth gives the e.

    Args:
      network: the family.
      widths: the parent's.
      layers: counts each layer of the network at some widths.
      removable: numbers of the groups that may reach 0.
      products: the MACs of each layer's forward pass, where some are sums of several products of widths.

    Raises:
      NetworkError: a layer comes or goes with the widths (but for removable ones), or grows otherwise.
    """
    base = layers(network, widths)
    # No layer's MACs are divisible by these primes, so those of a grown layer say which powers of them they contain.
    factors = primes(len(widths), base)
    whole = grown(widths, factors)
    after_growth = layers(network, whole)
    if len(after_growth) != len(base):
        raise NetworkError(f"{network.name}: the widths change which layers there are")
    if products is not None and len(products) != len(base):
        got = f"got {len(base)} layers in training and {len(products)} in evaluation"
        raise NetworkError(f"{network.name}: {got}, want the same where a dimension has channels of several groups")
    needs = _needs(network, whole, after_growth, layers, removable)
    rows = []
    for row, (before, after) in enumerate(zip(base, after_growth, strict=True)):
        need = needs[after].pop()
        product = products and products[row]
        times = _times(before, after, product, widths, whole) if product else 0
        if product and times:
            rows += [(times * segments.value({e: c}, widths), list(e), need) for e, c in product.items()]
            continue
        found = powers(before, after, factors)
        if found is None:
            raise NetworkError(f"{network.name}: the MACs of layer {row} are no product of powers of the widths")
        rows.append((before, list(found), need))
    return _table(widths, rows)


def _times(before: int, after: int, product: Polynomial, widths: Widths, whole: Widths) -> int:
    """By which factor a layer's MACs are a sum of products, at these widths and at the whole ones; 0 where by none."""
    times, rest = divmod(before, segments.value(product, widths))
    return 0 if rest or times * segments.value(product, whole) != after else times


def _needs(
    network: Network,
    whole: Widths,
    grown: list[int],
    layers: Callable[[Network, Widths], list[int]],
    removable: Sequence[int],
) -> dict[int, list[int | None]]:
    """For layers of each number of MACs, which removable groups they go with; a layer like another costs like it."""
    if not removable:
        return {macs: [None] * count for macs, count in Counter(grown).items()}
    left = {alone: Counter(layers(network, w)) for alone, w in reductions(whole, removable).items()}
    found = {}
    for macs, count in Counter(grown).items():
        stay = left[None][macs]
        found[macs] = [None] * stay + [g for g in removable for _ in range(left[g][macs] - stay)]
        if len(found[macs]) != count:
            raise NetworkError(f"{network.name}: a layer goes with several removable groups, want one a block")
    if extra := set().union(*left.values()) - found.keys():
        raise NetworkError(f"{network.name}: got {len(extra)} more layers where blocks are removed, want none")
    return found


def size_table(
    shapes: Mapping[str, Any],
    labels: Mapping[str, Label],
    gone: Mapping[str, int],
    widths: Widths,
    each: Callable[[Any], int],
) -> CostTable:
    """The sum of `each` over all numbers of the variables, as a function of the widths.

    Args:
      shapes: path -> shape and dtype at the parent's widths.
      labels: path -> label of each dimension.
      gone: path -> the group at whose width 0 it goes.
      widths: the parent's.
      each: what one number of a variable counts: 1 for parameters, its bytes for sizes.
    """

    def rows() -> Iterator[tuple[int, list[int], int | None]]:
        for path, leaf in shapes.items():
            sizes: list[segments.Affine] = [
                {None: n} if dim is None else segments.affine(dim)
                for n, dim in zip(leaf.shape, labels[path], strict=True)
            ]
            for exponents, coef in segments.product(sizes, len(widths)).items():
                yield each(leaf) * segments.value({exponents: coef}, widths), list(exponents), gone.get(path)

    return _table(widths, rows())


def _table(widths: Widths, rows: Iterable[tuple[int, list[int], int | None]]) -> CostTable:
    """Divides each row's value at `widths` by its product of widths, and merges rows that are alike."""
    merged: dict[tuple[tuple[int, ...], int | None], int] = {}
    largest = 0
    for value, exponents, need in rows:
        coef = value // math.prod(w**e for w, e in zip(widths, exponents, strict=True))
        # A power of the width that is needed is 0 with it.
        kind = (tuple(exponents), None if need is None or exponents[need] else need)
        merged[kind] = merged.get(kind, 0) + coef
        largest += value
    return CostTable(tuple(merged.values()), tuple(e for e, _ in merged), tuple(n for _, n in merged), largest)
