"""One self-contained page of a finished run, and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from fednas_jax.report.assigning import assigned
from fednas_jax.report.draw import plain
from fednas_jax.report.figures import front, hours, phases
from fednas_jax.report.tables import (
    HEADER,
    TIERS,
    cost_rows,
    family_rows,
    not_counted,
    tier_rows,
)
from fednas_jax.run.finished import load_run, members, write_into

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
{% for warning in warnings %}<p><strong>Warning:</strong> {{ warning }}</p>
{% endfor %}
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


# All that is shown is escaped, and spelled out where a page cannot hold it; figures are markup of our own.
_ENVIRONMENT = jinja2.Environment(autoescape=True, finalize=lambda value: plain(value) if type(value) is str else value)


def write_report(path: Path | str) -> Path:
    """Writes `RUN/figures/*.svg` and the self-contained RUN/report.html of a finished run.

    Args:
      path: the run's folder.

    Returns:
      The page.

    Raises:
      RunError: as `load_run`, a file that is shown is damaged, or one cannot be written.
    """
    run = load_run(path)
    result, found = run.result, members(run.result)
    figures = {
        "front": ("Test accuracy against MACs of the family", front([run])),
        "cost": ("Client seconds of the search by phase", phases([run])),
    }
    # A run of an older version has no clock.
    if "simulated_hours" in result and all("simulated_hours" in member for member in found):
        figures["hours"] = ("Accuracy of the search's networks against simulated hours", hours(run))
    search = result["client_cost"]["search"]["seconds"]["mean"]
    page = _ENVIRONMENT.from_string(PAGE).render(
        title=run.title,
        summary=(
            f"{len(result['models'])} networks down to {100 * found[-1]['macs'] / result['parent']['macs']:.0f} % "
            f"of the parent's MACs; the search took {search:,.0f} seconds of an average client's time "
            f"({result['clients']} clients{_mixes(result)}). It stopped: {result['stop_reason']}. "
            f"{not_counted(result)}"
        ),
        warnings=result.get("warnings", []),
        figures=[{"alt": alt, "svg": svg[svg.index("<svg") :]} for alt, svg in figures.values()],
        header=HEADER,
        rows=family_rows(result),
        costs=cost_rows(result),
        tier_header=TIERS,
        tiers=tier_rows(assigned(run.path)),
    )
    for name, (_, svg) in figures.items():
        write_into(run.path, f"figures/{name}.svg", svg)
    return write_into(run.path, "report.html", page)


def _mixes(result: dict[str, Any]) -> str:
    """How much the clients differ, where the run was recorded with it."""
    if "heterogeneity" not in result:
        return ""
    found = result["heterogeneity"]
    return f"; label distance {found['label_distance']:.2f}, Gini coefficient of sizes {found['size_gini']:.2f}"
