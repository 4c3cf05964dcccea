"""Runs side by side: accuracy at equal MACs, client cost of the search, its ratio, its phases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from fednas_jax import data
from fednas_jax.config.schema import DataConfig
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger
from fednas_jax.report import contrasts, draw, statistics, wording
from fednas_jax.report.contrasts import Method
from fednas_jax.run.finished import RATIOS, Run, at_ratio, load_run, members

# Where data lies, and what says which it is: a fingerprint says that better, where both runs have one.
_PLACES = ("root", "folder")
_WHICH = ("source", "image_size", "image_feature", "label_feature", "client_feature", "test_split")


OF_ITS_OWN = (
    "shares are of each run's own parent, so networks within one share differ in size; on the paper's phones "
    "(cost.population=paper) seconds do too, since any parent takes as long there."
)


class Line(NamedTuple):
    """One run, or the mean of runs that differ in their seed alone."""

    name: str
    runs: tuple[Path, ...]
    parent: float | None  # test accuracy; None where not every run tested its parent
    accuracy: dict[float, float | None]  # of the largest tested network within each of RATIOS of the parent's MACs
    client_seconds: float  # that the search takes of an average client
    cheaper: float | None  # times, than what is compared against; None where a search took nothing
    phases: dict[str, float]  # client_seconds by phase


class Comparison(NamedTuple):
    """Runs side by side."""

    against: str  # the method whose client seconds `cheaper` divides
    lines: tuple[Line, ...]
    notes: tuple[str, ...]  # what had to be taken on trust, and where a smaller network stands for another


def compare(paths: Sequence[Path | str]) -> Comparison:
    """Reads finished runs of one data set, and puts them side by side; writes and prints nothing.

    Runs that differ in nothing but their seed are also averaged, over seeds. Ratios are against the straightforward
    design (`naive`) where it is among the runs, else against the method whose search costs most: the geometric mean
    over the seeds that both have, else of the means.

    Args:
      paths: the runs' folders, at least one.

    Raises:
      RunError: as `load_run`; or the runs' data, its division among clients, or their metric differ: names the fields.
    """
    runs, notes = read(paths, "compare")
    methods = contrasts.methods(runs)
    against = contrasts.baseline(methods)
    named = {run.path: method.name for method in methods for run in method.runs}
    lines = [Method(f"{named[run.path]}, seed {run.result['seed']} ({run.path.name})", (run,)) for run in runs]
    lines += [Method(f"{m.name}, mean of {len(m.runs)} runs", m.runs) for m in methods if len(m.runs) > 1]
    return Comparison(against.name, tuple(_line(each, against) for each in lines), notes)


def print_comparison(console: Console, paths: Sequence[Path]) -> None:
    """Prints what `compare` finds; raises as it does."""
    found = compare(paths)
    accuracy = [
        [
            line.name,
            *("-" if value is None else f"{value:.4f}" for value in (line.parent, *line.accuracy.values())),
            f"{line.client_seconds:,.1f}",
            "-" if line.cheaper is None else wording.digits(line.cheaper),
        ]
        for line in found.lines
    ]
    phases = [[line.name, *(f"{seconds:,.1f}" for seconds in line.phases.values())] for line in found.lines]
    header = ("run", "parent", *(f"{100 * r:.0f} % MACs" for r in RATIOS), "s per client", "cheaper")
    title = "Test accuracy at equal MACs, and client seconds of the search"
    console.print(draw.table(title, header, accuracy, fold=True))
    title = "Client seconds of the search by phase, mean per client"
    console.print(draw.table(title, ("run", *ledger.PHASES), phases, fold=True))
    draw.say(console, f"cheaper: times, than {found.against}")
    for note in found.notes:
        draw.say(console, note)


def _line(method: Method, against: Method) -> Line:
    cheaper = statistics.ratio(*(m.by_seed(contrasts.search) for m in (against, method)))
    return Line(
        method.name,
        tuple(run.path for run in method.runs),
        _mean_of_all(method, contrasts.parent),
        {ratio: _mean_of_all(method, contrasts.accuracy(ratio)) for ratio in RATIOS},
        contrasts.mean(method, contrasts.search).value,
        None if cheaper is None else cheaper.value,
        contrasts.phases(method),
    )


def _mean_of_all(method: Method, value: Callable[[Run], float | None]) -> float | None:
    """The mean over seeds; None where a run has no such value."""
    if any(value(run) is None for run in method.runs):
        return None
    return statistics.mean(list(method.by_seed(value).values())).value


def read(paths: Sequence[Path | str], command: str) -> tuple[list[Run], tuple[str, ...]]:
    """Runs that can be compared, each once, and what is to be said of them (`Comparison.notes`).

    Args:
      paths: the runs' folders.
      command: that is to compare them, for the message.

    Raises:
      RunError: as `compare`.
    """
    runs = [load_run(path) for path in {Path(path).resolve(): Path(path) for path in paths}.values()]
    if not runs:
        raise RunError(f"{command}: got no run, want at least one")
    return runs, (*_check_comparable(runs, command), *_of_other_sizes(runs), *_smaller(runs))


def _check_comparable(runs: Sequence[Run], command: str) -> tuple[str, ...]:
    """Refuses runs whose accuracies are of different things; says which runs it had to take at their word."""
    of_seed: dict[int, Run] = {}
    for run in runs:
        # Of one seed data must be the same, where other seeds may have other data.
        for other in (runs[0], of_seed.setdefault(run.config.seed, run)):
            if differ := _differences(other, run):
                who = f"{other.path} and {run.path}"
                want = f"want the same: {who} differ in {'; '.join(differ)}"
                raise RunError(f"{command}: got runs of different data, {want}")
    old = [str(run.path) for run in runs if "data" not in run.result]
    if not old or len(runs) == 1:
        return ()
    what = "is" if len(old) == 1 else "are"
    return (f"{', '.join(old)} {what} of an older version, without a fingerprint of the data: configs were compared.",)


def _of_other_sizes(runs: Sequence[Run]) -> tuple[str, ...]:
    """Says where equal shares of the parents' MACs are no equal MACs."""
    sizes = {run.result["parent"]["macs"] for run in runs}
    if len(sizes) == 1:
        return ()
    return (f"Parents have {min(sizes):,} to {max(sizes):,} MACs: {OF_ITS_OWN}",)


def _smaller(runs: Sequence[Run]) -> tuple[str, ...]:
    """Says where the largest network within a share of the MACs was not tested, so that a smaller one stands for it."""
    found = []
    for ratio in RATIOS:
        tested = [(run.result, at_ratio(run.result, ratio)) for run in runs]
        count = sum(
            smaller is not None
            and any(smaller["macs"] < m["macs"] <= ratio * result["parent"]["macs"] for m in members(result))
            for result, smaller in tested
        )
        if count:
            found.append(f"{100 * ratio:.0f} % MACs in {count} of {len(runs)} runs")
    if not found:
        return ()
    return (f"Within {', '.join(found)} the largest network was not tested: the accuracy is a smaller one's.",)


def _differences(a: Run, b: Run) -> list[str]:
    """'field (value of a, value of b)' wherever two runs' data, division of it, or metric differ."""
    prints = [run.result.get("data", {}).get("fingerprint") for run in (a, b)]
    drawn = a.config.seed != b.config.seed and any(data.seeded(run.config.data.source) for run in (a, b))
    known = None not in prints and (prints[0] == prints[1] or not drawn)
    pairs = [
        (f"data.{field.name}", *(getattr(run.config.data, field.name) for run in (a, b)))
        for field in dataclasses.fields(DataConfig)
        if field.name not in _PLACES and not (known and field.name in _WHICH)
    ]
    pairs.append(("search.metric", a.config.search.metric, b.config.search.metric))
    if known and prints[0] != prints[1]:
        pairs.insert(0, ("the data set's fingerprint", *prints))
        pairs += [(f"data.{name}", *(getattr(run.config.data, name) for run in (a, b))) for name in _WHICH]
    return [f"{field} ({mine!a}, {theirs!a})" for field, mine, theirs in pairs if mine != theirs]
