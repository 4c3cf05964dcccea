"""Eight fake devices, asked for before jax is imported, one compilation cache, and hypothesis' profile."""

import gc
import importlib.util
import mmap
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from fednas_jax.runtime import shelf


def known(flag):
    """Whether this jaxlib has a flag of XLA's: one that it does not know ends the process."""
    (folder,) = importlib.util.find_spec("jaxlib").submodule_search_locations
    for library in Path(folder).glob("libjax_common.*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
            return code.find(flag.encode()) >= 0
    return False


# Tests compile much and run little: LLVM's optimisations are off, and so are XLA's newer emitters of fused operations,
# which take two thirds of a compilation. What one test or another worker compiled is found again. pytest's workers
# inherit the environment of the process that set it up.
if "FEDNAS_TESTS" not in os.environ:
    os.environ["FEDNAS_TESTS"] = "1"
    _cache = tempfile.TemporaryDirectory(prefix="fednas-tests-")
    # Named by who runs the tests several times: the second time finds what the first compiled.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("FEDNAS_TESTS_PROGRAMS", _cache.name)
    os.environ["XDG_CACHE_HOME"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    _flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    if known("xla_cpu_use_fusion_emitters"):
        _flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flags}".strip()

# Tracing makes many objects and keeps them: to look for garbage among them as often as usual takes 6 % of the time.
gc.set_threshold(100_000, 50, 100)

# Files that take longest, in that order. They are begun first, so that at the end no worker waits for another.
LONGEST = (
    "test_fleet",
    "test_loop",
    "test_registry",
    "test_probing",
    "test_app",
    "test_plain",
    "test_replay",
    "test_aggregation",
    "test_policy_contract",
    "test_bench",
    "test_hosts",
    "test_bench_gpu",
    "test_damage",
    "test_reprice",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


# Directories whose tests share programs and data with those before them in the same worker, as a sweep's trials do.
# What a process of one run does is tested too: by all that start a process, and by what is marked `cold`.
WARM = ("cli", "engine", "reliability", "report", "run", "sweep")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    shelf._on = item.path.parent.name in WARM and item.get_closest_marker("cold") is None


settings.register_profile("ci", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("ci")
