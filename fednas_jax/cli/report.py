"""`fednas report`: pages and figures of finished runs, drawn again."""

from __future__ import annotations

from fednas_jax.cli.parsing import parse_runs
from fednas_jax.runtime.terminal import plain


def run(args: list[str]) -> int:
    """Runs `fednas report` with these arguments and returns the exit code."""
    runs = parse_runs(args, "report")
    from fednas_jax.report.page import write_report

    for folder in runs:
        print(plain(write_report(folder)))
    return 0
