"""What a run lists of itself is found again, and every kind of change is named."""

import pytest

from fednas_jax.errors import RunError
from fednas_jax.run.manifest import LISTING, entry, files, verify_files, write_listing


@pytest.fixture
def run(tmp_path):
    for name in ("ledger/0000-a.parquet", "ledger/0001-b.parquet", "models/000/variables/d/x", "inputs/0-my (1).csv"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    for name in ("config.json", "events.jsonl", "report.html", "result.json"):
        (tmp_path / "run" / name).write_text(f"{name}\n")
    return tmp_path / "run"


def test_what_belongs_to_a_run_is_listed_with_sizes_and_checksums(run):
    listed = files(run)
    assert [entry["path"] for entry in listed] == [
        "config.json",
        "events.jsonl",
        "inputs/0-my (1).csv",
        "ledger/0000-a.parquet",
        "ledger/0001-b.parquet",
        "models/000/variables/d/x",
    ]
    assert listed[0]["bytes"] == len("config.json\n")
    # sha256sum of that line
    assert listed[0]["sha256"] == "341c76ab4124d205ea796850984d042aefae420226f5017983fab00e435d746e"
    verify_files(run, listed)


def test_events_may_follow_a_checkpoint_and_not_the_end(run):
    listed = files(run)
    with (run / "events.jsonl").open("a") as file:
        file.write("more\n")
    verify_files(run, listed, others=True)
    with pytest.raises(RunError, match=r"events\.jsonl is damaged or was changed"):
        verify_files(run, listed)


def test_a_listing_stands_for_the_files_that_it_lists(run):
    folder = run / "models" / "007"
    folder.mkdir()
    (folder / "weights").write_text("weights")
    write_listing(folder)
    listed = [entry(run, folder / LISTING)]
    verify_files(run, listed, others=True)
    (folder / "weights").write_text("others")
    with pytest.raises(RunError, match=r"models/007/weights is damaged or was changed"):
        verify_files(run, listed, others=True)
    (folder / "weights").unlink()
    with pytest.raises(RunError, match=r"models/007/weights is missing"):
        verify_files(run, listed, others=True)


def change(run, name, text):
    (run / name).write_text(text)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda run: (run / "ledger/0000-a.parquet").unlink(), "ledger/0000-a.parquet is missing"),
        (
            lambda run: change(run, "models/000/variables/d/x", "y"),
            "models/000/variables/d/x is damaged or was changed",
        ),
        (lambda run: change(run, "inputs/0-my (1).csv", "inputs/0-my (2).csv"), "inputs/0-my (1).csv is damaged"),
        (lambda run: change(run, "events.jsonl", "even"), "events.jsonl is damaged"),
        (lambda run: change(run, "events.jsonl", "Events.jsonl\nmore"), "events.jsonl is damaged"),
        (lambda run: change(run, "ledger/0002-c.parquet", ""), "ledger/0002-c.parquet is not of this run"),
        (lambda run: (run / "config.json").unlink() or (run / "config.json").mkdir(), "config.json: got no plain file"),
    ],
)
def test_what_is_missing_damaged_or_foreign_is_named(harm, said, run):
    listed = files(run)
    harm(run)
    with pytest.raises(RunError) as caught:
        verify_files(run, listed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "ledger/../../secret", "", "a//b", "a\0b"])
def test_a_listed_path_leads_nowhere_else(path, run):
    with pytest.raises(RunError, match="want a file below the run's folder"):
        verify_files(run, [{"path": path, "bytes": 0, "sha256": ""}])


def test_a_link_is_no_file_of_the_run(run):
    listed = files(run)
    (run / "ledger").rename(run.parent / "elsewhere")
    (run / "ledger").symlink_to(run.parent / "elsewhere")
    with pytest.raises(RunError, match="ledger: is a link"):
        verify_files(run, listed)


def test_of_many_wrong_files_three_are_named(run):
    listed = files(run)
    for each in listed:
        (run / each["path"]).unlink()
    with pytest.raises(RunError, match=r"is missing, .* and 3 more, want the files as the run left them"):
        verify_files(run, listed)
