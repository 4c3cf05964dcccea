"""A replay's policies as table and figure: what each would have cost, against what its choices would have lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from rich.console import Console

from fednas_jax.report import draw, theme
from fednas_jax.run.finished import write_into

HEADER = ("policy", "client s", "MB", "cheaper", "rounds", "regret", "worst", "agrees")
MOST_ROWS = 25  # of the table; all are in the file
MOST_LABELS = 8  # of the figure, where there is one front


def print_replayed(console: Console, found: dict[str, Any]) -> None:
    """The run's own policy and the Pareto front, from cheap to good; where there is none, the cheapest policies."""
    policies = found["policies"]
    known = [p for p in policies if p["unknown"] is None]
    on_front = [p for p in known if p["front"]]
    shown = sorted(on_front or known, key=lambda p: p["client_seconds"])
    title = f"{found['run']}: {len(known):,} policies replayed"
    title += ", the Pareto front of cost and regret" if on_front else ", from the cheapest on"
    own = found["used"] | {"name": f"{found['used']['name']} (as run)"}
    console.print(draw.table(title, HEADER, [_row(p) for p in (own, *shown[:MOST_ROWS])]))
    if len(shown) > MOST_ROWS:
        draw.say(console, f"{len(shown) - MOST_ROWS} more of them are in the file.")
    reasons: dict[str, int] = {}
    for policy in policies:
        if policy["unknown"] is not None:
            why = policy["unknown"].partition(": ")[2]
            reasons[why] = reasons.get(why, 0) + 1
    for why, many in reasons.items():
        draw.say(console, f"Not known: {many:,} of {len(policies):,} policies, each of which {why}.")
    for note in found["notes"]:
        draw.say(console, f"Note: {note}")


def write_front(run: Path, name: str, found: dict[str, Any]) -> Path | None:
    """Draws cost and regret of all policies to RUN/replay/NAME.svg; nothing where no regret is known.

    Raises:
      RunError: it cannot be written.
    """
    policies = [p for p in found["policies"] if p["regret"] is not None]
    if not policies:
        return None
    return write_into(run, f"replay/{name}.svg", front(found["used"], policies, found["metric"]))


def front(used: dict[str, Any], policies: list[dict[str, Any]], metric: str) -> str:
    """Mean regret against client seconds of policies, the front as a line for each number of groups; as SVG."""
    figure, axes = plt.subplots(figsize=(7.5, 4.5))
    axes.plot(*_points(policies), ".", color="0.75", markersize=4, zorder=1, label=f"{len(policies):,} policies")
    best = sorted((p for p in policies if p["front"]), key=lambda p: p["client_seconds"])
    by_groups: dict[Any, list[dict[str, Any]]] = {}
    for policy in best:
        by_groups.setdefault(policy["settings"].get("groups"), []).append(policy)
    for groups, some in by_groups.items():
        axes.plot(*_points(some), "o-", markersize=4, label="front" if groups is None else f"front, {groups} groups")
    for n, policy in enumerate(best if len(by_groups) == 1 else ()):
        if n % -(-len(best) // MOST_LABELS) == 0:
            at = (policy["client_seconds"], 100 * policy["regret"])
            axes.annotate(draw.label(policy["name"]), at, (6, 4), textcoords="offset points", fontsize=6)
    axes.plot(*_points([used]), "s", label=draw.label(f"as run: {used['name']}"))
    axes.set(xlabel="seconds of an average client, whole search", ylabel=f"mean regret ({draw.label(metric)}, points)")
    if min(p["client_seconds"] for p in policies) > 0:
        theme.logarithmic(axes)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return draw.svg(figure)


def _points(policies: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [p["client_seconds"] for p in policies], [100 * p["regret"] for p in policies]


def _row(policy: dict[str, Any]) -> list[str]:
    regret, worst = (policy[name] for name in ("regret", "worst_regret"))
    return [
        policy["name"],
        f"{policy['client_seconds']:,.1f}",
        f"{policy['megabytes']:,.2f}",
        "" if policy["cheaper"] is None else f"{policy['cheaper']:,.1f} x",
        f"{policy['rounds']:,}",
        "" if regret is None else f"{regret:.4f}",
        "" if worst is None else f"{worst:.4f}",
        f"{100 * policy['agreement']:.0f} %",
    ]
