"""`fednas verify`: whether runs' folders are what the runs wrote."""

from __future__ import annotations

from fednas_jax.cli.parsing import parse_runs


def run(args: list[str]) -> int:
    """Runs `fednas verify` with these arguments and returns the exit code."""
    folders = parse_runs(args, "verify")
    from fednas_jax.run.verifying import verify_run

    for folder in folders:
        found = verify_run(folder)
        for step, reason in found.refused:
            print(f"{folder}: checkpoint {step} cannot be believed, the one before it is taken: {reason}")
        if found.finished:
            print(f"{folder}: finished; {found.files:,} files, {found.bytes:,} bytes, all as the run wrote them")
        elif found.step is None:
            print(f"{folder}: not finished; no checkpoint yet, it would begin anew")
        else:
            print(f"{folder}: not finished; goes on from checkpoint {found.step}, {found.files:,} files as written")
    return 0
