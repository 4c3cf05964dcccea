"""Multiply-accumulates of a training step, forward and backward, counted from the traced network.

A convolution or product is linear in each of its two operands, so that each operand that depends on the parameters
costs the backward pass as many multiply-accumulates as the forward pass takes: the gradient to the weights, and the
gradient to the layer's input, which the first layer does without. Following the dependence through the forward trace
counts exactly these; the traced gradient itself would count the zeros that strides and padding put into it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Literal

from fednas_jax.space.costs import CostTable, macs_table
from fednas_jax.space.jaxprs import inner_jaxprs, product_macs, scan_parts
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Network, Variables, Widths, inputs_of


def training_table(space: Space) -> CostTable:
    """MACs of training on one example as a function of the widths; jittable, see `CostTable`.

    Raises:
      NetworkError: as for `space.macs`.
    """
    removable = [g for g, least in enumerate(space.smallest) if not least]
    return macs_table(space.network, space.widths, training_layer_macs, removable, space.products)


def training_layer_macs(network: Network, widths: Widths) -> list[int]:
    """MACs of each convolution and product of one example's training step, in the order of the forward pass."""
    variables = network.abstract(widths)

    def forward(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        return network.apply(widths, Variables(params, stats), x, train=True)[0]

    traced = jax.make_jaxpr(forward)(variables.params, variables.stats, inputs_of(network, 1)).jaxpr
    trained = len(jax.tree.leaves(variables.params))
    found: list[int] = []
    _follow(traced, [n < trained for n in range(len(traced.invars))], 1, found)
    return found


def _follow(jaxpr: Any, depends: Sequence[bool], times: int, found: list[int]) -> list[bool]:
    """Adds the MACs of the jaxpr's products to `found`; returns which outputs depend on the parameters."""
    known: dict[Any, bool] = dict(zip(jaxpr.invars, depends, strict=True))

    def depend(atoms: Sequence[Any]) -> list[bool]:
        return [not isinstance(atom, Literal) and known.get(atom, False) for atom in atoms]

    for eqn in jaxpr.eqns:
        inputs = depend(eqn.invars)
        macs = product_macs(eqn)
        outputs = [any(inputs)] * len(eqn.outvars)
        if macs is not None:
            found.append(times * macs * (1 + sum(inputs[:2])))
        elif eqn.primitive.name == "scan":
            outputs = _follow_scan(eqn, inputs, times, found)
        else:
            for inner in inner_jaxprs(eqn):
                alike = len(inner.invars) == len(inputs)
                said = _follow(inner, inputs if alike else [any(inputs)] * len(inner.invars), times, found)
                outputs = said if len(said) == len(eqn.outvars) else outputs
        known.update(zip(eqn.outvars, outputs, strict=True))
    return depend(jaxpr.outvars)


def _follow_scan(eqn: Any, inputs: list[bool], times: int, found: list[int]) -> list[bool]:
    """A loop whose carry may come to depend on the parameters only after some turns."""
    (inner,) = inner_jaxprs(eqn)
    first, carries = scan_parts(eqn)
    while True:
        outputs = _follow(inner, inputs, times, [])
        after = [a or b for a, b in zip(inputs[first : first + carries], outputs, strict=False)]
        if after == inputs[first : first + carries]:
            return _follow(inner, inputs, times * eqn.params["length"], found)
        inputs = [*inputs[:first], *after, *inputs[first + carries :]]
