"""What a page says of a run, and that it is written nowhere else."""

import json
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console
from scripts_of_pages import check_page

from fednas_jax.cli.app import main
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import RunError
from fednas_jax.files import write_json
from fednas_jax.phones import ledger, totals
from fednas_jax.report import comparing, draw, figures, page, template, theme
from fednas_jax.run.finished import load_run


def member(iteration, macs, test):
    about = {"iteration": iteration, "widths": {"conv": macs}, "macs": macs, "params": macs, "score": 0.9}
    return about | {"test_accuracy": test, "client_seconds": 0.0}


@pytest.fixture
def run(tmp_path):
    """Only the network at half the MACs was tested, as `finetune.shares` asks for."""
    result = {
        "parent": member(0, 100, None),
        "models": [member(1, 70, None), member(2, 50, 0.8125)],
        **{"method": "fednas", "preset": "digits", "seed": 0, "clients": 4, "stop_reason": "budget reached"},
        "client_cost": totals.client_cost(ledger.SCHEMA.empty_table(), 4),
    }
    write_json(tmp_path / "config.json", {"config": to_json(Config())})
    write_json(tmp_path / "result.json", result)
    return tmp_path


def test_a_comparison_does_not_take_another_network_for_the_parent(run):
    console = Console(width=200, record=True)
    comparing.print_comparison(console, [run])
    (line,) = [line for line in console.export_text().splitlines() if "0.8125" in line]
    assert line.split()[-6:] == ["-", "0.8125", "0.8125", "-", "0.0", "-"]  # parent, 75, 50, 25 %, seconds, ratio


@pytest.mark.parametrize("tested", [None, 0.875])
def test_a_figure_names_the_parent_where_it_is_shown(tested, run):
    result = json.loads((run / "result.json").read_text())
    result["parent"]["test_accuracy"] = tested
    write_json(run / "result.json", result)
    page.write_report(run, pdf=False)
    assert ("<!-- parent -->" in (run / "figures" / "front.svg").read_text()) == (tested is not None)


def test_one_network_that_was_tested_leads_nowhere(run):
    assert figures.front(load_run(run)).says == "At 50.0 MACs test accuracy is 81.2 %."


@pytest.mark.parametrize(
    ("hours", "said"), [(3, "3.00 simulated hours"), (0.1, "6.00 simulated minutes"), (0.001, "3.60 simulated seconds")]
)
def test_simulated_time_has_the_unit_that_it_is_told_in_best(hours, said, run):
    result = json.loads((run / "result.json").read_text())
    result["simulated_hours"] = dict.fromkeys(("pretrain", "search", "finetune", "all"), hours)
    for m in (result["parent"], *result["models"]):
        m["simulated_hours"] = hours / 10
    write_json(run / "result.json", result)
    shown = figures.hours(load_run(run), [])
    assert f"ready after {said}" in shown.says
    assert f"simulated {said.split()[-1]} when it was found" in theme.drawn(shown, pdf=False).svg


@pytest.mark.parametrize(("ends", "labelled"), [((1, 40), 5), ((1, 4000), 4)])
def test_a_logarithmic_axis_has_the_labels_that_it_has_room_for(ends, labelled):
    def draw(_, axes):
        axes.plot(ends, (0, 1))
        axes.margins(0)
        theme.logarithmic(axes)

    svg = theme.drawn(theme.Shown("log", "", "", theme.Sketch(draw)), pdf=False).svg
    shown = re.findall(r"<!-- ([\d,]+) -->", svg.partition("matplotlib.axis_2")[0])
    assert len(shown) == labelled


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [
        ("conv1", 16, "conv1"),
        ("stage1_block2_depthwise", 16, "stage1_b…pthwise"),
        ("stage1_block2_pointwise", 16, "stage1_b…intwise"),
        ("a$b$c", 16, r"a\$b\$c"),
        ("_x", 16, " _x"),
    ],
)
def test_a_name_in_a_figure_is_short_and_shows_both_its_ends(text, most, shown):
    assert draw.label(text, most) == shown


def rename(run, **texts):
    result = json.loads((run / "result.json").read_text())
    write_json(run / "result.json", result | texts)


def test_a_page_names_the_data_of_a_run_and_its_warnings(run):
    rename(run, preset="", warnings=["the parent is at chance level <10 %>"])
    text = page.write_report(run, pdf=False).read_text()
    assert "<title>fednas on digits (cnn), seed 0</title>" in text
    assert "<strong>Warning:</strong> the parent is at chance level &lt;10 %&gt;" in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "--><script>", "$\\frac{", "_x", "\x1b[2J\x00", "\u8eca"]
)
def test_texts_of_a_run_are_text_on_pages_and_in_figures(name, run):
    rename(run, method=name, stop_reason=name)
    text = page.write_report(run, pdf=False).read_text()
    check_page(text)
    for figure in (run / "figures").glob("*.svg"):
        drawn = figure.read_text()
        assert "<script" not in drawn
        ET.fromstring(drawn.partition("<svg")[1] + drawn.partition("<svg")[2])  # a whole document


def test_a_text_in_a_chart_cannot_end_its_script():
    hostile = {"</script><script>alert(1)</script>": ["<!--", "\u2028", float("nan"), 1e400, "&lt;"]}
    said = template.as_script_json(hostile)
    assert not set("<>&\u2028") & set(said)
    (texts,) = json.loads(said).values()
    assert texts == ["<!--", "\u2028", None, None, "&lt;"]


def test_figures_for_papers_are_vectors_of_a_column_s_width_and_the_same_each_time(run):
    figure = figures.front(load_run(run))
    svg, pdf = theme.drawn(figure)
    assert ET.fromstring(svg).get("width") == "244.8pt"  # 3.4 inches
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    assert theme.drawn(figure) == (svg, pdf)


def test_a_page_is_not_written_through_a_link(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / "report.html").symlink_to(victim)
    (run / ".report.html.tmp").symlink_to(victim)
    page.write_report(run, pdf=False)
    assert victim.read_text() == "precious"
    assert not (run / "report.html").is_symlink()


def test_figures_are_not_written_into_a_folder_elsewhere(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="figures: is a link, want a folder of the run's own"):
        page.write_report(run, pdf=False)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "why"), [("file/page", "Not a directory"), ("a" * 300, "File name too long"), ("\0", "null")]
)
def test_a_page_s_folder_that_cannot_be_made_is_one_line(name, why, run, capsys):
    (run / "file").touch()
    assert main(["report", str(run), "--out", str(run / name), "--no-pdf"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("fednas: --out: '")
    assert " cannot be made: " in said
    assert why in said


def test_a_page_that_cannot_be_written_is_one_line(run):
    (run / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html: cannot be written: "):
        page.write_report(run, pdf=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("widths 8-16", "widths 8-16"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("a\nb\u202e\ud800", "a\\nb\\u202e\\ud800"),
        ("[bold]b[/foo]", "[bold]b[/foo]"),
        ("x" * 1001, "x" * 1000 + "..."),
    ],
)
def test_a_table_and_a_line_show_text_as_it_is(text, shown):
    assert draw.plain(text) == shown
    console = Console(width=2000, record=True, force_terminal=True)
    console.print(draw.table(text, ("name", "n"), [(text, "1")]))
    draw.say(console, text)
    assert console.export_text().count(shown) == 3
