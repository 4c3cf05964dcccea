"""Interactive charts as Vega-Lite specifications: data, never code.

A chart takes the place of the drawn figure where scripts run. Texts of a run are values in rows under names of ours, so
that none becomes a field, an expression or markup. https://vega.github.io/vega-lite/docs/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fednas_jax.report import findings, theme, wording
from fednas_jax.report.draw import plain
from fednas_jax.run.finished import Run, members

_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "#888888",
        "gridOpacity": 0.25,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelOverlap": "greedy",
        "labelSeparation": 6,
    },
    "axisQuantitative": {"tickCount": 6},
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "orient": "top",
        "symbolSize": 80,
        "symbolOpacity": 1,
        "labelLimit": 280,
        "titleLimit": 280,
    },
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "titleFontSize": 12},
    "range": {"category": list(theme.COLOURS), "symbol": list(theme.SHAPES)},
}
_MOST_TEXT = 80


def text(value: object) -> str:
    """A text of a run as it may stand in a chart."""
    return plain(str(value), _MOST_TEXT)


def chart(rows: Sequence[dict[str, Any]], says: str, **parts: Any) -> dict[str, Any]:
    """A specification as wide as its place.

    Args:
      rows: data.
      says: what is seen, for those who do not see it.
      **parts: of the specification.
    """
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",  # a name: nothing is fetched
        "description": says,
        "width": "container",
        "height": 260,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"values": list(rows)},
        "config": _CONFIG,
        **parts,
    }


def layers(rows: Sequence[dict[str, Any]], *made: dict[str, Any] | tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Layers of a chart; one that is given with a condition is left out where no row meets it.

    Args:
      rows: of the chart.
      *made: layers, or the field that a row must have for a layer and that layer.
    """
    found = []
    for each in made:
        if isinstance(each, dict):
            found.append(each)
        elif any(row[each[0]] not in (None, False) for row in rows):
            found.append({"transform": [{"filter": f"datum.{each[0]}"}], **each[1]})
    return found


def named(field: str, title: str, names: Sequence[str], **more: Any) -> dict[str, Any]:
    """A channel of names, in whose legend one is chosen, as wide as a phone has room for.

    Args:
      field: that has them.
      title: of the legend.
      names: that occur.
      **more: of the channel.
    """
    columns = max(1, 300 // (34 + 7 * min(38, max(map(len, names), default=0))))
    return {"field": field, "type": "nominal", "title": title, "legend": {"columns": columns}, **more}


def legend_height(channel: dict[str, Any], names: Sequence[str]) -> int:
    """Pixels that a legend of names takes of a chart beyond those of its first row."""
    return 18 * (-(-len(names) // channel["legend"]["columns"]) - 1)


def axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    """A channel of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def tips(**titles: str) -> list[dict[str, Any]]:
    """What is told of a mark: title by field."""
    return [{"field": field, "title": title} for field, title in titles.items()]


def front(run: Run) -> dict[str, Any] | None:
    """Accuracy against MACs, or another of the run's resources, of a run's members."""
    rows = []
    for m in members(run.result):
        if m["test_accuracy"] is None:
            continue
        ends = findings.tested(run, m)
        rows.append(
            {
                "network": f"iteration {m['iteration']}" if m["iteration"] else "parent",
                "macs": m["macs"] / 1e6,
                "test": 100 * m["test_accuracy"],
                "low": 100 * ends[0] if ends else None,
                "high": 100 * ends[1] if ends else None,
                "widths": text("-".join(map(str, m["widths"].values()))),
                "share": wording.share(m["macs"] / run.result["parent"]["macs"]),
                "interval": wording.within(m["test_accuracy"], ends),
                "params": f"{m['params']:,}",
            }
        )
    if not rows:
        return None
    x = axis("macs", "multiply-accumulates of one example (millions)", scale={"nice": True})
    y = axis("test", "test accuracy (%)", scale={"zero": False})
    told = tips(
        network="network",
        widths="widths",
        share="MACs, of the parent's",
        params="parameters",
        interval="test accuracy, %",
    )
    return chart(
        rows,
        "Test accuracy against multiply-accumulates of each network",
        layer=layers(
            rows,
            ("high", {"mark": {"type": "rule", "color": theme.colour(0), "opacity": 0.7},
                      "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}}),
            {"mark": {"type": "line", "color": theme.colour(0)}, "encoding": {"x": x, "y": y}},
            {"mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
             "encoding": {
                 "x": x, "y": y, "tooltip": told,
                 "color": {"condition": {"test": "datum.network === 'parent'", "value": theme.colour(1)},
                           "value": theme.colour(0)},
                 "shape": {"condition": {"test": "datum.network === 'parent'", "value": "square"}, "value": "circle"}}},
        ),
    )  # fmt: skip


def candidates(scores: Sequence[findings.Score], names: Sequence[str], title: str, scale: float) -> dict[str, Any]:
    """Candidates' curves; one candidate is picked out by its name in the legend.

    Args:
      scores: of the search.
      names: of the candidates, in the order of their colours.
      title: of the axis of scores.
      scale: that scores are multiplied by there.
    """
    last = {(s.iteration, s.candidate): s.at for s in scores}
    rows = [
        {
            "iteration": s.iteration,
            "candidate": text(s.candidate),
            "curve": f"{s.iteration} {text(s.candidate)}",
            "round": s.at,
            "score": scale * s.score,
            "low": None if s.low is None else scale * s.low,
            "high": None if s.high is None else scale * s.high,
            "interval": _scored(s, scale),
            "examples": s.examples,
            "dropped": s.dropped,
            "won": s.won and last[s.iteration, s.candidate] == s.at,
            "fate": "dropped here" if s.dropped else "wins its iteration" if s.won else "goes on or is not chosen",
        }
        for s in scores
    ]
    x = axis(
        "round",
        "round of the search",
        axis={"tickMinStep": 1, "format": "d"},
        scale={"nice": False, "zero": False, "padding": 12},
    )
    y = axis("score", text(title), scale={"zero": False})
    shown_names = [text(name) for name in names]
    color = named("candidate", "candidate (choose one)", shown_names, scale={"domain": shown_names})
    shown = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    told = tips(
        candidate="candidate",
        iteration="iteration",
        interval=text(title),
        examples="validation examples",
        fate="what follows",
    )
    picked = {"name": "picked", "select": {"type": "point", "fields": ["candidate"]}, "bind": "legend"}
    return chart(
        rows,
        "The validation score of every candidate after every round of the search; dropped ones end at a cross",
        height=300 + legend_height(color, shown_names),
        layer=layers(
            rows,
            ("high", {"mark": {"type": "rule"},
                      "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color,
                                   "opacity": {"condition": {"param": "picked", "value": 0.6}, "value": 0.05}}}),
            {"mark": {"type": "line", "strokeWidth": 1.5},
             "encoding": {"x": x, "y": y, "color": color, "detail": {"field": "curve"}, "opacity": shown}},
            {"params": [picked], "mark": {"type": "point", "filled": True, "size": 60},
             "encoding": {"x": x, "y": y, "color": color, "opacity": shown, "tooltip": told,
                          "shape": color}},
            ("dropped", {"mark": {"type": "text", "text": "\u00d7", "fontSize": 20, "color": "currentColor"},
                         "encoding": {"x": x, "y": y, "tooltip": told}}),
            ("won", {"mark": {"type": "point", "size": 200, "color": "currentColor"},
                     "encoding": {"x": x, "y": y, "tooltip": told}}),
        ),
    )  # fmt: skip


def _scored(score: findings.Score, scale: float) -> str:
    """A score and its interval, as the axis has them."""
    if scale == 1:
        return wording.digits(score.score, 4)
    ends = None if score.low is None or score.high is None else (score.low, score.high)
    return wording.within(score.score, ends)


def methods_front(rows: Sequence[dict[str, Any]], single: Sequence[dict[str, Any]], says: str) -> dict[str, Any]:
    """Mean accuracies of methods within shares of the parent's MACs.

    Args:
      rows: method, share, place (of the mark beside others), accuracy, low, high, mean (in words), runs.
      single: method, run, share, accuracy of every network of every run.
      says: what is seen.
    """
    x = axis("place", "MACs within (% of the parent's)", scale={"domain": [0, 108], "nice": False})
    y = axis("accuracy", "test accuracy (%)", scale={"zero": False})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    color = named("method", "method (choose one)", methods, sort=None)
    shown = {"condition": {"param": "picked", "value": 1}, "value": 0.12}
    told = tips(method="method", share="MACs, % of the parent's", mean="mean test accuracy, %", runs="runs")
    picked = {"name": "picked", "select": {"type": "point", "fields": ["method"]}, "bind": "legend"}
    return chart(
        rows,
        says,
        height=260 + legend_height(color, methods),
        layer=[
            {"data": {"values": list(single)}, "mark": {"type": "line", "strokeWidth": 1},
             "encoding": {"x": x | {"field": "share"}, "y": y, "color": color, "detail": {"field": "run"},
                          "opacity": {"condition": {"param": "picked", "value": 0.3}, "value": 0.03}}},
            *layers(
            rows,
            ("high", {"mark": {"type": "rule", "strokeWidth": 1.5},
                      "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color,
                                   "opacity": shown}}),
            {"mark": {"type": "line"}, "encoding": {"x": x, "y": y, "color": color, "opacity": shown}},
            {"params": [picked], "mark": {"type": "point", "filled": True, "size": 80},
             "encoding": {"x": x, "y": y, "color": color, "opacity": shown, "tooltip": told,
                          "shape": color}},
        )],
    )  # fmt: skip
