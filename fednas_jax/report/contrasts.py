"""Methods over seeds: means with intervals, and how each method differs from a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.phones import ledger
from fednas_jax.report import statistics, wording
from fednas_jax.report.statistics import Estimate
from fednas_jax.run.finished import RATIOS, Run, at_ratio
from fednas_jax.sweep.planning import leaves

_MOST_NAME = 60  # characters


class Method(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Run, ...]

    def by_seed(self, value: Callable[[Run], float | None]) -> dict[int, float]:
        """A value of each run that has it, by seed; of one that ran repeatedly the mean, for it is no other seed."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            each = value(run)
            if each is not None:
                found.setdefault(run.result["seed"], []).append(each)
        return {seed: sum(values) / len(values) for seed, values in found.items()}

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len({run.result["seed"] for run in self.runs})


class Contrast(NamedTuple):
    """What a method reaches and costs, and how it differs from the baseline."""

    method: Method
    parent: Estimate | None  # test accuracy
    accuracy: Mapping[float, Estimate | None]  # of the largest network within each of RATIOS of the parent's MACs
    gain: Mapping[float, Estimate | None]  # less the baseline's, paired by seed
    pairs: Mapping[float, int]  # that each gain is of; 0 where no seed has both
    search: Estimate  # seconds of an average client
    whole: Estimate  # likewise, of all stages
    cheaper: Estimate | None  # times: the baseline's search seconds by this one's
    searched: int  # pairs that `cheaper` is of


def methods(runs: Sequence[Run]) -> list[Method]:
    """The runs by what they share but for the seed; methods of one name are told apart by the fields that differ."""
    groups = alike(runs)
    names = [group[0].result["method"] for _, group in groups]
    flat = [leaves(to_json(config)) for config, _ in groups]
    found: list[Method] = []
    for name, (_, group), mine in zip(names, groups, flat, strict=True):
        others = [other for other, theirs in zip(flat, names, strict=True) if theirs == name]
        differ = [field for field in mine if any(other.get(field) != mine[field] for other in others)]
        last = [field.rpartition(".")[2] for field in differ]
        said = [field if last.count(end) > 1 else end for field, end in zip(differ, last, strict=True)]
        whole = ", ".join([name, *(f"{end} {_short(mine[field])}" for field, end in zip(differ, said, strict=True))])
        shown = whole if len(whole) <= _MOST_NAME else f"{whole[:_MOST_NAME]}..."
        same = sum(method.name.partition(" (")[0] == shown for method in found)  # told apart by what was cut off
        found.append(Method(f"{shown} ({same + 1})" if same else shown, tuple(group)))
    return found


def alike(runs: Sequence[Run]) -> list[tuple[Config, list[Run]]]:
    """Runs that differ in nothing but their seed, and the config that they share, of seed 0.

    Where every seed has a parent to itself, whatever else differs, the parent belongs to the seed, and the config has
    none.
    """
    own = statistics.of_seed((run.config.seed, run.config.parent) for run in runs)
    groups: dict[Config, list[Run]] = {}
    for run in runs:
        shared = dataclasses.replace(run.config, seed=0)
        groups.setdefault(dataclasses.replace(shared, parent=None) if own else shared, []).append(run)
    return list(groups.items())


def _short(value: object) -> str:
    """A path by its last part, since names are cut."""
    return Path(value).name if isinstance(value, str) and "/" in value else wording.value(value)


def baseline(found: Sequence[Method]) -> Method:
    """The straightforward design where it is there, else the one whose search costs most."""
    naive = [m for m in found if m.runs[0].result["method"] == "naive"]
    return naive[0] if naive else max(found, key=lambda m: mean(m, search).value)


def contrast(method: Method, against: Method) -> Contrast:
    """A method beside the baseline."""

    def average(value: Callable[[Run], float | None]) -> Estimate | None:
        values = list(method.by_seed(value).values())
        return statistics.mean(values) if values else None

    own = method is against
    reached = {ratio: (method.by_seed(accuracy(ratio)), against.by_seed(accuracy(ratio))) for ratio in RATIOS}
    spent = (against.by_seed(search), method.by_seed(search))
    return Contrast(
        method,
        average(parent),
        {ratio: average(accuracy(ratio)) for ratio in RATIOS},
        {ratio: None if own else statistics.difference(*both) for ratio, both in reached.items()},
        {ratio: len(mine.keys() & theirs.keys()) for ratio, (mine, theirs) in reached.items()},
        mean(method, search),
        mean(method, whole),
        None if own else statistics.ratio(*spent),
        len(spent[0].keys() & spent[1].keys()),
    )


def mean(method: Method, value: Callable[[Run], float]) -> Estimate:
    """The mean over seeds of a value that every run has."""
    return statistics.mean(list(method.by_seed(value).values()))


def accuracy(ratio: float) -> Callable[[Run], float | None]:
    """Test accuracy of a run's largest tested network within a share of its parent's MACs."""
    return lambda run: (at_ratio(run.result, ratio) or {}).get("test_accuracy")


def parent(run: Run) -> float | None:
    """Test accuracy of the parent; None where it was not tested."""
    found: float | None = run.result["parent"]["test_accuracy"]
    return found


def search(run: Run) -> float:
    """Seconds of an average client in the search."""
    return float(run.result["client_cost"]["search"]["seconds"]["mean"])


def whole(run: Run) -> float:
    """Seconds of an average client in all stages."""
    return float(run.result["client_cost"]["all"]["seconds"]["mean"])


def stages(method: Method) -> dict[str, float]:
    """Seconds of an average client by stage, the mean over seeds."""

    def spent(stage: str) -> Callable[[Run], float]:
        return lambda run: float(run.result["client_cost"][stage]["seconds"]["mean"])

    return {stage: mean(method, spent(stage)).value for stage in ledger.STAGES}


def phases(method: Method) -> dict[str, float]:
    """Seconds of an average client in the search by phase, the mean over seeds; raises as `Run.ledger`."""

    def spent(phase: str) -> Callable[[Run], float]:
        return lambda run: run.phases[phase] / run.result["clients"]

    return {phase: mean(method, spent(phase)).value for phase in ledger.PHASES}
