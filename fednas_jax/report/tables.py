"""What a run found and what it cost the phones, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fednas_jax.phones import ledger
from fednas_jax.report import draw
from fednas_jax.report.assigning import Choice
from fednas_jax.run.finished import load_run, members
from fednas_jax.search import lut

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
        draw.say(console, said)


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
    run = load_run(path, pretrained=True)
    header = ("stage", "phones", "seconds", "p95", "joules", "wasted", "hours")
    rows = []
    for stage in (*ledger.STAGES, "all"):
        for name, result in ((f"{run.config.cost.population} (as run)", run.result), (found["population"], found)):
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
    draw.say(console, f"{reached:,} of {phones:,} phones are served: {mean}")
    for c in chosen:
        if c.iteration is None:
            needs = f"the fastest member takes {c.least_ms:.4g} ms on {c.tier.device}"
            draw.say(console, f"{c.tier.name}: no member fits {c.budget_ms:.4g} ms; {needs}")


def print_table_check(console: Console, table: lut.Table) -> None:
    """A lookup table's prediction of whole networks that it was not fitted to."""
    rows = [
        ["-".join(map(str, w.widths)), f"{w.measured_ms:.4g}", f"{w.predicted_ms:.4g}", f"{100 * error:+.1f}"]
        for w, error in zip(table.checked, table.errors, strict=True)
    ]
    title = f"{table.network} on {table.device}: networks that the table was not fitted to"
    console.print(draw.table(title, ("widths", "measured ms", "table ms", "error %"), rows))
    mean, largest = np.abs(table.errors).mean(), np.abs(table.errors).max()
    draw.say(console, f"error of the table: {100 * mean:.1f} % in the mean, {100 * largest:.1f} % at most")
