"""Eight fake devices, asked for before jax is imported, one compilation cache, and hypothesis' profile."""

import gc
import os
import tempfile

from hypothesis import settings

# Tests compile much and run little: LLVM's optimisations are off, and what one test or another worker compiled is
# found again. pytest's workers inherit the environment of the process that set it up.
if "FEDNAS_TESTS" not in os.environ:
    os.environ["FEDNAS_TESTS"] = "1"
    _cache = tempfile.TemporaryDirectory(prefix="fednas-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["XDG_CACHE_HOME"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
    _flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
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


settings.register_profile("ci", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("ci")
