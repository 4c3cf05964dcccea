"""What a sweep's page says: main effects, the table, and what a stranger's table may not do."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib import pyplot as plt
from scripts_of_pages import check_page
from stub_trials import StubPool

from fednas_jax.cli.app import main
from fednas_jax.errors import RunError
from fednas_jax.report import charts, sweep_page, theme, trials
from fednas_jax.sweep import running
from fednas_jax.sweep.designs import grid
from fednas_jax.sweep.scheduling import Outcome

HOSTILE = "</script><script>alert(1)</script>\u2028$x_{$"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Sixteen trials that train nothing, whose accuracy grows with the seed; one failed."""

    def becomes(values, tries):
        last = values["seed"] == 3 and values["method"] == "naive" and values["data"]["alpha"] == 1
        return Outcome("failed", f"no memory {HOSTILE}", "", 2.0) if last else None

    monkeypatch.setattr(running, "_pool", lambda *of_sweep: StubPool(becomes))
    design = grid({"method": ["fednas", "naive"], "data.alpha": [0.5, 1.0], "seed": [0, 1, 2, 3]})
    running.run_sweep(design, tmp_path / "sweep", "digits")
    return tmp_path / "sweep"


def changed(sweep, **columns):
    """The table with columns of other values, or new ones."""
    table = pq.read_table(sweep / "trials.parquet")
    for name, values in columns.items():
        made = pa.array(values) if isinstance(values, list) else values
        if name in table.column_names:
            table = table.drop_columns(name)
        table = table if made is None else table.append_column(name, made)
    pq.write_table(table, sweep / "trials.parquet")


def test_main_effects_are_means_over_the_finished_trials_of_a_value(sweep):
    found = trials.read(sweep)
    assert found.accuracy == "accuracy_25"
    assert found.factors == ("method", "data.alpha")
    low, high = trials.levels(found, "data.alpha")
    assert (low.value, low.accuracy.values, high.accuracy.values) == (0.5, 8, 7)
    assert low.accuracy.value == pytest.approx(0.7015)  # 0.7 + seed / 1000, seeds 0 to 3 twice
    assert high.accuracy.value == pytest.approx(0.7 + (6 + 3) / 7000)


def test_a_sweep_s_page_holds_its_figures_and_all_trials(sweep, capsys):
    assert main(["report", str(sweep), "--no-pdf", "--csv"]) == 0
    text = (sweep / "report.html").read_text()
    check_page(text)
    assert "no memory &lt;/script&gt;" in text
    assert text.count('<tr><th scope="row" data-key="') == 16
    assert {path.stem for path in (sweep / "figures").iterdir()} == {"trials", "parallel", "effects", "multiples"}
    assert len((sweep / "tables" / "trials.csv").read_text().splitlines()) == 17


def test_a_parent_that_each_seed_has_to_itself_is_no_factor(sweep):
    seeds = [row["seed"] for row in trials.read(sweep).rows]
    changed(sweep, parent=[f"/parents/{seed}" for seed in seeds])
    assert "parent" not in trials.read(sweep).factors
    changed(sweep, parent=[f"/parents/{n % 2}" for n in range(len(seeds))])
    assert "parent" in trials.read(sweep).factors


def test_a_field_whose_every_trial_has_a_number_of_its_own_is_judged_by_quarters(sweep):
    table = pq.read_table(sweep / "trials.parquet")
    numbers = [7 * n % 16 / 7 for n in range(16)]
    accuracy = [0.7 + 0.1 * (m == "naive") + n % 3 / 1000 for n, m in enumerate(table["method"].to_pylist())]
    changed(sweep, **{"data.alpha": numbers, "accuracy_25": accuracy})
    found = trials.read(sweep)
    effects = trials.effects(found)
    assert list(effects) == ["method", "data.alpha"]  # though single trials are further apart than means
    levels = effects["data.alpha"]
    assert sum(level.accuracy.values for level in levels) == len(found.finished)
    assert [level.accuracy.values for level in levels] == [4, 4, 3, 4]
    assert levels[0].value == "0 to 0.428571"
    assert [len(rows) for rows in trials.parts(found, "data.alpha").values()] == [4, 4, 3, 4]
    effects, multiples = (f for f in sweep_page.of_sweep(sweep)[0].figures if f.name in ("effects", "multiples"))
    assert "Points are single trials" in effects.says
    assert "a panel for each quarter of the values of data.alpha" in multiples.says


@pytest.mark.parametrize(("field", "other"), [("net.name", True), ("train.learning_rate", False)])
def test_trials_of_other_networks_are_told_not_to_be_of_equal_size(field, other, sweep):
    changed(sweep, **{field: ["a", "b"] * 8})
    page, _ = sweep_page.of_sweep(sweep)
    assert any("shares are of each run's own parent" in note for note in page.notes) == other


def test_trials_that_are_as_accurate_as_the_best_are_told(sweep):
    changed(sweep, accuracy_25=[0.5, 0.75, 0.75] + [0.5] * 13)
    page, _ = sweep_page.of_sweep(sweep)
    assert "as 1 other" in page.lead
    assert page.lead.startswith("16 trials that differ in method, data.alpha, seed. Most accurate: ")


def test_a_legend_is_not_wider_than_its_figure(sweep):
    table = pq.read_table(sweep / "trials.parquet")
    changed(sweep, method=[f"{'m' * 18} {m} {n % 3}" for n, m in enumerate(table["method"].to_pylist())])
    for shown in sweep_page.of_sweep(sweep)[0].figures:
        if shown.name in ("trials", "multiples"):
            with plt.rc_context(theme._SETTINGS):
                size = (shown.sketch.width, shown.sketch.height)
                figure, axes = plt.subplots(figsize=size, **shown.sketch.axes)
                shown.sketch.draw(figure, axes)
                figure.canvas.draw()
                legends = figure.legends or [axes.get_legend()]
                box = legends[0].get_window_extent()
                assert (box.x0 >= 0, box.x1 <= figure.bbox.x1) == (True, True)
                plt.close(figure)
    assert charts.named("a", "b", ["m" * 30] * 6)["legend"] == {"columns": 1}


def test_methods_of_too_many_runs_are_not_compared_which_is_said(tmp_path, monkeypatch):
    def failed(values, tries):
        return Outcome("failed", "no memory", "", 2.0) if values["seed"] > 1 else None

    monkeypatch.setattr(running, "_pool", lambda *of_sweep: StubPool(failed))
    monkeypatch.setattr(sweep_page, "_MOST_COMPARED", 3)
    running.run_sweep(grid({"method": ["fednas", "naive"], "seed": list(range(5))}), tmp_path / "sweep", "digits")
    page, _ = sweep_page.of_sweep(tmp_path / "sweep")
    assert any(note.startswith("Methods are not compared") for note in page.notes)
    assert len(page.warnings) == 6
    assert page.warnings[-1] == "1 more failed; trials.parquet has why."


@pytest.mark.parametrize(("costs", "wide"), [([1, 19], False), ([1, 20], True), ([0, 20], False), ([], False)])
def test_costs_that_span_much_are_shown_by_their_logarithms(costs, wide):
    assert trials.spans(costs) is wide


def test_a_sweep_of_one_trial_has_a_page_without_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "_pool", lambda *of_sweep: StubPool())
    running.run_sweep([{"seed": 1}], tmp_path / "one", "digits")
    assert main(["report", str(tmp_path / "one"), "--no-pdf"]) == 0
    text = (tmp_path / "one" / "report.html").read_text()
    check_page(text)
    assert "differ in nothing" in text
    assert "<figure" not in text
    assert "Figures for papers" not in text
    assert text.count('<tr><th scope="row"') == 1


def test_a_field_s_texts_are_text(sweep):
    changed(sweep, method=[HOSTILE, "=x", "_y", "\x1b[2J"] * 4)
    assert main(["report", str(sweep), "--no-pdf"]) == 0
    check_page((sweep / "report.html").read_text())


@pytest.mark.parametrize(
    "kind",
    ["many numbers", "mixed", *(pytest.param(k, marks=pytest.mark.exhaustive) for k in ("one value", "missing"))],
)
def test_any_kind_of_field_is_shown(kind, sweep):
    values = {
        "one value": [1] * 16,
        "many numbers": [n / 7 for n in range(16)],
        "mixed": ["a", "b", None, "c"] * 4,
        "missing": pa.nulls(16, pa.float64()),
    }
    changed(sweep, **{"data.alpha": values[kind]})
    page, finished = sweep_page.of_sweep(sweep)
    assert len(finished) == 15
    for table in page.tables:
        assert {len(row) for row in (*table.rows, *(table.keys or ()))} == {len(table.header)}
    for figure in page.figures:
        assert "<svg" in theme.drawn(figure, pdf=False).svg


@pytest.mark.parametrize(
    ("columns", "want"),
    [
        ({"status": None}, "no column 'status'"),
        ({"seconds": [float("inf")] * 16}, "no finite number"),
        ({"trial": ["../x"] * 16}, "want a name of letters"),
        ({"trial": [None] * 16}, "without a name"),
        ({"status": ["failed"] * 16}, "no finished trial"),
        ({"seconds": ["x"] * 16}, "cannot be read as the table"),
    ],
)
def test_a_table_that_cannot_be_a_sweep_s_is_one_line(columns, want, sweep):
    changed(sweep, **columns)
    with pytest.raises(RunError, match=want):
        trials.read(sweep)


def test_a_damaged_table_is_one_line(sweep):
    (sweep / "trials.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="cannot be read as the table"):
        trials.read(sweep)
