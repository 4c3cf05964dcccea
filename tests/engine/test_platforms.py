"""Every lowering trains the same round, and the fleet's programs lower for accelerators that are not at hand."""

import jax
import pytest
from flax import nnx
from jax import export
from rounds import TASKS, assert_close, fleet, stacked, with_config

from fednas_jax.errors import ConfigError
from fednas_jax.nets import from_nnx, lowerings
from fednas_jax.nets.pool import max_pool

PLATFORMS = ("cuda", "tpu")
TRITON = "__gpu$xla.gpu.triton"  # the call that a Pallas kernel becomes
NARROW = (4, 4)
OLD_TRITON = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="jax lowers Pallas kernels for the GPU of a mesh, and here it is of CPUs"
)


class Convolutions(nnx.Module):
    """A convolution of one channel, one of several, unfolded along its rows, and a depthwise one."""

    def __init__(self, widths, rngs):
        a, b = widths["first"], widths["second"]
        self.first = nnx.Conv(1, a, (3, 3), rngs=rngs)
        self.second = nnx.Conv(a, b, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(b, b, (3, 3), strides=2, feature_group_count=b, rngs=rngs)
        self.classifier = nnx.Linear(4 * b, 10, rngs=rngs)

    def __call__(self, x):
        x = max_pool(nnx.relu(self.first(x)))
        x = nnx.relu(self.depthwise(nnx.relu(self.second(x))))
        return self.classifier(x.reshape(x.shape[0], -1))


@pytest.fixture(scope="module")
def network():
    return from_nnx("convolutions", Convolutions, {"first": 4, "second": 4}, (8, 8, 1))


@pytest.fixture(scope="module")
def candidates(network):
    return [jax.device_get(network.init(NARROW, jax.random.key(k))) for k in range(3)]


def trained_and_scored(engine, candidates):
    stack = stacked(candidates)
    trained = engine.train(NARROW, stack, engine.init_server(stack), TASKS, (3, 2, 1), [7, 0, 5], 0.05).stack
    return jax.device_get(trained), engine.evaluate(NARROW, trained, TASKS)._replace(effort=None)


@pytest.fixture(scope="module")
def default(network, dataset, packed, candidates):
    """A round and its score with the default lowering, and the shapes of what each program was called with."""
    engine = fleet(network, dataset, packed, 3, 1)
    call, shapes = engine.compiled.call, {}

    def recorded(kind, size, effort, *args):
        shapes[kind] = size, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), args)
        return call(kind, size, effort, *args)

    engine.compiled.call = recorded
    return trained_and_scored(engine, candidates), shapes


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "patches" else pytest.mark.exhaustive)
        for name in lowerings.offered("cpu")
        if name != lowerings.DEFAULT
    ],
)
def test_no_lowering_changes_a_round_beyond_the_order_of_sums(network, dataset, packed, candidates, default, name):
    engine = fleet(network, dataset, packed, 3, 1, lowering=name)
    assert_close(trained_and_scored(engine, candidates), default[0])
    texts = [engine.compiled.kept[key].as_text() for key in engine.compiled.kept if key[0] == "round"]
    assert all(("convolution(" in text) == (name == "grouped") for text in texts)


def test_a_cpu_takes_the_default_lowering(network, dataset, packed):
    assert fleet(network, dataset, packed, 3, 1).lowering == lowerings.DEFAULT
    assert fleet(network, dataset, packed, 3, 1, lowering="shifts").lowering == "shifts"


def test_what_is_made_for_another_platform_is_refused(network, dataset, packed):
    with pytest.raises(ConfigError, match=r"engine.lowering: got fused on a cpu, want one of auto, rows, .*grouped$"):
        fleet(network, dataset, packed, 3, 1, lowering="fused")


@pytest.fixture(scope="module")
def exported(network, dataset, packed, default):
    """A program of the fleet, lowered for every platform that has the lowering."""

    def export_it(name, precision, kind):
        size, shapes = default[1][kind]
        engine = fleet(network, dataset, packed, 3, 1, with_config(precision=precision))
        platforms = PLATFORMS if name in lowerings.offered("cpu") else ("cuda",)
        unchecked = [export.DisabledSafetyCheck.custom_call(TRITON)]  # its format may change with jax's version
        with lowerings.using(name):
            program = jax.jit(engine.compiled.function(kind, size))
            return export.export(program, platforms=platforms, disabled_checks=unchecked)(*shapes), platforms

    return export_it


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", [*lowerings.offered("cpu"), pytest.param("fused", marks=OLD_TRITON)])
@pytest.mark.parametrize("kind", ["round", "scored"])
def test_programs_lower_for_every_platform(exported, name, precision, kind):
    program, platforms = exported(name, precision, kind)
    assert program.platforms == platforms
    text = program.mlir_module()
    assert "stablehlo.while" in text
    assert ("stablehlo.convolution" in text) == (name == "grouped")
    assert (TRITON in text) == (name == "fused")
    assert ("bf16" in text) == (precision == "bfloat16")
