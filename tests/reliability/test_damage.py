"""A damaged folder: the run ends in the result it would have had, or says in one line what is wrong."""

import shutil

import faults
import pytest

from fednas_jax.cli.app import main
from fednas_jax.errors import RunError
from fednas_jax.run import folder
from fednas_jax.run.folder import RunDir
from fednas_jax.run.verifying import verify_run

# One of each kind by default; the gate tries every checkpoint and kind, and more seeds.
QUICK = [("flip", 0)]
CHECKPOINTS = [(kind, seed) for seed in range(faults.TIMES) for kind in faults.KINDS]


def newest(out):
    return faults.files(out, "checkpoints")[-1]


@pytest.mark.parametrize(("kind", "seed"), QUICK)
def test_a_damaged_newest_checkpoint_falls_back_and_the_result_is_the_same(half, expected, tmp_path, kind, seed):
    out = faults.copied(half, tmp_path / "run")
    step = int(newest(out).name[:8])
    faults.damage(newest(out), kind, faults.rng(seed))
    assert faults.tried(out) == expected
    (fallback,) = faults.events(out, "fallback")
    assert fallback["step"] == step
    assert "damaged" in fallback["reason"]


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize(("kind", "seed"), CHECKPOINTS)
def test_any_damaged_checkpoint_costs_a_round_or_nothing(half, expected, tmp_path, kind, seed, number):
    """Each file of the folder, the newest last; of those that are older than the newest nobody reads."""
    out = faults.copied(half, tmp_path / "run")
    found = faults.files(out, "checkpoints")
    faults.damage(found[min(number, len(found) - 1)], kind, faults.rng([seed, number]))
    assert faults.tried(out) == expected


def test_where_no_checkpoint_is_left_the_run_says_so_and_changes_nothing(half, tmp_path):
    out = faults.copied(half, tmp_path / "run")
    for path in faults.files(out, "checkpoints"):
        faults.damage(path, "cut", faults.rng(3))
    before = {p: p.read_bytes() for p in faults.files(out, "ledger", "models", "checkpoints")}
    said = faults.tried(out)
    assert "checkpoints can be believed, want one intact" in said
    assert {p: p.read_bytes() for p in faults.files(out, "ledger", "models", "checkpoints")} == before


def test_a_folder_whose_checkpoints_are_gone_begins_anew_with_nothing_of_before(half, expected, tmp_path):
    """As of a copy that left them out, being large."""
    out = faults.copied(half, tmp_path / "run")
    shutil.rmtree(out / "checkpoints")
    (out / "models" / "000.tmp").mkdir()  # of a process that was killed
    (out / "models" / "notes.txt").write_text("a user's")
    assert faults.tried(out) == expected
    assert {path.name for path in (out / "models").iterdir()} == {"000", "001", "002", "notes.txt"}


@pytest.mark.parametrize("part", ["ledger", "models", "events.jsonl"])
def test_what_a_link_leads_to_is_not_taken_back(half, tmp_path, part):
    out, mine = faults.copied(half, tmp_path / "run"), tmp_path / "mine"
    shutil.rmtree(out / "checkpoints")
    (out / part).rename(mine)
    (out / part).symlink_to(mine)
    before = {path: path.read_bytes() for path in [mine, *mine.rglob("*")] if path.is_file()}
    assert f"{part}: is a link" in faults.tried(out)
    assert {path: path.read_bytes() for path in before} == before


def test_other_versions_than_those_it_began_with_are_a_warning_in_the_result(half, expected, tmp_path, monkeypatch):
    out, real = faults.copied(half, tmp_path / "run"), folder._version
    monkeypatch.setattr(folder, "_version", lambda package: "9.9" if package == "optax" else real(package))
    result, rows = faults.tried(out)
    (warning,) = result.pop("warnings")
    assert warning.startswith("it went on with other versions, which may add in another order: optax ")
    assert warning.endswith(", 9.9 now")
    assert (result | {"warnings": []}, rows) == expected


@pytest.mark.parametrize("folder", ["ledger", "models"])
def test_a_part_that_no_checkpoint_can_bring_back_is_named(half, tmp_path, folder):
    """The first of them: every checkpoint that is left speaks of it."""
    out = faults.copied(half, tmp_path / "run")
    victim = faults.files(out, folder)[0]
    victim.unlink()
    said = faults.tried(out)
    assert f"{victim.relative_to(out).as_posix()} is missing" in said
    with pytest.raises(RunError, match="is missing"):
        verify_run(out)


def test_a_part_that_only_the_newest_checkpoint_speaks_of_is_brought_back(whole, expected, tmp_path):
    out = tmp_path / "run"
    faults.stopped(out, 8)  # the first iteration has just ended in the newest
    victim = faults.files(out, "ledger")[-1]
    faults.damage(victim, "flip", faults.rng(4))
    assert faults.tried(out) == expected
    assert victim.name in faults.events(out, "fallback")[0]["reason"]


SUMMARIES = ("result.json", "manifest.json")
OTHERS = [(kind, part) for part in ("ledger", "models", "events.jsonl", "config.json") for kind in faults.KINDS]


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(faults.TIMES))
@pytest.mark.parametrize(("kind", "part"), OTHERS)
def test_any_other_damaged_file_is_named_or_does_not_matter(half, expected, tmp_path, kind, part, seed):
    out = faults.copied(half, tmp_path / "run")
    found = faults.files(out, part) or [out / part]
    rng = faults.rng([seed, len(part), len(kind)])
    faults.damage(found[int(rng.integers(len(found)))], kind, rng)
    got = faults.tried(out)
    assert got == expected or isinstance(got, str)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(faults.TIMES))
@pytest.mark.parametrize(("kind", "part"), [*OTHERS, *((k, p) for p in SUMMARIES for k in faults.KINDS)])
def test_no_command_believes_a_damaged_finished_run(whole, tmp_path, capsys, kind, part, seed):
    out = faults.copied(whole, tmp_path / "run")
    found = faults.files(out, part) or [out / part]
    rng = faults.rng([seed, len(part), len(kind)])
    victim = found[int(rng.integers(len(found)))]
    before = victim.read_bytes()
    faults.damage(victim, kind, rng)
    same = victim.exists() and victim.read_bytes() == before
    for command in (["report"], ["compare"], ["reprice"], ["verify"]):
        code = main([*command, str(out)])
        said = capsys.readouterr()
        # Without its result a run is not finished: it goes on from its last checkpoint.
        anew = part == "result.json" and kind == "delete" and command == ["verify"]
        assert code == (0 if same or anew else 2), (command, said)
        assert said.err.count("\n") == (code == 2)
        assert "Traceback" not in said.err


def test_a_finished_run_without_its_ledger_is_refused(whole, tmp_path, capsys):
    out = faults.copied(whole, tmp_path / "run")
    for path in faults.files(out, "ledger"):
        path.unlink()
    for command in ("report", "compare", "verify"):
        assert main([command, str(out)]) == 2
        assert "is missing" in capsys.readouterr().err


def test_a_number_of_the_result_that_was_changed_is_noticed(whole, tmp_path, capsys):
    out = faults.copied(whole, tmp_path / "run")
    path = out / "result.json"
    path.write_text(path.read_text().replace('"test_accuracy": 0.', '"test_accuracy": 0.9', 1))
    assert main(["report", str(out)]) == 2
    assert "damaged or was changed" in capsys.readouterr().err


def test_what_verify_says_of_runs(whole, half, capsys):
    assert main(["verify", str(whole), str(half)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "finished;" in lines[0]
    assert "all as the run wrote them" in lines[0]
    assert "goes on from checkpoint" in lines[1]
    assert verify_run(half).step == int(newest(half).name[:8])
    assert RunDir(half).result() is None
