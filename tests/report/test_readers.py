"""What a finished run gives to who reads it in Python, and what is refused of a damaged one."""

import builtins
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import fednas_jax as fn
from fednas_jax import data, nets
from fednas_jax.config.schema import DataConfig, NetConfig
from fednas_jax.errors import DataError, RunError
from fednas_jax.files import write_json
from fednas_jax.phones import ledger


@pytest.fixture
def run(unsealed_run, tmp_path):
    """A copy that a test may change, without checksums."""
    return Path(shutil.copytree(unsealed_run, tmp_path / "run"))


def edit(run, change):
    result = json.loads((run / "result.json").read_text())
    change(result)
    write_json(run / "result.json", result)


def test_a_run_is_read_with_config_result_ledger_and_events(finished_run):
    found = fn.load_run(str(finished_run))
    assert found.config.net.widths == (2, 4, 16)
    assert found.result["models"][-1]["iteration"] == 2
    assert found.result["data"]["fingerprint"] == data.fingerprint(data.load(DataConfig(), 0))
    assert found.ledger.equals(fn.read_ledger(finished_run))
    assert found.ledger.column_names == ledger.SCHEMA.names
    assert sum(found.phases.values()) == pytest.approx(found.result["client_cost"]["search"]["seconds"]["total"])
    assert {"round", "select", "finished"} <= {event["event"] for event in found.events()}


@pytest.mark.parametrize("iteration", [0, 1, 2])
def test_a_loaded_model_has_the_test_accuracy_of_the_result(iteration, finished_run):
    """Every test image by itself, normalised by what the result says, against what the fleet counted."""
    model = fn.load_model(finished_run, iteration)
    test = data.load(DataConfig(), 0).test
    logits = jax.jit(model)(test.inputs)
    assert logits.shape == (len(test.labels), 10)
    members = [fn.load_run(finished_run).result[key] for key in ("parent", "models")]
    want = [members[0], *members[1]][iteration]
    assert float(np.mean(logits.argmax(1) == test.labels)) == pytest.approx(want["test_accuracy"], abs=1e-6)
    assert dict(zip(model.network.widths, model.widths, strict=True)) == want["widths"]
    np.testing.assert_allclose(model(test.inputs[:3].astype(np.float32)), logits[:3], atol=1e-5)


def test_a_model_as_it_was_found_is_another_than_the_fine_tuned_one(finished_run):
    found, tuned = (fn.load_model(finished_run, 1, part) for part in ("", "finetuned"))
    assert found.widths == tuned.widths
    assert any((found.variables.params[n] != tuned.variables.params[n]).any() for n in found.variables.params)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((3,), "iteration: got 3, want 0 to 2"),
        ((1, "best"), "part: got 'best', want 'finetuned' or ''"),
    ],
)
def test_a_model_that_is_not_there_is_refused(arguments, said, finished_run):
    with pytest.raises(RunError, match=said):
        fn.load_model(finished_run, *arguments)


def test_images_of_another_shape_are_refused(finished_run):
    with pytest.raises(DataError, match=r"images: got \[2, 9, 8, 1\], want \[B, 8, 8, 1\]"):
        fn.load_model(finished_run, 0)(np.zeros((2, 9, 8, 1), np.uint8))


def test_a_model_s_files_must_be_of_its_widths(run):
    edit(run, lambda result: result["models"][0]["widths"].update(dense=8000))
    with pytest.raises(RunError, match="is not as this network has it"):
        fn.load_model(run, 1)
    shutil.rmtree(run / "models" / "000" / "finetuned")
    with pytest.raises(RunError, match="iteration 0 was not fine-tuned, want part=''"):
        fn.load_model(run, 0)


def test_a_run_of_an_older_version_has_no_normalisation(run):
    edit(run, lambda result: result.pop("data"))
    with pytest.raises(RunError, match="is of an older version, which did not record how images are normalised"):
        fn.load_model(run, 0)


def test_loading_a_model_runs_no_code_that_the_run_names(run):
    about = json.loads((run / "config.json").read_text())
    about["config"]["net"]["name"] = "os:abort"
    write_json(run / "config.json", about)
    with pytest.raises(RunError, match="its network is os:abort, want it given: loading a run runs no code"):
        fn.load_model(run, 0)
    network = nets.build(NetConfig(widths=(2, 4, 16)), (8, 8, 1), 10)
    assert fn.load_model(run, 0, network=network).network is network


def test_runs_are_a_tidy_frame_with_the_fields_that_differ(run, finished_run):
    about = json.loads((run / "config.json").read_text())
    about["config"]["data"]["alpha"] = 0.125
    about["config"]["net"]["widths"] = [2, 4, 24]
    write_json(run / "config.json", about)
    frame = fn.load_runs([finished_run, run])
    assert len(frame) == 6
    assert list(frame.columns) == [
        *("run", "method", "seed", "preset", "iteration", "widths", "macs", "params", "share", "score"),
        *("test_accuracy", "client_seconds", "simulated_hours", "data.alpha", "net.widths"),
    ]
    assert frame["data.alpha"].tolist() == [0.5] * 3 + [0.125] * 3
    assert frame.share.tolist()[0] == 1.0
    assert frame.iteration.tolist() == [0, 1, 2] * 2
    assert frame.widths[0] == "2-4-16"
    assert "data.alpha" not in fn.load_runs([finished_run])


def test_a_frame_needs_pandas_which_is_said(finished_run, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match="load_runs: got no pandas, want it installed: pip install pandas"):
        fn.load_runs([finished_run])


def part(run):
    return sorted((run / "ledger").glob("*.parquet"))[1]


def rewrite(run, column, value):
    """One row of the ledger's second file gets another value."""
    table = pq.read_table(part(run))
    at = table.column_names.index(column)
    values = table[column].to_pylist()
    values[0] = value
    kind = pa.string() if isinstance(value, str) else table.schema.field(column).type
    pq.write_table(table.set_column(at, column, pa.array(values, kind)), part(run))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: shutil.rmtree(run / "ledger"), r"ledger: got 0 files of 0 client seconds in all, want"),
        (lambda run: part(run).unlink(), r"client seconds in all, want .*: a part is missing or changed"),
        (lambda run: part(run).write_bytes(b""), r"parquet: cannot be read as a part of a ledger: "),
        (lambda run: part(run).write_bytes(part(run).read_bytes()[:-9]), r"parquet: cannot be read as a part"),
        (lambda run: rewrite(run, "client", 6), r"column 'client' got [01] to 6, want 0 to 5"),
        (lambda run: rewrite(run, "client", None), r"column 'client' got 1 rows without a value"),
        (lambda run: rewrite(run, "iteration", 3), r"column 'iteration' got 1 to 3, want 0 to 2"),
        (lambda run: rewrite(run, "seconds", -1.0), r"column 'seconds' got -1 to "),
        (lambda run: rewrite(run, "seconds", float("nan")), r"column 'seconds' got what is no finite number"),
        (lambda run: rewrite(run, "seconds", 1e6), r"client seconds in all, want .*, as in result\.json"),
        (lambda run: rewrite(run, "phase", "nap"), r"column 'phase' got others than download, train"),
    ],
)
def test_a_ledger_that_is_not_the_run_s_is_refused_by_all_who_need_it(harm, said, run):
    harm(run)
    for read in (fn.read_ledger, fn.write_report, lambda run: fn.compare([run])):
        with pytest.raises(RunError, match=said):
            read(run)
    with pytest.raises(RunError, match=said):
        fn.reprice_run(run, fn.load_run(run).config.cost)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("client_cost"), "client_cost: got nothing, want it to be there"),
        (lambda r: r["parent"].update(macs=0), "parent.macs: got 0, want 1 to"),
        (lambda r: r["models"][0].update(macs="many"), "models[0].macs: got 'many', want a whole number"),
        (lambda r: r.update(models={}), "models: got an object of 0, want a list"),
        (lambda r: r["models"].reverse(), "models[0].iteration: got 2, want 1"),
        (lambda r: r.update(clients=10**9), "clients: got 1000000000, want 1 to 1e+07"),
    ],
)
def test_a_result_of_another_form_is_refused_by_file_and_field(change, said, run):
    edit(run, change)
    with pytest.raises(RunError) as caught:
        fn.load_run(run)
    assert str(caught.value).startswith(f"{run}/result.json: {said}")


@pytest.mark.parametrize("name", ["models/000/widths.json", "result.json", "manifest.json", "events.jsonl"])
def test_what_the_run_listed_and_sealed_is_verified(name, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    assert fn.load_run(tmp_path / "run").result == fn.load_run(finished_run).result
    text = (tmp_path / "run" / name).read_text()
    (tmp_path / "run" / name).write_text("2".join(text.rsplit("1", 1)))
    with pytest.raises(RunError, match=rf"{re.escape(name)}:? is damaged or was changed"):
        fn.load_run(tmp_path / "run")
