"""Early dropping of trials: a trial is a candidate of the sweep, an iteration of its search a round of the policy.

Asynchronous successive halving [Li et al. 2018, arXiv 1810.05934] asks, whenever a trial comes to a rung, whether it is
among the best of those that have come so far; nobody waits. Here any elimination policy answers: it is played over the
scores of all trials that have reported any, and a trial goes on if the policy would still have it. A trial's score is
the validation score of its iteration's winner.

DIR/scores/NAME.json is what a trial has reported, and whether it was dropped; while it runs, only its worker writes it.
Reports of trials that the sweep file no longer has are put aside, in DIR/scores/left_out.
Letters: K trials, R iterations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import jax
import numpy as np

from fednas_jax import forms
from fednas_jax.config.schema import SearchConfig
from fednas_jax.errors import ConfigError
from fednas_jax.files import write_json
from fednas_jax.forms import Amount
from fednas_jax.run.folder import RunDir
from fednas_jax.run.session import saving
from fednas_jax.search.policies import Policy, compiled, policy_of

FOLDER, LEFT_OUT = "scores", "left_out"  # of a sweep, and of these


class Dropped(TypedDict):
    """A decision."""

    policy: str
    iteration: int  # after which
    place: int  # from 1, of those who had a score of this iteration
    trials: int  # these
    score: float | None
    wall_seconds: NotRequired[Amount]  # of this machine, in the process that it was dropped in


class Reported(TypedDict):
    """scores/NAME.json."""

    scores: list[float | None]  # of iterations 1, 2, ...
    ended: bool  # no more will come
    dropped: Dropped | None
    spared: bool  # goes on whatever the policy says: the user said so


NOTHING = Reported(scores=[], ended=False, dropped=None, spared=False)


class Verdict(NamedTuple):
    """Whether a trial goes on."""

    stays: bool
    place: int
    trials: int


def policy_named(text: str, trials: int, tried: bool = True) -> Policy:
    """The policy that drops trials, whose rungs count iterations.

    Args:
      text: as of `search.policy`.
      trials: K.
      tried: False where one of the user's own is not to be tried out, which would take a GPU.

    Raises:
      ConfigError: there is no such policy, or it cannot have so many.
    """
    search = SearchConfig(policy=text, early_dropping=True, dynamic_rounds=True, growth=0.0)
    try:
        policy = policy_of(search, tried)
        policy.table(1, trials)
    except ConfigError as error:
        raise ConfigError(f"drop: got {text!r}, want an elimination policy for {trials:,} trials: {error}") from None
    return policy


def verdict(policy: Policy, reports: Mapping[str, Reported], name: str) -> Verdict:
    """Whether a trial that has just reported goes on, by what is known now.

    The policy starts with as many candidates as have reported a score. Of an iteration that some of them have not come
    to yet, they count as worse than all who have; whoever has ended counts with its last score.

    Args:
      policy: whose rounds are iterations.
      reports: of every trial that has one, this one among them.
      name: the trial.
    """
    names = sorted(other for other, report in reports.items() if report["scores"])
    now, own = len(reports[name]["scores"]), names.index(name)
    scores = np.array([[_at(reports[other], r) for other in names] for r in range(now)], np.float32)  # [R, K]
    last = scores[-1]
    place = 1 + int(np.sum(last > last[own])) if np.isfinite(last[own]) else int(np.isfinite(last).sum()) + 1
    known = Verdict(True, place, int(np.isfinite(last).sum()))
    if len(names) == 1:
        return known
    try:
        table = policy.table(1, len(names))
    except ConfigError:  # too few trials yet for its rungs
        return known
    slots = max(16, 1 << (len(names) - 1).bit_length())  # few sizes, so that little is compiled
    state = policy.init(table, np.arange(slots) < len(names), np.zeros(slots, np.float32))
    for round_scores in np.pad(scores, ((0, 0), (0, slots - len(names))), constant_values=np.nan):
        if bool(policy.finished(state)):
            break
        state = policy.tell(state, round_scores)
    return known._replace(stays=bool(jax.device_get(state.alive)[own]))


def _at(report: Reported, iteration: int) -> float:
    """A trial's score of an iteration, counted from 0; NaN where there is none."""
    scores = report["scores"]
    if iteration >= len(scores) and not report["ended"]:
        return float("nan")
    value = scores[min(iteration, len(scores) - 1)]
    return float("nan") if value is None else value


def read(sweep: Path) -> dict[str, Reported]:
    """What every trial of a sweep's folder has reported.

    Raises:
      RunError: a file is damaged.
    """
    return {path.stem: forms.read(path, Reported) for path in _files(sweep / FOLDER)}


def reported(sweep: Path, name: str) -> Reported:
    """What one trial has reported; `NOTHING` where that is nothing."""
    path = _file(sweep, name)
    return forms.read(path, Reported) if path.exists() else NOTHING


def write(sweep: Path, name: str, report: Reported) -> None:
    """Keeps what a trial has reported."""
    path = _file(sweep, name)
    with saving(path):
        path.parent.mkdir(exist_ok=True)
        write_json(path, report)


def forget(sweep: Path, name: str) -> None:
    """Forgets a trial's report: it begins anew."""
    for path in (_file(sweep, name), sweep / FOLDER / LEFT_OUT / f"{name}.json"):
        path.unlink(missing_ok=True)


def count_only(sweep: Path, names: Collection[str]) -> None:
    """From now on these trials are compared, and no others; what others have reported counts when they are back."""
    here, aside = sweep / FOLDER, sweep / FOLDER / LEFT_OUT
    with saving(here):
        for path in [path for path in _files(aside) if path.stem in names]:
            path.replace(here / path.name)
        for path in [path for path in _files(here) if path.stem not in names]:
            aside.mkdir(exist_ok=True)
            path.replace(aside / path.name)


def catch_up(sweep: Path, name: str) -> None:
    """Reports what a finished trial found that nobody asked while it ran.

    Raises:
      RunError: its events are damaged.
    """
    if not _file(sweep, name).exists():
        scores, _ = _past(RunDir(sweep / "trials" / name))
        write(sweep, name, cast(Reported, {**NOTHING, "scores": scores, "ended": True}))


def spare(sweep: Path, name: str) -> None:
    """Lets a trial go on that was dropped, and never drops it again."""
    write(sweep, name, Reported(**{**reported(sweep, name), "dropped": None, "spared": True}))


def said(dropped: Dropped) -> str:
    """A decision in a line."""
    among = f"place {dropped['place']:,} of {dropped['trials']:,}"
    return f"dropped by {dropped['policy']} after iteration {dropped['iteration']}: {among}"


class Watch:
    """Follows one trial in its worker: reports its scores, and says when it is dropped.

    Args:
      run: the trial's run, DIR/trials/NAME.
      text: the policy's.
      worked: seconds that its process has worked on it.
    """

    def __init__(self, run: Path, text: str, worked: Callable[[], float]):
        self._run, self._text, self._worked = RunDir(run), text, worked
        self._sweep, self._name = run.parents[1], run.name
        self._report = reported(self._sweep, self._name)

    @property
    def dropped(self) -> bool:
        """Whether the trial is not to go on."""
        return self._report["dropped"] is not None

    def heard(self, event: Mapping[str, Any]) -> None:
        """An event of the run."""
        kind = event["event"]
        if kind in ("start", "resume"):  # what came after the checkpoint that it goes on from has been taken back
            (scores, ended), dropped = _past(self._run), self._report["dropped"]
            stays = dropped is not None and dropped["iteration"] <= len(scores)  # its worker died before it could stop
            self._keep(scores=scores, ended=ended, dropped=dropped if stays else None)
        elif kind == "select":
            self._keep(scores=[*self._report["scores"], _finite(event["score"])])
            self._decide()
        elif kind == "stop":
            self._keep(ended=True)
        elif kind == "finished":  # before it could be dropped
            self._keep(ended=True, dropped=None)

    def _keep(self, **changes: Any) -> None:
        self._report = cast(Reported, {**self._report, **changes})
        write(self._sweep, self._name, self._report)

    def _decide(self) -> None:
        if self._report["spared"]:
            return
        found = verdict(_compiled(self._text), read(self._sweep), self._name)
        if not found.stays:
            scores = self._report["scores"]
            self._keep(
                dropped=Dropped(
                    policy=self._text,
                    iteration=len(scores),
                    place=found.place,
                    trials=found.trials,
                    score=scores[-1],
                    wall_seconds=self._worked(),
                )
            )


@functools.lru_cache(maxsize=1)
def _compiled(text: str) -> Policy:
    return compiled(policy_named(text, 1 << 16))


def _past(run: RunDir) -> tuple[list[float | None], bool]:
    """Scores of a run's iterations so far, and whether no more will come."""
    past = list(run.events())
    scores = [_finite(one["score"]) for one in past if one["event"] == "select"]
    return scores, any(one["event"] == "stop" for one in past)


def _finite(score: float | None) -> float | None:
    return score if score is not None and np.isfinite(score) else None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.json"))


def _file(sweep: Path, name: str) -> Path:
    return sweep / FOLDER / f"{name}.json"
