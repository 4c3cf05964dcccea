"""What `fednas bench` prints: the machine, then a table for each workload, 100 columns wide at most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

_COLUMNS = (
    "clients",
    "lanes",
    "examples/s",
    "median",
    "ms/client",
    "padding",
    "GFLOP/s",
    "limit",
    "roof",
    "comp s",
    "host MiB",
    "dev MiB",
)


def print_machine(console: Console, report: dict[str, Any]) -> None:
    """One line: processor, devices and versions."""
    m = report["machine"]
    devices = f"{m['devices']} x {m['platform']} ({m['device_kind']})"
    _say(console, f"{m['cpu']}, {m['cores']} cores; {devices}; jax {m['jax']}, jaxlib {m['jaxlib']}\n")


def print_workload(console: Console, result: dict[str, Any]) -> None:
    """A row for each setting, and a line for each comparison."""
    title = f"{result['name']}: {result['about']}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        table.add_row(*_cells(row))
    console.print(table)
    limit = result["product_limit_flop_per_second"]
    precision = result["definition"]["train"]["precision"]
    _say(console, f"limit: {precision} matrix products reach {limit / 1e9:,.1f} GFLOP/s here")
    _say(console, f"roof: the same, and copies of {result['copy_limit_bytes_per_second'] / 1e9:,.1f} GB/s")
    for line in _roofs(result["rows"][0]):
        _say(console, line)
    final = result["best"] or result["rows"][0]
    for name, other in ({"sequential": final.get("sequential")} | final.get("peers", {})).items():
        if other:
            _say(console, f"{name}: {_ratio(final, other)}")
    apart = [p["difference"] for p in final.get("peers", {}).values() if p["difference"] is not None]
    if apart:
        _say(console, f"checked on a few clients: PyTorch's updates and the fleet's differ by {max(apart):.0e} of them")
    for name, why in final.get("peers_left_out", {}).items():
        _say(console, f"{name} is not measured: {why}")
    if result["evenness"]:
        _say(console, f"seconds per client from 1,000 clients on, most / fewest: {result['evenness']:.2f}")
    _say(console, "")


def _roofs(row: dict[str, Any]) -> Iterator[str]:
    """What training and scoring move at least, and what bounds them; the same for any number of lanes."""
    train = row["training"]
    yield (
        f"training: {row['bytes_per_step'] / 1e6:,.2f} MB a step, bound by {train['bound_by']}, "
        f"{train['share_of_roofline']:.1%} of its roof"
    )
    if row["scoring"]:
        yield f"scoring: bound by {row['scoring']['bound_by']}, {row['scoring']['share_of_roofline']:.1%} of its roof"


def _ratio(row: dict[str, Any], other: dict[str, Any]) -> str:
    """How the fleet did beside another, over all turns."""
    return (
        f"{other['examples_per_second']:,.0f} examples/s; lanes ({row['lanes']}): {other['ratio']:.2f} times as fast "
        f"({other['ratio_least']:.2f} to {other['ratio_most']:.2f}, pairs: {len(other['seconds'])})"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [f"{row['clients']:,}", str(row["lanes"]), "no memory"]
    device = row["peak_device_mib"]
    return [
        f"{row['clients']:,}",
        str(row["lanes"]),
        f"{row['examples_per_second']:,.0f}",
        f"{row['examples_per_second_median']:,.0f}",
        f"{1e3 * row['seconds_per_client']:,.3g}",
        f"{row['padding']:.1%}",
        f"{row['flop_per_second'] / 1e9:,.{0 if row['flop_per_second'] > 1e12 else 1}f}",
        f"{row['share_of_product_limit']:.1%}",
        f"{row['share_of_roofline']:.1%}",
        f"{row['compile_seconds']:.1f}",
        f"{row['peak_host_mib']:,.0f}",
        "-" if device is None else f"{device:,.0f}",
    ]


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, highlight=False)
