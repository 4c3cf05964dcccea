"""Interactive charts of a sweep, as `charts` has those of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fednas_jax.report import trials, wording
from fednas_jax.report.charts import axis, chart, legend_height, named, text, tips
from fednas_jax.report.trials import Sweep

_BETWEEN = 100  # pixels from an axis to the next, for its name; what is wider than a phone is scrolled
_HIDDEN = {"type": "quantitative", "scale": {"domain": [-0.03, 1.12], "nice": False}, "axis": None}


def trade(
    sweep: Sweep, rows: Sequence[dict[str, Any]], field: str, kinds: Mapping[str, set[str]], accuracy: str
) -> dict[str, Any]:
    """Accuracy against the search's cost, a point for each trial.

    Args:
      sweep: that they are of.
      rows: trials.
      field: that colours them.
      kinds: names of trials by the field's value, in the order of colours.
      accuracy: what the accuracy is of.
    """
    names = {trial: text(kind) for kind, some in kinds.items() for trial in some}
    made = [
        {
            "trial": text(row["trial"]),
            "kind": names[row["trial"]],
            "seconds": row["search_seconds"],
            "accuracy": 100 * row[sweep.accuracy],
            "mean": wording.percent(row[sweep.accuracy]),
            "cost": wording.digits(row["search_seconds"]),
        }
        for row in rows
    ]
    values = list(map(text, kinds))
    color = named("kind", f"{text(field)} (choose one)", values, scale={"domain": values})
    scale = {"type": "log"} if trials.spans([row["seconds"] for row in made]) else {"zero": False}
    return chart(
        made,
        f"{accuracy} against client seconds of the search, a point for each trial",
        height=260 + legend_height(color, values),
        params=[{"name": "picked", "select": {"type": "point", "fields": ["kind"]}, "bind": "legend"}],
        mark={"type": "point", "filled": True, "size": 70},
        encoding={
            "x": axis("seconds", "search, seconds of an average client", scale=scale),
            "y": axis("accuracy", f"{accuracy} (%)", scale={"zero": False}),
            "color": color,
            "shape": color,
            "opacity": {"condition": {"param": "picked", "value": 0.9}, "value": 0.1},
            "tooltip": tips(trial="trial", mean="test accuracy", cost="search, s"),
        },
    )


def parallel(
    sweep: Sweep,
    rows: Sequence[dict[str, Any]],
    axes: Sequence[str],
    places: Mapping[str, tuple[list[float], list[tuple[float, str]]]],
    titles: Sequence[str],
) -> dict[str, Any]:
    """Parallel coordinates: a line for each trial; the one that is pointed at comes to the front.

    Args:
      sweep: that they are of.
      rows: trials.
      axes: columns, from left to right.
      places: of each column where each row lies, from 0 to 1, and the texts beside the axis.
      titles: of the axes.
    """
    made = [
        {
            "trial": text(row["trial"]),
            "axis": n,
            "at": places[name][0][number],
            "value": text(wording.value(row[name])),
            "accuracy": 100 * row[sweep.accuracy],
            "mean": wording.percent(row[sweep.accuracy]),
        }
        for number, row in enumerate(rows)
        for n, name in enumerate(axes)
    ]
    beside = [
        {"axis": n, "at": at, "said": text(said)[:14]} for n, name in enumerate(axes) for at, said in places[name][1]
    ]
    heads = [{"axis": n, "head": text(title)[:16], "at": 1.09} for n, title in enumerate(titles)]
    x = axis("axis", "", scale={"domain": [-0.15, len(axes) - 0.45], "nice": False}, axis=None)
    y = axis("at", "", scale={"domain": [-0.03, 1.12], "nice": False}, axis=None)
    color = axis("accuracy", "test accuracy (%)", scale={"scheme": "cividis"}, legend={"gradientLength": 160})
    near = {"param": "near", "empty": False}
    said = {"type": "text", "align": "left", "dx": 4, "fontSize": 11, "color": "currentColor"}
    return chart(
        made,
        "A line for each trial through its fields, the search's cost and the accuracy",
        height=320,
        usermeta={"least_width": _BETWEEN * len(axes)},
        layer=[
            {"data": {"values": [{"axis": n} for n in range(len(axes))]},
             "mark": {"type": "rule", "color": "currentColor", "opacity": 0.5},
             "encoding": {"x": x, "y": {"datum": 0, **_HIDDEN}, "y2": {"datum": 1}}},
            {"params": [{"name": "near", "select": {"type": "point", "on": "pointerover", "fields": ["trial"]}}],
             "mark": {"type": "line"},
             "encoding": {"x": x, "y": y, "detail": {"field": "trial"}, "color": color,
                          "tooltip": tips(trial="trial", mean="test accuracy"),
                          "strokeWidth": {"condition": near | {"value": 4}, "value": 1.5},
                          "opacity": {"condition": near | {"value": 1}, "value": 0.65}}},
            # First the ground's colour around each letter, which lines would else run through.
            {"data": {"values": beside}, "mark": said | {"stroke": "var(--ground)", "strokeWidth": 4},
             "encoding": {"x": x, "y": y, "text": {"field": "said"}}},
            {"data": {"values": beside}, "mark": said, "encoding": {"x": x, "y": y, "text": {"field": "said"}}},
            {"data": {"values": heads},
             "mark": said | {"align": "center", "dx": 0, "fontWeight": "bold", "clip": False},
             "encoding": {"x": x, "y": y, "text": {"field": "head"}}},
        ],
    )  # fmt: skip
