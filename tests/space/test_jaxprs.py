"""A traced network as a list of operations: cut into pieces it computes the same."""

import functools

import jax
import networks
import numpy as np
import pytest

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import NetworkError
from fednas_jax.nets import build
from fednas_jax.space import jaxprs as program
from fednas_jax.space.costs import grown, powers, primes
from fednas_jax.space.jaxprs import layer_macs
from fednas_jax.space.network import RUN_ONCE


@pytest.mark.parametrize("make", [networks.norm, networks.residual], ids=lambda m: m.__name__)
def test_pieces_one_after_another_are_the_forward_pass(make):
    network = make()
    widths = tuple(network.widths.values())
    whole = program.flatten(network, widths)
    parts = program.pieces(whole)
    assert len(parts) == len(layer_macs(network, widths))
    variables = networks.start(network, widths)
    images, _ = networks.batch(network, 1)

    @functools.partial(jax.jit, compiler_options=RUN_ONCE)
    def both(variables, images):
        values = dict(enumerate(jax.tree.leaves((variables, images))))
        for part in parts:
            values |= zip(part.outputs, program.runner(whole, part)(*(values[i] for i in part.inputs)), strict=True)
        return values[whole.logits], network.apply(widths, variables, images, train=False)[0]

    np.testing.assert_allclose(*both(variables, images), rtol=1e-5, atol=1e-6)
    assert [sum(o.name in program.LAYERS for o in part.operations) for part in parts] == [1] * len(parts)


def test_pieces_are_alike_when_they_compute_the_same_at_the_same_shapes():
    def signatures(widths):
        whole = program.flatten(build(NetConfig("cnn", widths=widths), (8, 8, 1), 3), widths)
        return [program.signature(whole, part) for part in program.pieces(whole)]

    assert signatures((2, 4, 8)) == signatures((2, 4, 8))
    assert len(set(signatures((2, 4, 8)))) == 4
    changed = [a != b for a, b in zip(signatures((2, 4, 8)), signatures((2, 4, 9)), strict=True)]
    assert changed == [False, False, True, True]


def test_what_does_not_reach_the_logits_is_left_out():
    whole = program.flatten(networks.norm(), (8, 8))
    read = {value for operation in whole.operations for value in operation.reads} | {whole.logits}
    assert all(set(operation.writes) & read for operation in whole.operations)


def test_growth_by_primes_tells_the_exponents():
    assert grown((4, 5, 6), primes(3)) == (8, 15, 30)
    assert powers(7, 7 * 2 * 2 * 5, (2, 3, 5)) == (2, 0, 1)
    assert powers(10, 25, (2, 3)) is None
    assert powers(1, 7, (2, 3)) is None


def test_a_value_whose_size_no_rule_tells_is_refused_where_sizes_are_needed():
    from flax import nnx

    from fednas_jax.nets import from_nnx
    from fednas_jax.search.memory import peak_table
    from fednas_jax.space.probing import probe

    class Pairs(nnx.Module):
        def __init__(self, widths, rngs):
            self.first = nnx.Linear(4, widths["a"], rngs=rngs)
            self.second = nnx.Linear(1, 3, rngs=rngs)

        def __call__(self, x):
            x = jax.numpy.pad(self.first(x), ((0, 0), (0, 1)))  # one more than the width
            return self.second(x.sum(-1, keepdims=True))

    space = probe(from_nnx("pairs", Pairs, {"a": 4}, (4,)), (1,), check=False)
    with pytest.raises(NetworkError, match=r"^pairs: the size of an intermediate value of shape \(1, 5\) is no sum of"):
        peak_table(space)
