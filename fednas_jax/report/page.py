"""What a run found and what it cost the phones, as tables, figures and one self-contained page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib import pyplot as plt
from rich.console import Console

from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.phones import ledger as cost
from fednas_jax.report import draw, tiers
from fednas_jax.report.tiers import Choice
from fednas_jax.run.folder import RunDir
from fednas_jax.search import lut

RATIOS = (0.75, 0.5, 0.25)  # of the parent's MACs, at which runs are compared

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
figure { margin: 1.5rem 0 } figure svg { max-width: 100%; height: auto }
</style>
<h1>{{ title }}</h1>
<p>{{ summary }}</p>
{% for figure in figures %}<figure role="img" aria-label="{{ figure.alt }}">{{ figure.svg | safe }}</figure>{% endfor %}
<h2>The family</h2>
<table><tr>{% for name in header %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>What it cost a client</h2>
<table><tr><th scope="col">stage</th><th scope="col">seconds, mean</th><th scope="col">p95</th>
<th scope="col">MB up</th><th scope="col">MB down</th><th scope="col">joules (assumed power)</th></tr>
{% for row in costs %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if tiers %}<h2>What each class of phones runs</h2>
<table><tr>{% for name in tier_header %}<th scope="col">{{ name }}</th>{% endfor %}</tr>
{% for row in tiers %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endif %}</html>
"""


class Run(NamedTuple):
    """A finished run as it lies on disk."""

    path: Path
    config: Config
    result: dict[str, Any]
    phases: dict[str, float]  # seconds of all clients in the search, by phase


def load(path: Path) -> Run:
    """Reads a finished run.

    Raises:
      RunError: there is no run, or it is unfinished.
    """
    run = RunDir(path)
    config = run.config()
    result = run.result()
    if result is None:
        raise RunError(f"{path}: is not finished, want a finished run: repeat its fednas command to go on")
    if config.command == "pretrain":
        raise RunError(f"{path}: is a pretrained parent, want a finished search: fednas search PRESET --parent {path}")
    return Run(path, config, result, cost.phase_seconds(cost.read(run.ledger), "search"))


def members(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The parent and the family, from large to small."""
    return [result["parent"], *result["models"]]


def at_ratio(result: dict[str, Any], ratio: float) -> dict[str, Any] | None:
    """The largest tested member with at most `ratio` of the parent's MACs; None where there is none."""
    limit = ratio * result["parent"]["macs"]
    fits = [m for m in members(result) if m["macs"] <= limit and m["test_accuracy"] is not None]
    return max(fits, key=lambda m: m["macs"], default=None)


HEADER = ("iteration", "widths", "MACs", "% of parent", "parameters", "validation", "test accuracy", "client s")


def family_rows(result: dict[str, Any]) -> list[list[str]]:
    """The family as text, a row each, in the order of HEADER; client seconds are of the search up to there."""
    whole = result["parent"]["macs"]
    return [
        [
            "parent" if m["iteration"] == 0 else str(m["iteration"]),
            "-".join(map(str, m["widths"].values())),
            f"{m['macs']:,}",
            f"{100 * m['macs'] / whole:.1f}",
            f"{m['params']:,}",
            f"{m['score']:.4f}",
            "" if m["test_accuracy"] is None else f"{m['test_accuracy']:.4f}",
            f"{m['client_seconds']:,.1f}",
        ]
        for m in members(result)
    ]


def cost_rows(result: dict[str, Any]) -> list[list[str]]:
    """Client cost by stage as text: mean and p95 seconds, megabytes up and down, joules, all for one client."""
    return [
        [
            stage,
            f"{by['seconds']['mean']:,.1f}",
            f"{by['seconds']['p95']:,.1f}",
            f"{by['bytes_up']['mean'] / 1e6:,.2f}",
            f"{by['bytes_down']['mean'] / 1e6:,.2f}",
            f"{by['joules']['mean']:,.0f}",
        ]
        for stage, by in result["client_cost"].items()
    ]


def print_family(console: Console, result: dict[str, Any]) -> None:
    """The end of a search: the family, and what it cost the phones."""
    console.print(draw.table("The family of networks, accuracy after fine-tuning", HEADER, family_rows(result), 2))
    print_cost(console, result)


def print_cost(console: Console, result: dict[str, Any]) -> None:
    """What a run cost the phones, and a given parent that is not in it."""
    title = f"What it cost a client, mean of {result['clients']}"
    console.print(draw.table(title, ("stage", "seconds", "p95", "MB up", "MB down", "joules"), cost_rows(result)))
    if said := not_counted(result):
        console.print(said, soft_wrap=True, highlight=False)


def not_counted(result: dict[str, Any]) -> str:
    """What a given parent cost elsewhere, as a sentence; nothing where the run trained its own."""
    source = result.get("parent_source")
    if not source:
        return ""
    spent = source["client_cost"]
    there = f" ({spent['seconds']['mean']:,.1f} s of a client, pretraining there)" if spent else ""
    return f"Not counted: the parent, from {source['path']}{there}."


def print_repriced(console: Console, path: Path, found: dict[str, Any]) -> None:
    """What a run costs a client on its own phones and on others, and how long it lasts."""
    own = RunDir(path).result() or {}
    header = ("stage", "phones", "seconds", "p95", "joules", "wasted", "hours")
    rows = []
    for stage in (*cost.STAGES, "all"):
        for name, result in ((RunDir(path).config().cost.population, own), (found["population"], found)):
            by, whole = result["client_cost"][stage], result["client_cost"][stage]["seconds"]["total"]
            lost = result.get("wasted", {}).get(stage, {}).get("seconds", 0.0)
            hours = result.get("simulated_hours", {}).get(stage)
            rows.append(
                [
                    stage,
                    name,
                    f"{by['seconds']['mean']:,.1f}",
                    f"{by['seconds']['p95']:,.1f}",
                    f"{by['joules']['mean']:,.0f}",
                    f"{100 * lost / whole if whole else 0:.1f} %",
                    "" if hours is None else f"{hours:,.3g}",
                ]
            )
    console.print(draw.table("What it costs a client, as run and priced again", header, rows, 2))


TIERS = ("tier", "device", "phones", "budget ms", "member", "widths", "ms", "validation", "test accuracy")


def tier_rows(chosen: Sequence[Choice]) -> list[list[str]]:
    """What each tier runs, as text, a row each, in the order of TIERS."""
    return [
        [
            c.tier.name,
            Path(c.tier.device).name,
            f"{c.tier.clients:,}",
            f"{c.budget_ms:.4g}",
            *(
                ["none fits", "", "", "", ""]
                if c.iteration is None or c.widths is None
                else [
                    str(c.iteration or "parent"),
                    "-".join(map(str, c.widths.values())),
                    f"{c.ms:.4g}",
                    f"{c.score:.4f}",
                    f"{c.test_accuracy:.4f}",
                ]
            ),
        ]
        for c in chosen
    ]


def print_tiers(console: Console, chosen: Sequence[Choice]) -> None:
    """What each class of phones runs, and what the phones get on average."""
    console.print(draw.table("The family on classes of phones, latency of a forward pass", TIERS, tier_rows(chosen), 2))
    served = [(c.tier.clients, c.test_accuracy) for c in chosen if c.test_accuracy is not None]
    phones, reached = sum(c.tier.clients for c in chosen), sum(clients for clients, _ in served)
    mean = f"mean test accuracy {sum(n * a for n, a in served) / reached:.4f}" if reached else "no network"
    console.print(f"{reached:,} of {phones:,} phones are served: {mean}", soft_wrap=True)
    for c in chosen:
        if c.iteration is None:
            needs = f"the fastest member takes {c.least_ms:.4g} ms on {c.tier.device}"
            console.print(f"{c.tier.name}: no member fits {c.budget_ms:.4g} ms; {needs}", soft_wrap=True)


def print_table_check(console: Console, table: lut.Table) -> None:
    """A lookup table's prediction of whole networks that it was not fitted to."""
    rows = [
        ["-".join(map(str, w.widths)), f"{w.measured_ms:.4g}", f"{w.predicted_ms:.4g}", f"{100 * error:+.1f}"]
        for w, error in zip(table.checked, table.errors, strict=True)
    ]
    title = f"{table.network} on {table.device}: networks that the table was not fitted to"
    console.print(draw.table(title, ("widths", "measured ms", "table ms", "error %"), rows))
    mean, largest = np.abs(table.errors).mean(), np.abs(table.errors).max()
    console.print(f"error of the table: {100 * mean:.1f} % in the mean, {100 * largest:.1f} % at most", soft_wrap=True)


def write_report(path: Path) -> Path:
    """Writes RUN/figures/*.svg and the self-contained RUN/report.html of a finished run."""
    run = load(path)
    result = run.result
    figures = {
        "front": ("Test accuracy against MACs of the family", _front([run])),
        "cost": ("Client seconds of the search by phase", _phases([run])),
    }
    if "simulated_hours" in result:  # a run of an older version has no clock
        figures["hours"] = ("Accuracy of the search's networks against simulated hours", _hours(run))
    folder = path / "figures"
    folder.mkdir(exist_ok=True)
    for name, (_, svg) in figures.items():
        (folder / f"{name}.svg").write_text(svg)
    search = result["client_cost"]["search"]["seconds"]["mean"]
    smallest = members(result)[-1]
    page = jinja2.Environment(autoescape=True).from_string(PAGE)
    out = path / "report.html"
    out.write_text(
        page.render(
            title=f"{result['method']} on {result['preset']}, seed {result['seed']}",
            summary=(
                f"{len(result['models'])} networks down to {100 * smallest['macs'] / result['parent']['macs']:.0f} % "
                f"of the parent's MACs; the search took {search:,.0f} seconds of an average client's time "
                f"({result['clients']} clients{_mixes(result)}). It stopped: {result['stop_reason']}. "
                f"{not_counted(result)}"
            ),
            figures=[{"alt": alt, "svg": svg[svg.index("<svg") :]} for alt, svg in figures.values()],
            header=HEADER,
            rows=family_rows(result),
            costs=cost_rows(result),
            tier_header=TIERS,
            tiers=tier_rows(tiers.assigned(path)),
        )
    )
    return out


def compare(console: Console, paths: Sequence[Path]) -> None:
    """Prints runs side by side: accuracy at equal MACs, client cost of the search, its ratio, its phases.

    Runs of one method and preset are also averaged over their seeds.

    Raises:
      RunError: a run is missing or unfinished, or runs are of different presets.
    """
    runs = [load(path) for path in {path.resolve(): path for path in paths}.values()]
    presets = sorted({run.result["preset"] for run in runs})
    if len(presets) > 1:
        raise RunError(f"compare: got runs of {' and '.join(presets)}, want runs of one preset")
    lines = [(f"{run.result['method']}, seed {run.result['seed']} ({run.path.name})", [run]) for run in runs]
    grouped = [(group[0].result["method"], group) for group in _alike(runs)]
    lines += [(f"{method}, mean of {len(group)} runs", group) for method, group in grouped if len(group) > 1]
    # Ratios are against the straightforward design where it is among the runs, else against the dearest.
    by_method = {method: _search_seconds(group) for method, group in grouped}
    against = "naive" if "naive" in by_method else max(by_method, key=lambda method: by_method[method])
    reference = by_method[against]
    accuracy, phases = [], []
    for name, group in lines:
        seconds = _search_seconds(group)
        cheaper = f"{reference / seconds:.3g}" if seconds else "-"
        picked = [[_parent(run.result) for run in group]]
        picked += [[at_ratio(run.result, ratio) for run in group] for ratio in RATIOS]
        cells = [_mean_accuracy(some) for some in picked]
        accuracy.append([name, *cells, f"{seconds:,.1f}", cheaper])
        per_client = [[run.phases[p] / run.result["clients"] for run in group] for p in cost.PHASES]
        phases.append([name, *(f"{np.mean(values):,.1f}" for values in per_client)])
    header = ("run", "parent", *(f"{100 * r:.0f} % MACs" for r in RATIOS), "s per client", f"{against} / this")
    console.print(draw.table("Test accuracy at equal MACs, and client seconds of the search", header, accuracy))
    console.print(draw.table("Client seconds of the search by phase, mean per client", ("run", *cost.PHASES), phases))


def _mixes(result: dict[str, Any]) -> str:
    """How much the clients differ, where the run was recorded with it."""
    if "heterogeneity" not in result:
        return ""
    found = result["heterogeneity"]
    return f"; label distance {found['label_distance']:.2f}, Gini coefficient of sizes {found['size_gini']:.2f}"


def _alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed, together."""
    groups: dict[Config, list[Run]] = {}
    for run in runs:
        groups.setdefault(dataclasses.replace(run.config, seed=0), []).append(run)
    return list(groups.values())


def _search_seconds(runs: Sequence[Run]) -> float:
    return float(np.mean([run.result["client_cost"]["search"]["seconds"]["mean"] for run in runs]))


def _parent(result: dict[str, Any]) -> dict[str, Any] | None:
    """The parent, where it was tested."""
    return None if result["parent"]["test_accuracy"] is None else result["parent"]


def _mean_accuracy(found: Sequence[dict[str, Any] | None]) -> str:
    values = [m["test_accuracy"] for m in found if m is not None]
    return f"{np.mean(values):.4f}" if len(values) == len(found) else "-"


def _front(runs: Sequence[Run]) -> str:
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for run in runs:
        tested = [m for m in members(run.result) if m["test_accuracy"] is not None]
        macs, accuracy = [m["macs"] / 1e6 for m in tested], [100 * m["test_accuracy"] for m in tested]
        axes.plot(macs, accuracy, "o-", label=f"{run.result['method']}, seed {run.result['seed']}")
        if tested and not tested[0]["iteration"]:
            axes.annotate("parent", (macs[0], accuracy[0]), xytext=(0, 8), textcoords="offset points", ha="right")
    axes.set(xlabel="multiply-accumulates of one example (millions)", ylabel="test accuracy (%)")
    axes.set_xlim(0, None)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.1 * (high - low))
    axes.legend()
    return draw.svg(figure)


def _hours(run: Run) -> str:
    """Accuracy of the networks found so far against the simulated clock, pretraining included."""
    figure, axes = plt.subplots(figsize=(6.5, 4))
    began = run.result["simulated_hours"]["pretrain"]
    found = members(run.result)
    hours = [began + m["simulated_hours"] for m in found]
    axes.plot(hours, [100 * m["score"] for m in found], "o-", label="validation, as found")
    tested = [
        (h, 100 * m["test_accuracy"]) for h, m in zip(hours, found, strict=True) if m["test_accuracy"] is not None
    ]
    if tested:
        axes.plot(*zip(*tested, strict=True), "s--", label="test, after fine-tuning")
    axes.set(xlabel="simulated hours when it was found", ylabel="accuracy (%)")
    axes.legend()
    return draw.svg(figure)


def _phases(runs: Sequence[Run]) -> str:
    figure, axes = plt.subplots(figsize=(6.5, 1.2 + 0.5 * len(runs)))
    left = np.zeros(len(runs))
    names = [f"{run.result['method']}, seed {run.result['seed']}" for run in runs]
    for phase in cost.PHASES:
        seconds = np.asarray([run.phases[phase] / run.result["clients"] for run in runs])
        axes.barh(names, seconds, left=left, label=phase)
        left += seconds
    axes.set(xlabel="seconds of an average client, whole search", xlim=(0, max(1e-9, 1.05 * left.max())))
    axes.legend(ncols=len(cost.PHASES), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return draw.svg(figure)
