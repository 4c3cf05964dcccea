"""`fednas report`: pages, figures and tables of finished runs and sweeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from fednas_jax.cli.parsing import parse
from fednas_jax.errors import ConfigError
from fednas_jax.files import make_folder
from fednas_jax.runtime.terminal import plain

if TYPE_CHECKING:
    from fednas_jax.report.template import Page


@dataclasses.dataclass(frozen=True)
class ReportArgs:
    """Write one self-contained page, its figures as SVG and PDF, and tables. Prints where page and tables are."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of finished runs, or one of a sweep."""
    out: Path | None = None
    """Folder for the page, figures and tables. By default that of the run or sweep; for several runs, 'report'."""
    latex: bool = False
    """Write the tables as OUT/tables/*.tex too (booktabs)."""
    markdown: bool = False
    """Write the tables as OUT/tables/*.md too."""
    csv: bool = False
    """Write the tables as OUT/tables/*.csv too."""
    tensorboard: Path | None = None
    """Folder for TensorBoard's events of the runs: scalars and hparams (pip install 'fednas-jax[tensorboard]')."""
    pdf: bool = True
    """Write figures as PDF beside SVG, which takes as long as all the rest."""


def run(args: list[str]) -> int:
    """Runs `fednas report` with these arguments and returns the exit code."""
    parsed: ReportArgs = parse(ReportArgs, args, "fednas report")
    if not parsed.runs:
        raise ConfigError("report: got no run, want at least one finished run's folder, or a sweep's")
    from fednas_jax.report import exporting, page

    if parsed.tensorboard is not None:
        from fednas_jax.report import tensorboard

        tensorboard.check()
    made, runs, folder = _page(parsed.runs)
    out = folder if parsed.out is None else parsed.out
    if out != folder or len(parsed.runs) > 1:
        make_folder(out)
    written = [page.write(out, made, parsed.pdf)]
    for form in ("latex", "markdown", "csv"):
        if getattr(parsed, form):
            written += exporting.write_tables(out, made.tables, form)
    if parsed.tensorboard is not None:
        make_folder(parsed.tensorboard, "--tensorboard")
        written += [tensorboard.write(each, parsed.tensorboard) for each in runs]
    for path in written:
        print(plain(path))
    return 0


def _page(paths: tuple[Path, ...]) -> tuple[Page, tuple[Path, ...], Path]:
    """What is said of them, the finished runs among them, and where it goes."""
    from fednas_jax.report import comparison_page, page, sweep_page
    from fednas_jax.run.finished import load_run

    sweeps = [path for path in paths if (path / "sweep.json").exists()]
    if sweeps and len(paths) > 1:
        raise ConfigError(f"report: got {len(paths)} folders and a sweep among them, {sweeps[0]}, want it alone")
    if sweeps:
        made, finished = sweep_page.of_sweep(paths[0])
        return made, finished, paths[0]
    if len(paths) > 1:
        return comparison_page.of_runs(paths), paths, Path("report")
    return page.of_run(load_run(paths[0])), paths, paths[0]
