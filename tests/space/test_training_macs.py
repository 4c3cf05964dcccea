"""What a training step computes: by hand, by XLA's own analysis, and as a function of the widths."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import linen

from fednas_jax import nets
from fednas_jax.config.schema import NetConfig, TrainConfig
from fednas_jax.engine.local import make_local
from fednas_jax.nets import from_linen
from fednas_jax.space import jaxprs, probing, training_macs


def test_the_first_layer_has_no_gradient_to_its_input():
    # conv 3x3x2x8 to 3x3, depthwise 3x3x8 on 3x3, dense 72-8, classifier 8-3.
    conv, depthwise, dense, classifier = 9 * 9 * 2 * 8, 9 * 9 * 8, 72 * 8, 8 * 3
    want = [2 * conv, 3 * depthwise, 3 * dense, 3 * classifier]
    assert training_macs.training_layer_macs(networks.norm(), (8, 8)) == want
    assert training_macs.training_layer_macs(networks.linen_norm(), (8, 8)) == want


def test_it_is_a_function_of_the_widths_that_jax_can_trace():
    found = probing.probe(networks.norm(), (1,), check=False)
    table = training_macs.training_table(found)
    for widths in ((8, 8), (5, 3), (1, 8)):
        direct = sum(training_macs.training_layer_macs(networks.norm(), widths))
        assert table(widths) == direct
        assert int(jax.jit(table)(jnp.asarray(widths))) == direct


class Looped(linen.Module):
    """A product in a loop whose carry depends on the parameters from its second turn on."""

    width: int

    @linen.compact
    def __call__(self, x, train):
        kernel = self.param("kernel", linen.initializers.ones, (4, 4))
        x, _ = jax.lax.scan(lambda carry, _: (linen.relu(carry @ kernel), None), x.reshape(-1, 4), length=5)
        return linen.Dense(3, name="classifier")(linen.Dense(self.width, name="dense")(x))


def test_a_loop_is_counted_as_often_as_it_turns():
    looped = from_linen("looped", lambda w: Looped(w["dense"]), {"dense": 6}, (2, 2, 1))
    # Every turn is charged both gradients, though the first turn's input has none: the loop is one program.
    want = [5 * 3 * 16, 3 * 4 * 6, 3 * 6 * 3]
    assert training_macs.training_layer_macs(looped, (6,)) == want


def without_padding(network, widths):
    """The share of each layer's multiply-accumulates that has a pixel as its factor, not padding."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "conv_general_dilated":
                shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
                places, share = eqn.params["dimension_numbers"], 1.0
                for n, (low, _) in enumerate(eqn.params["padding"]):
                    size, taps, out = (shape[place[2 + n]] for shape, place in zip(shapes, places, strict=True))
                    first = np.arange(out)[:, None] * eqn.params["window_strides"][n] - low
                    at = first + np.arange(taps)
                    share *= np.mean((at >= 0) & (at < size))
                yield share
            elif eqn.primitive.name == "dot_general":
                yield 1.0
            else:
                for inner in jaxprs.inner_jaxprs(eqn):
                    yield from walk(inner)

    return list(walk(jaxprs.traced(network, widths).jaxpr))


# Networks of one builder are one at different depths; the default form takes the smallest.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "cnn" else pytest.mark.exhaustive)
        for name in {e.build: n for n, e in reversed(nets.NETWORKS.items()) if "images" in e.takes}.values()
    ],
)
def test_xla_counts_the_same_training_step(name):
    """Within 5 %, once what XLA leaves out and what it adds is known.

    XLA leaves out products with padding (at 224x224 they are 8 % of AlexNet's and 8 % of ResNet-18's), so they are left
    out here too: counted / XLA's is then 0.97 to 1.00, and it counts elementwise work, which is the rest: 3 % of
    MobileNetV1's step, 8 % of MobileNetV2's, whose many wide layers do little else, 6 % of the small vision
    transformer's, for softmax and LayerNorm, and 5 % of ShuffleNetV2's and of the MLP's. The program is XLA's before
    the CPU compiler rewrites depthwise gradients into dense convolutions with zeros.
    """
    shape, batch = (224, 224, 3), 32
    network = nets.build(NetConfig(name=name), shape, 10)
    widths = tuple(network.widths.values())
    local = make_local(network, widths, TrainConfig())
    state = jax.eval_shape(local.init, network.abstract(widths))
    images, labels = (jax.ShapeDtypeStruct(s, t) for s, t in (((batch, *shape), jnp.float32), ((batch,), jnp.int32)))
    lowered = jax.jit(local.step).lower(state, images, labels, jnp.float32(0.1), jax.random.key(0))
    macs = training_macs.training_layer_macs(network, widths)
    products = 2 * batch * sum(m * s for m, s in zip(macs, without_padding(network, widths), strict=True))
    elementwise = 1 - products / lowered.cost_analysis()["flops"]
    assert 0 <= elementwise < {"mobilenet_v2": 0.08, "vit": 0.06, "shufflenet_v2": 0.06, "mlp": 0.06}.get(name, 0.05)


def test_an_lstm_computes_each_product_three_times():
    """Forward, to its inputs and to its weights, in every step; XLA counts a loop's body once. The embedding trains."""
    widths = (4, 6, 8)
    network = nets.build(NetConfig("lstm", widths=widths), (5,), 3, 11)
    table = training_macs.training_table(probing.probe(network, (1,), check=False))
    assert table(widths) == 3 * jaxprs.count_macs(network, widths)
