"""Each core becomes a device, unless the user said otherwise or jax is in use."""

import os
import subprocess
import sys

import pytest

from fednas_jax.runtime import cores

COUNT = "import jax; from fednas_jax.runtime import cores; {}cores.use_all_cores(); print(len(jax.devices('cpu')))"


def devices(code, **environment):
    """What a fresh process, without the tests' eight fake devices, counts."""
    clean = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    command = [sys.executable, "-c", code]
    return int(subprocess.run(command, env=clean | environment, capture_output=True, check=True, text=True).stdout)


def test_each_core_is_a_device():
    assert devices(COUNT.format("")) == min(cores.number(), cores.MOST_DEVICES)


def test_a_machine_of_many_cores_has_eight():
    assert devices(COUNT.format("cores.number = lambda: 64; ")) == 8


@pytest.mark.parametrize(
    "environment", [{"JAX_NUM_CPU_DEVICES": "3"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}], ids=str
)
def test_what_the_user_said_stays(environment):
    assert devices(COUNT.format(""), **environment) == 3


def test_where_jax_is_in_use_nothing_changes():
    assert devices(COUNT.format("jax.devices(); ")) == 1
