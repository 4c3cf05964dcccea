"""One self-contained page of a sweep: its trials, and what each field does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fednas_jax.report import comparing, comparison_page, sweep_figures, trials, wording
from fednas_jax.report.template import Fact, Grid, Page
from fednas_jax.report.trials import Level, Sweep

_MOST_ROWS = 2000  # of the table
_MOST_LEVELS = 32  # of a field
_MOST_ERRORS = 5  # said at the head
_MOST_COMPARED = 64  # runs
_OTHER_PARENTS = f"Trials may differ in their parents' MACs: {comparing.OF_ITS_OWN}"
_TOO_MANY = (
    f"Methods are not compared over seeds here, since there are more than {_MOST_COMPARED} runs to verify; fednas "
    "report with some of the trials' folders compares these."
)
_OUTCOMES = ("status", *reversed(trials.ACCURACIES), "search_seconds", "seconds", "simulated_hours", "wall_seconds")


def of_sweep(path: Path) -> tuple[Page, tuple[Path, ...]]:
    """What the page of a sweep says, and the finished trials' folders; raises as `trials.read`."""
    sweep = trials.read(path)
    count = Counter(str(row["status"]) for row in sweep.rows)
    states = ", ".join(f"{number:,} {status}" for status, number in count.most_common())
    best, ties = trials.best(sweep)
    errors = [f"{row['trial']} failed: {row['error']}" for row in sweep.rows if row["status"] == "failed"]
    facts = [
        Fact(f"{len(sweep.rows):,}", f"trials: {states}"),
        Fact(str(len(sweep.fields)), "fields differ"),
        Fact(wording.percent(best[sweep.accuracy]), f"best {sweep_figures.NAMES[sweep.accuracy]}"),
    ]
    runs = tuple(sweep.run(row["trial"]) for row in sweep.rows if row["status"] == "finished")
    wanted, effects = _has_methods(sweep), trials.effects(sweep)
    methods = comparison_page.of_runs(runs, each=False) if wanted and len(runs) <= _MOST_COMPARED else None
    more = (
        [f"{len(errors) - _MOST_ERRORS:,} more failed; trials.parquet has why."] if len(errors) > _MOST_ERRORS else []
    )
    found = [effects_table(sweep, effects)] if effects else []
    page = Page(
        title=f"Sweep {path.resolve().name}",
        lead=(
            f"{len(sweep.rows):,} trials that differ in {', '.join(sweep.fields) or 'nothing'}. "
            f"Most accurate: {best['trial']}{sweep_figures.as_others(ties)}."
        ),
        facts=facts,
        warnings=[*errors[:_MOST_ERRORS], *more],
        figures=[*(methods.figures if methods else ()), *sweep_figures.of_sweep(sweep, effects)],
        tables=[*(methods.tables if methods else ()), *found, trials_table(sweep)],
        notes=[
            comparison_page.SECONDS,
            "Figures and main effects are of finished trials alone: where some were dropped early, what is left is "
            "better than all would be. Main effects are means over trials with a value, whatever the other fields; "
            "their 95 % intervals (Student's t) hold what these add. The best of many trials on the test images is "
            "best by luck too.",
            *(methods.notes[1:] if methods else ()),
            *([_TOO_MANY] if wanted and not methods else ()),
            *([_OTHER_PARENTS] if not methods and any(map(_sizes, sweep.fields)) else ()),
        ],
    )
    return page, runs


def _sizes(field: str) -> bool:
    """Whether trials that differ in a field may have parents of other sizes."""
    return field.startswith("net.") or field in ("preset", "parent", "data.source", "data.image_size")


def _has_methods(sweep: Sweep) -> bool:
    """Whether a sweep has several methods on the same data."""
    same = not any(field.startswith(("data.", "preset", "search.metric")) for field in sweep.fields)
    return "method" in sweep.fields and same


def effects_table(sweep: Sweep, effects: Mapping[str, Sequence[Level]]) -> Grid:
    """Mean outcomes at each value of each field."""
    rows = [
        [
            field,
            wording.value(level.value),
            str(level.accuracy.values),
            wording.estimate(level.accuracy, 100, 1),
            wording.estimate(level.seconds),
        ]
        for field, levels in effects.items()
        for level in levels[:_MOST_LEVELS]
    ]
    header = ("field", "value", "trials", f"{sweep_figures.NAMES[sweep.accuracy]}, %", "search, s")
    says = "Means over trials and, in parentheses, their 95 % intervals."
    if any(len(levels) > _MOST_LEVELS for levels in effects.values()):
        says += f" The first {_MOST_LEVELS} values of a field are shown."
    return Grid("Main effects", header, rows, 2, says)


def trials_table(sweep: Sweep) -> Grid:
    """All trials, sortable."""
    outcomes = [name for name in _OUTCOMES if any(row[name] is not None for row in sweep.rows)]
    texts = [n for n in sweep.fields if any(isinstance(row[n], str) for row in sweep.rows)]
    columns = ["trial", "status", *texts, *(n for n in sweep.fields if n not in texts), *outcomes[1:]]
    shown = sweep.rows[:_MOST_ROWS]
    rows = [[_cell(name, row[name]) for name in columns] for row in shown]
    keys = [[_key(row[name]) for name in columns] for row in shown]
    says = "A heading sorts; rows are shown that hold all words, or fit comparisons joined by 'and'."
    if len(shown) < len(sweep.rows):
        says = f"The first {len(shown):,} of {len(sweep.rows):,} trials; trials.parquet has all. {says}"
    return Grid("Trials", columns, rows, 2 + len(texts), says, keys)


def _cell(name: str, value: Any) -> str:
    """Accuracies with four digits, other outcomes with three; fields as they are."""
    if value is None or not isinstance(value, float) or name not in _OUTCOMES:
        return "" if value is None else wording.value(value)
    return f"{value:.4f}" if name in trials.ACCURACIES else wording.digits(value)


def _key(value: Any) -> float | str | None:
    return str(value).lower() if isinstance(value, bool) else value
