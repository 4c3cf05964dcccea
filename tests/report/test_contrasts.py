"""Methods over seeds: means, pairs, names, the baseline; and the page and tables that tell of them."""

import json
import shutil
from csv import DictReader

import pytest
from matplotlib import pyplot as plt
from scripts_of_pages import check_page

from fednas_jax.cli import report
from fednas_jax.cli.app import main
from fednas_jax.errors import ConfigError
from fednas_jax.files import write_json
from fednas_jax.report import comparing, comparison_figures, comparison_page, contrasts, exporting, theme
from fednas_jax.report.template import Grid


@pytest.fixture(scope="module")
def runs(unsealed_run, tmp_path_factory):
    """Two methods with three seeds each; with method naive, every search second is ten times as many."""
    folder = tmp_path_factory.mktemp("runs")
    for method, times in (("fednas", 1), ("naive", 10)):
        for seed in range(3):
            run = folder / f"{method}{seed}"
            shutil.copytree(unsealed_run, run)
            result, config = (json.loads((run / name).read_text()) for name in ("result.json", "config.json"))
            result |= {"method": method, "seed": seed}
            result["client_cost"]["search"]["seconds"]["mean"] *= times * (1 + seed)
            result["models"][-1]["test_accuracy"] = 0.5 + 0.1 * seed + 0.01 * times
            result["parent"]["test_accuracy"] = 0.75
            config["config"] |= {"method": method, "seed": seed}
            write_json(run / "result.json", result)
            write_json(run / "config.json", config)
    return sorted(folder.iterdir())


def test_methods_are_compared_seed_by_seed(runs):
    found = contrasts.methods(comparing.read(runs, "report")[0])
    assert [(m.name, len(m.runs)) for m in found] == [("fednas", 3), ("naive", 3)]
    against = contrasts.baseline(found)
    assert against.name == "naive"
    told = contrasts.contrast(found[0], against)
    assert told.cheaper == pytest.approx((10.0, 10.0, 10.0, 3))  # each pair's ratio is the same
    ratio = min(r for r, gain in told.gain.items() if gain is not None)
    assert told.gain[ratio].value == pytest.approx(-0.09)
    assert told.gain[ratio].high - told.gain[ratio].low == pytest.approx(0, abs=1e-9)
    assert told.parent[:3] == pytest.approx((0.75, 0.75, 0.75))
    assert told.accuracy[ratio].value == pytest.approx(0.61)
    own = contrasts.contrast(against, against)
    assert own.cheaper is None
    assert set(own.gain.values()) == {None}


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"train": {"learning_rate": 0.25}}, ["learning_rate 0.05", "learning_rate 0.25"]),
        (
            {"pretrain": {"rounds": 2}, "finetune": {"rounds": 3}},  # of one name
            ["pretrain.rounds 1, finetune.rounds 1", "pretrain.rounds 2, finetune.rounds 3"],
        ),
        ({"search": {"policy": "median()"}}, ["policy rungs", "policy median()"]),
    ],
)
def test_one_method_with_other_fields_has_names_of_its_own(fields, want, runs, tmp_path):
    shutil.copytree(runs[0], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    for section, changes in fields.items():
        config["config"][section] |= changes
    write_json(tmp_path / "other" / "config.json", config)
    names = [m.name for m in contrasts.methods(comparing.read([*runs[:3], tmp_path / "other"], "report")[0])]
    assert [name.partition(", ")[2] for name in names] == want


LONG = {"learning_rate": 0.123, "momentum": 0.456, "weight_decay": 0.0123, "local_epochs": 3}


@pytest.fixture
def of_long_names(runs, tmp_path):
    """The runs, and one of either method that differs from them in many fields, twice with the same beginning."""
    for number, run in enumerate((runs[0], runs[0], runs[3])):
        copy = tmp_path / f"other{number}"
        shutil.copytree(run, copy)
        config = json.loads((copy / "config.json").read_text())
        config["config"]["train"] |= LONG
        config["config"]["pretrain"]["rounds"] = 21
        config["config"]["finetune"]["rounds"] = 22 + number
        write_json(copy / "config.json", config)
    return [*runs, *sorted(tmp_path.iterdir())]


def test_methods_have_names_of_their_own_however_long(of_long_names):
    names = [m.name for m in contrasts.methods(comparing.read(of_long_names, "report")[0])]
    assert len(set(names)) == len(names) == 5
    assert names[-2] == f"{names[-3]} (2)"


def test_nothing_of_a_figure_is_cut_off_by_long_names(of_long_names):
    for shown in comparison_page.of_runs(of_long_names).figures:
        sketch = shown.sketch
        with plt.rc_context(theme._SETTINGS):
            figure, axes = plt.subplots(figsize=(sketch.width, sketch.height), **sketch.axes)
            sketch.draw(figure, axes)
            figure.canvas.draw()
            box = figure.get_tightbbox()
            plt.close(figure)
        assert (box.x0, box.y0) >= (-0.01, -0.01), shown.name
        assert box.x1 <= sketch.width + 0.01, shown.name
        assert box.y1 <= sketch.height + 0.01, shown.name


def with_parents(runs, folder, parent_of):
    """Copies of the runs whose configs name a parent, by method and seed."""
    for run in runs:
        copy = folder / run.name
        shutil.copytree(run, copy)
        config = json.loads((copy / "config.json").read_text())
        config["config"]["parent"] = parent_of(config["config"]["method"], config["config"]["seed"])
        write_json(copy / "config.json", config)
    return comparing.read(sorted(folder.iterdir()), "report")[0]


def test_a_parent_that_each_seed_has_to_itself_is_part_of_the_seed(runs, tmp_path):
    found = contrasts.methods(with_parents(runs, tmp_path, lambda _, seed: f"/parents/{seed}"))
    assert [(m.name, len(m.runs)) for m in found] == [("fednas", 3), ("naive", 3)]
    assert contrasts.contrast(found[0], found[1]).cheaper == pytest.approx((10.0, 10.0, 10.0, 3))
    assert [len(group) for _, group in contrasts.alike([run for m in found for run in m.runs])] == [3, 3]


@pytest.mark.parametrize(
    ("parent_of", "names"),
    [
        # Two parents for a seed: they are what is compared.
        (lambda method, seed: f"/of/{method}/{seed}", ["fednas, parent 0", "fednas, parent 1", "fednas, parent 2"]),
        # One parent for two seeds likewise.
        (lambda _, seed: f"/parents/{seed // 2}", ["fednas, parent 0", "fednas, parent 1"]),
    ],
)
def test_any_other_parent_tells_methods_apart(runs, tmp_path, parent_of, names):
    found = contrasts.methods(with_parents(runs, tmp_path, parent_of))
    assert [m.name for m in found if m.name.startswith("fednas")] == names


def test_a_page_of_several_runs_tells_means_intervals_and_ratios(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *map(str, runs), "--no-pdf", "--latex", "--markdown", "--csv"]) == 0
    printed = capsys.readouterr().out.split()
    assert printed[0] == "report/report.html"
    assert all((tmp_path / path).is_file() for path in printed)
    text = (tmp_path / "report" / "report.html").read_text()
    check_page(text)
    assert "10.0 (10.0 to 10.0)" in text
    assert "the baseline is naive, the straightforward design" in text
    assert {path.stem for path in (tmp_path / "report" / "figures").iterdir()} == {
        *("front", "cheaper", "gains", "bill", "phases")
    }
    csv = (tmp_path / "report" / "tables" / "runs.csv").read_text().splitlines()
    assert len(csv) == 7
    assert {row["parent, %"] for row in DictReader(csv)} == {"75.0"}  # percent, as the heading and the page say
    assert "\\begin{tabular}{lrrr" in (tmp_path / "report" / "tables" / "methods.tex").read_text()


def test_a_mean_of_some_seeds_and_a_difference_of_some_pairs_say_so(runs, tmp_path):
    shutil.copytree(runs[2].parent, tmp_path / "runs")
    result = json.loads((tmp_path / "runs" / "fednas2" / "result.json").read_text())
    result["models"][-1]["test_accuracy"] = None
    write_json(tmp_path / "runs" / "fednas2" / "result.json", result)
    shutil.rmtree(tmp_path / "runs" / "naive1")
    page = comparison_page.of_runs(sorted((tmp_path / "runs").iterdir()))
    reached, beside = (table.rows[0] for table in page.tables[:2])
    assert [cell.rpartition(", ")[2] for cell in reached if "seeds" in cell] == ["2 of 3 seeds"]
    assert beside[1] == "2"  # pairs
    assert any(cell.endswith(", 1 pair") for cell in beside)
    for run in (tmp_path / "runs" / f"fednas{seed}" for seed in (0, 2)):
        shutil.rmtree(run)
    page = comparison_page.of_runs(sorted((tmp_path / "runs").iterdir()))
    assert page.tables[1].rows[0][1] == "0"
    assert "times cheaper" in page.figures[1].says


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "no ratio, since a search costs nothing"), (1e6, "none is cheaper; ")]
)
def test_a_search_that_is_no_cheaper_is_not_called_so(seconds, said, runs, tmp_path):
    run = tmp_path / runs[0].name
    shutil.copytree(runs[0], run)
    result = json.loads((run / "result.json").read_text())
    result["client_cost"]["search"]["seconds"]["mean"] = seconds
    write_json(run / "result.json", result)
    (shown,) = [f for f in comparison_page.of_runs([run, runs[3]]).figures if f.name == "cheaper"]
    assert said in shown.says


def test_more_methods_than_a_figure_holds_are_said_and_the_cheapest_is_of_all(runs, monkeypatch):
    monkeypatch.setattr(comparison_figures, "MOST", 1)
    page = comparison_page.of_runs([*runs[3:], *runs[:3]])  # naive, fednas
    assert page.notes[-1] == "Figures show the first 1 of 2 methods, tables all."
    assert "fednas is 10.0" in next(f for f in page.figures if f.name == "cheaper").says


def test_every_row_has_a_cell_under_every_heading(runs):
    for table in comparison_page.of_runs(runs).tables:
        assert {len(row) for row in (*table.rows, *(table.keys or ()))} == {len(table.header)}, table.title


def test_a_run_is_not_mixed_with_a_sweep(runs, tmp_path):
    (tmp_path / "sweep.json").write_text("{}")
    assert main(["report", str(runs[0]), str(tmp_path)]) == 2
    with pytest.raises(ConfigError, match="want it alone"):
        report.run([str(runs[0]), str(tmp_path)])


def test_tables_keep_a_stranger_s_text_as_text():
    table = Grid("A & B", ("name", "50 %"), [(r"a_b\input{x}|~^", "1"), ("=1+2", "-0.5 (-1 to +1)")], 1, "100 % <b>")
    assert r"a\_b\textbackslash{}input\{x\}\textbar{}\textasciitilde{}\textasciicircum{} & 1 \\" in exporting.latex(
        table
    )
    assert "\\%" in exporting.latex(table).splitlines()[3]
    assert "| a\\_b\\\\input\\{x\\}\\|\\~^ | 1 |" in exporting.markdown(table)
    assert exporting.as_csv(table).splitlines()[2] == "'=1+2,-0.5 (-1 to +1)"


@pytest.mark.parametrize(
    ("cell", "latex", "markdown", "csv"),
    [
        ("[2mm]", "{[}2mm{]}", "\\[2mm\\]", "[2mm]"),  # behind \\\\ an option
        ('*"a"', r"{*}{\char34}a{\char34}", '\\*"a"', '"*""a"""'),
        ("---", "-{}-{}-", "---", "'---"),
        ("&lt; $x$", r"\&lt; \$x\$", "\\&lt; \\$x\\$", "&lt; $x$"),
        ("-2+cmd|' /C calc'!A0", r"-2+cmd\textbar{}' /C calc'!A0", "-2+cmd\\|' /C calc'!A0", "'-2+cmd|' /C calc'!A0"),
        ("+1 (x to y)", "+1 (x to y)", "+1 (x to y)", "'+1 (x to y)"),
        *((cell, cell, cell, cell) for cell in ("-", "-0.28 (-1.00 to +0.41)", "-1.5e-05", "+0.10 s")),
    ],
)
def test_a_cell_is_what_it_says_in_every_form_of_a_table(cell, latex, markdown, csv):
    table = Grid("T", ("name",), [(cell,)])
    assert exporting.latex(table).splitlines()[5] == rf"{latex} \\"
    assert exporting.markdown(table).splitlines()[4] == f"| {markdown} |"
    assert exporting.as_csv(table).splitlines()[1] == csv


def test_runs_of_other_data_are_refused(runs, tmp_path, capsys):
    shutil.copytree(runs[0], tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["config"]["data"]["alpha"] = 9.0
    write_json(tmp_path / "other" / "config.json", config)
    assert main(["report", str(runs[0]), str(tmp_path / "other"), "--out", str(tmp_path / "page")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fednas: report: got runs of different data")
    assert "data.alpha" in said
    assert comparison_page.of_runs(runs[:1]).title
