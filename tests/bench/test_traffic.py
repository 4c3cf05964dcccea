"""What a compiled step reads and writes: counted by hand for a text, and bounded for the programs that train."""

import dataclasses

import jax
import numpy as np
import pytest

from fednas_jax import nets
from fednas_jax.bench import passes
from fednas_jax.bench.rounds import Federation, FleetRounds
from fednas_jax.bench.traffic import step_traffic
from fednas_jax.bench.workloads import WORKLOADS, Sizes
from fednas_jax.config.schema import EngineConfig, NetConfig, TrainConfig
from fednas_jax.engine.lane_steps import compiled_steps

LANES = 4
WIDTHS = (2, 3, 44)
DENSE = LANES * 2 * 2 * 3 * 44  # the dense layer's weights; nothing else is a multiple of 11
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "proximal": 0.0}

TEXT = """HloModule step, is_scheduled=true

%inside (p0: f32[8,10], p1: s32[], p2: f32[1,10]) -> (f32[1,10], f32[8,10]) {
  %p0 = f32[8,10]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,10]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,10}
  %p2 = f32[1,10]{1,0} parameter(2)
  %sum = f32[1,10]{1,0} add(%row, %p2)
  %updated = f32[8,10]{1,0} dynamic-update-slice(%p0, %sum, %p1, %zero)
  ROOT %both = (f32[1,10]{1,0}, f32[8,10]{1,0}) tuple(%sum, %updated)
}

%called (c: bf16[3,4]) -> bf16[3,4] {
  %c = bf16[3,4]{1,0} parameter(0)
  ROOT %copied = bf16[3,4]{1,0} copy(%c)
}

body (arg: (s32[], f32[8,10], f32[10,10], bf16[3,4])) -> (s32[], f32[8,10], f32[10,10], bf16[3,4]) {
  arg = (s32[], f32[8,10]{1,0}, f32[10,10]{1,0}, /*index=3*/bf16[3,4]{1,0}) parameter(0)
  t = s32[] get-tuple-element(arg), index=0
  rows = f32[8,10]{1,0} get-tuple-element(arg), index=1
  weights = f32[10,10]{1,0} get-tuple-element(arg), index=2
  small = bf16[3,4]{1,0} get-tuple-element(arg), index=3
  one = f32[1,10]{1,0} slice(rows), slice={[0:1], [0:10]}
  product = (f32[1,10]{1,0}, s8[1000]{0}) custom-call(f32[1,10]{1,0} one, f32[10,10]{1,0} weights), \
custom_call_target="__cublas$gemm"
  out = f32[1,10]{1,0} get-tuple-element(product), index=0
  fused = (f32[1,10]{1,0}, f32[8,10]{1,0}) fusion(rows, t, out), kind=kLoop, calls=%inside
  new = f32[8,10]{1,0} get-tuple-element(fused), index=1
  again = bf16[3,4]{1,0} call(small), to_apply=%called
  ROOT result = (s32[], f32[8,10]{1,0}, f32[10,10]{1,0}, bf16[3,4]{1,0}) tuple(t, new, weights, again)
}

ENTRY main (a: (s32[], f32[8,10], f32[10,10], bf16[3,4])) -> f32[8,10] {
  a = (s32[], f32[8,10]{1,0}, f32[10,10]{1,0}, bf16[3,4]{1,0}) parameter(0)
  loop = (s32[], f32[8,10]{1,0}, f32[10,10]{1,0}, bf16[3,4]{1,0}) while(a), condition=%cond, body=%body
  ROOT last = f32[8,10]{1,0} get-tuple-element(loop), index=1
}
"""


def test_slices_are_moved_where_slices_are_taken_and_wholes_elsewhere():
    found = step_traffic(TEXT)
    moved = [(a.instruction, a.array.elements, a.bytes, a.written) for a in found.accesses]
    assert moved == [
        ("one", 80, 40, False),  # one row of eight
        ("one", 10, 40, True),
        ("product", 10, 40, False),
        ("product", 100, 400, False),
        ("product", 10, 40, True),  # and not the library's room to work in
        ("fused", 80, 40, False),  # a row is read, and updated in place
        ("fused", 1, 4, False),
        ("fused", 10, 40, False),
        ("fused", 10, 40, True),
        ("fused", 80, 40, True),
        ("copied", 12, 24, False),  # of what is called
        ("copied", 12, 24, True),
    ]
    assert found.bytes == sum(bytes_ for _, _, bytes_, _ in moved)
    assert found.passes(100) == (1, 0)
    assert found.passes(12, "bf16") == (1, 1)
    assert found.passes(12, "f32") == (0, 0)


def test_a_text_without_a_loop_of_products_is_refused():
    with pytest.raises(ValueError, match="got no loop with a matrix product"):
        step_traffic(TEXT.replace("__cublas$gemm", "something"))


def step(**changed):
    """Of a loop of steps alone, on a CPU."""
    config = TrainConfig(batch_size=5, **PLAIN | changed)
    network = nets.build(NetConfig("cnn", WIDTHS), (8, 8, 1), 10)
    return step_traffic(compiled_steps(network, config, jax.devices()[0], LANES).run.as_text())


@pytest.fixture(scope="module")
def plain():
    return step()


# Forward and the gradient to the input each read the weights, and the gradient is written. A CPU's products do not add
# to what is there, so the update reads the gradient and the weights, and writes the weights.
LEAST_READ, LEAST_WRITTEN = 2 + 2, 1 + 1


def test_plain_sgd_passes_over_the_weights_no_more_often_than_it_must(plain):
    assert plain.passes(DENSE) == (LEAST_READ, LEAST_WRITTEN)


def test_lanes_without_work_add_no_pass(plain):
    """In the fleet's program: two lanes end before the others."""
    workload = dataclasses.replace(
        WORKLOADS["fedavg-round"],
        net=NetConfig("cnn", WIDTHS),
        shape=(8, 8, 1),
        train=TrainConfig(batch_size=5, **PLAIN),
        sizes=Sizes(5, 40),
    )
    work = FleetRounds(Federation(workload, 6, 0), EngineConfig(lanes=LANES), jax.devices()[:1])
    work()
    assert work.effort.steps < work.effort.lane_steps
    (program,) = (program for key, program in work.fleet.compiled.kept.items() if key[0] == "round")
    found = step_traffic(program.as_text())
    assert found.passes(DENSE) == plain.passes(DENSE)
    # Beyond the step that is measured alone: images are picked and brought to floats, and the tables are read.
    assert found.bytes < 1.1 * plain.bytes


@pytest.mark.parametrize(
    ("changed", "read", "written"),
    [
        # A CPU has no fusion of two results, so the weights' and the momentum's updates each read what they need.
        ({"momentum": 0.9}, 3, 1),
        pytest.param({"momentum": 0.9, "weight_decay": 1e-3}, 3, 1, marks=pytest.mark.exhaustive),
        ({"momentum": 0.9, "weight_decay": 1e-3, "proximal": 0.1}, 4, 1),  # the round's start is one more to read
    ],
)
def test_what_an_optimiser_remembers_costs_no_more_than_its_own_passes(changed, read, written):
    found = step(**changed).passes(DENSE)
    assert found.read <= LEAST_READ + read
    assert found.written <= LEAST_WRITTEN + written


def test_bfloat16_is_rounded_once_and_read_as_it_is_carried(plain):
    found = step(precision="bfloat16")
    rounded = found.passes(DENSE, "bf16")
    assert rounded.written == 1
    # A CPU multiplies float32 alone. Some versions of XLA make it of bfloat16 once for both products, which is one more
    # read and written; others in each product.
    assert rounded.read <= 2
    assert (np.subtract(found.passes(DENSE, "f32"), plain.passes(DENSE)) <= 1).all()


def test_the_table_says_bytes_and_passes_and_refuses_what_there_is_not(capsys, monkeypatch):
    tiny = dataclasses.replace(WORKLOADS["fedavg-round"], net=NetConfig("cnn", WIDTHS), shape=(8, 8, 1))
    monkeypatch.setattr(passes, "WORKLOADS", {"tiny": tiny})
    assert passes.main(["tiny", "--lanes", str(LANES)]) == 0
    row = capsys.readouterr().out.split("tiny")[1].split()
    assert row[:2] == ["rows", "float32"]
    assert row[4:8] == [str(LEAST_READ), str(LEAST_WRITTEN), "0", "0"]
    assert float(row[8]) > 0  # seconds
    for wrong, message in (
        (["none"], "got none, want"),
        (["tiny", "--lanes", "0"], "want at least 1"),
        (["tiny", "--lowerings", "fused"], "--lowerings: got fused on a cpu, want some of rows, patches"),
        (["tiny", "--target", __file__], "want a GPU's description, and jax's CUDA plugin"),
    ):
        with pytest.raises(SystemExit, match="2"):
            passes.main(wrong)
        assert message in capsys.readouterr().err
