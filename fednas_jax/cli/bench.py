"""`fednas bench`: measures this machine."""

from __future__ import annotations

from fednas_jax.cli.parsing import parse, terminal


def run(args: list[str]) -> int:
    """Runs `fednas bench` with these arguments and returns the exit code."""
    from fednas_jax.bench import options

    parsed = parse(options.BenchOptions, args, "fednas bench")
    options.check(parsed)  # a mistake is answered before jax is imported
    from fednas_jax.bench.run import run_bench

    run_bench(parsed, terminal())
    return 0
