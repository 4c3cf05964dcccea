"""Methods over seeds: means with intervals, and how each method differs from a baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fednas_jax.config.files import to_json
from fednas_jax.phones import ledger
from fednas_jax.report import comparing, statistics
from fednas_jax.report.statistics import Estimate
from fednas_jax.run.finished import RATIOS, Run, at_ratio
from fednas_jax.sweep.planning import leaves

_MOST_NAME = 60  # characters


class Method(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Run, ...]

    def by_seed(self, value: Callable[[Run], float | None]) -> dict[int, float]:
        """A value of each run that has it, by seed."""
        found = {run.result["seed"]: value(run) for run in self.runs}
        return {seed: each for seed, each in found.items() if each is not None}


class Contrast(NamedTuple):
    """What a method reaches and costs, and how it differs from the baseline."""

    method: Method
    parent: Estimate | None  # test accuracy
    accuracy: Mapping[float, Estimate | None]  # of the largest network within each of RATIOS of the parent's MACs
    gain: Mapping[float, Estimate | None]  # less the baseline's, paired by seed
    search: Estimate  # seconds of an average client
    whole: Estimate  # likewise, of all stages
    cheaper: Estimate | None  # times: the baseline's search seconds by this one's


def methods(runs: Sequence[Run]) -> list[Method]:
    """The runs by what they share but for the seed; methods of one name are told apart by the fields that differ."""
    groups = comparing.alike(runs)
    names = [group[0].result["method"] for _, group in groups]
    flat = [leaves(to_json(config)) for config, _ in groups]
    found = []
    for name, (_, group), mine in zip(names, groups, flat, strict=True):
        others = [other for other, theirs in zip(flat, names, strict=True) if theirs == name]
        differ = [field for field in mine if any(other.get(field) != mine[field] for other in others)]
        more = ", ".join(f"{field.rpartition('.')[2]} {_short(mine[field])}" for field in differ)
        whole = f"{name}, {more}" if more else name
        found.append(Method(whole if len(whole) <= _MOST_NAME else f"{whole[:_MOST_NAME]}...", tuple(group)))
    return found


def _short(value: object) -> object:
    """A path by its last part, since names are cut."""
    return Path(value).name if isinstance(value, str) and "/" in value else value


def baseline(found: Sequence[Method]) -> Method:
    """The straightforward design where it is there, else the one whose search costs most."""
    naive = [m for m in found if m.runs[0].result["method"] == "naive"]
    return naive[0] if naive else max(found, key=lambda m: statistics.mean(list(m.by_seed(search).values())).value)


def contrast(method: Method, against: Method) -> Contrast:
    """A method beside the baseline."""

    def accuracy(ratio: float) -> Callable[[Run], float | None]:
        return lambda run: (at_ratio(run.result, ratio) or {}).get("test_accuracy")

    def average(value: Callable[[Run], float | None]) -> Estimate | None:
        values = list(method.by_seed(value).values())
        return statistics.mean(values) if values else None

    own = method is against
    return Contrast(
        method,
        average(lambda run: run.result["parent"]["test_accuracy"]),
        {ratio: average(accuracy(ratio)) for ratio in RATIOS},
        {
            ratio: None if own else statistics.difference(*(m.by_seed(accuracy(ratio)) for m in (method, against)))
            for ratio in RATIOS
        },
        statistics.mean(list(method.by_seed(search).values())),
        statistics.mean(list(method.by_seed(whole).values())),
        None if own else statistics.ratio(against.by_seed(search), method.by_seed(search)),
    )


def search(run: Run) -> float:
    """Seconds of an average client in the search."""
    return float(run.result["client_cost"]["search"]["seconds"]["mean"])


def whole(run: Run) -> float:
    """Seconds of an average client in all stages."""
    return float(run.result["client_cost"]["all"]["seconds"]["mean"])


def stages(method: Method) -> dict[str, float]:
    """Seconds of an average client by stage, the mean over runs."""
    return {
        stage: statistics.mean([run.result["client_cost"][stage]["seconds"]["mean"] for run in method.runs]).value
        for stage in ledger.STAGES
    }


def phases(method: Method) -> dict[str, float]:
    """Seconds of an average client in the search by phase, the mean over runs; raises as `Run.ledger`."""
    return {
        phase: statistics.mean([run.phases[phase] / run.result["clients"] for run in method.runs]).value
        for phase in ledger.PHASES
    }
