"""`fednas compare`: runs side by side."""

from __future__ import annotations

from fednas_jax.cli.parsing import parse_runs, terminal


def run(args: list[str]) -> int:
    """Runs `fednas compare` with these arguments and returns the exit code."""
    runs = parse_runs(args, "compare")
    from fednas_jax.report.comparing import print_comparison

    print_comparison(terminal(), runs)
    return 0
