"""A watcher shows what runs are doing, and leaves their folders as they are."""

import io
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from fednas_jax.cli.app import main
from fednas_jax.files import write_json
from fednas_jax.report import watching
from fednas_jax.report.watch_view import Plain, line_of, shown, summary
from fednas_jax.report.watching import begin, left_of, look, over

NOBODY = 2**22 + 1  # no process has this number


def pretraining(n, rounds=10):
    return {"event": "round", "stage": "pretrain", "round": n, "rounds": rounds, "bucket": 0, "client_seconds": 10.0}


def searching(iteration, n, scores):
    said = {"event": "round", "stage": "search", "iteration": iteration, "rung": 1, "rungs": 2, "round": n, "rounds": 2}
    return said | {"alive": 3, "scores": scores, "client_seconds": 5.0}


SELECT = {"event": "select", "iteration": 1, "winner": "a", "widths": [2], "score": 0.8, "macs": 9, "progress": 0.25}


class Writer:
    """A run's folder as a process that works on it would leave it."""

    def __init__(self, folder, process=None):
        folder.mkdir(parents=True)
        self.folder, self.events = folder, folder / "events.jsonl"
        write_json(folder / "config.json", {})
        if process:
            write_json(folder / ".owner.json", {"host": socket.gethostname(), "process": process, "since": "now"})

    def tell(self, *events, end=b"\n"):
        with self.events.open("ab") as file:
            file.write(b"\n".join(json.dumps(event).encode() for event in events) + end)

    def resume(self, size, **said):
        os.truncate(self.events, size)
        self.tell({"event": "resume", "step": 1, "progress": 0.0} | said)

    def finish(self):
        self.tell({"event": "finished", "stop_reason": "budget reached"})
        write_json(self.folder / "result.json", {})
        (self.folder / ".owner.json").unlink(missing_ok=True)


def only(seen):
    (view,) = seen.views.values()
    return view


def text_of(seen, now=None, most=99, width=160):
    out = io.StringIO()
    Console(file=out, width=width).print(shown(seen, now or time.time(), most, width))
    return out.getvalue()


def test_a_run_is_followed_from_stage_to_stage(tmp_path):
    run = Writer(tmp_path / "mine", os.getpid())
    seen = look(begin(run.folder), time.time())
    assert (only(seen).name, only(seen).status, only(seen).stage) == ("mine", "running", "")
    run.tell(*(pretraining(n) for n in range(1, 6)))
    seen = look(seen, time.time())
    assert (only(seen).part, only(seen).done, only(seen).client_seconds) == ("pretrain", 0.5, 50)
    run.tell(*(pretraining(n) for n in range(6, 11)), {"event": "parent", "score": 0.7, "client_seconds": 2.0})
    run.tell(searching(1, 1, {"a": 0.5, "b": 0.9}), searching(1, 2, {}))
    seen = look(seen, time.time())
    assert (only(seen).part, only(seen).alive, only(seen).best, only(seen).done) == ("search 1", 3, 0.9, 0)
    run.tell(SELECT, {"event": "diverged", "stage": "finetune", "iteration": 1})
    run.tell({"event": "warning", "message": "the parent guesses"})
    seen = look(seen, time.time())
    said = line_of(only(seen), time.time())
    assert (
        "mine: running, search 1, round 2/2, 25 % of the stage, 1 alive, best 0.800, all clients' seconds 112" in said
    )
    assert "2 warnings" in said
    assert "mine: the parent guesses" in text_of(seen)
    assert not over(seen)
    run.finish()
    seen = look(seen, time.time())
    assert only(seen).status == "finished"
    assert over(seen)


@pytest.mark.parametrize("width", [100, 80, 60, 40])
def test_a_narrow_terminal_has_fewer_columns_and_the_ends_of_names(tmp_path, width):
    for seed in (1, 2):
        run = Writer(tmp_path / f"learning_rate0.05-partition_dirichlet-seed{seed}", os.getpid())
        run.tell(*(pretraining(n) for n in range(1, 6)), {"event": "warning", "message": "so"})
    said = text_of(look(begin(tmp_path), time.time()), width=width)
    rows = [line for line in said.splitlines() if "pretrain" in line]
    assert {row.split()[0][-5:] for row in rows} == {"seed1", "seed2"}
    assert all(row.split()[1:3] == ["running", "pretrain"] for row in rows)
    assert all("…" not in row.split(maxsplit=1)[1] for row in rows)
    assert ("50 %" in rows[0]) == (width > 40)
    assert "best" not in said  # nothing is known of it


def test_a_run_at_the_end_of_a_stage_has_one_warning_and_nothing_left_of_it(tmp_path):
    run = Writer(tmp_path / "run", os.getpid())
    run.tell(*(pretraining(n) for n in range(1, 11)), {"event": "warning", "message": "so"})
    view = only(look(begin(run.folder), time.time()))
    assert view.left(time.time() + 9) is None
    assert line_of(view, time.time() + 9).endswith("all clients' seconds 100, 1 warning")


def test_half_a_line_and_a_resume_that_cut_the_file_count_nothing_twice(tmp_path):
    run = Writer(tmp_path / "run", os.getpid())
    run.tell(pretraining(1), pretraining(2), end=b'\n{"event": "rou')
    seen = look(begin(run.folder), time.time())
    assert (only(seen).client_seconds, only(seen).damaged) == (20, 0)
    size = len(json.dumps(pretraining(1))) + 1
    run.resume(size, client_seconds=10.0)
    run.tell(*(pretraining(n) for n in range(2, 8)))
    seen = look(seen, time.time())
    assert (only(seen).client_seconds, only(seen).round, only(seen).damaged) == (70, 7, 0)


def test_what_vanishes_is_no_longer_shown(tmp_path):
    run, other = Writer(tmp_path / "a", os.getpid()), Writer(tmp_path / "b", os.getpid())
    run.tell(pretraining(1))
    seen = look(begin(tmp_path), time.time())
    assert len(seen.views) == 2
    run.events.unlink()
    assert look(seen, time.time()).views[run.folder].client_seconds == 0
    for file in run.folder.iterdir():
        file.unlink()
    run.folder.rmdir()
    assert list(look(seen, time.time()).views) == [other.folder]


def test_time_left_is_told_by_what_was_seen_and_not_by_what_was_done_before(tmp_path):
    run = Writer(tmp_path / "run", os.getpid())
    run.tell(*(pretraining(n) for n in range(1, 5)))
    seen = look(begin(run.folder), time.time())
    began = only(seen).began[0]
    assert only(seen).left(began + 5) is None
    run.tell(pretraining(5))
    assert only(look(seen, began + 6)).left(began + 6) == pytest.approx(6 * 0.5 / 0.1)


def test_a_sweep_is_counted_by_what_its_trials_do(tmp_path):
    names = ["runs", "killed", "failed", "bad", "done", "later", "old"]
    write_json(tmp_path / "sweep.json", {"trials": [{"name": name} for name in names]})
    trials = tmp_path / "trials"
    Writer(trials / "runs", os.getpid()).tell(pretraining(3))
    Writer(trials / "killed", NOBODY).tell(pretraining(1))
    Writer(trials / "failed").tell(pretraining(1))
    (tmp_path / "failed").mkdir()
    write_json(tmp_path / "failed" / "failed.json", {"error": "train.loss: got nonsense"})
    write_json(tmp_path / "failed" / "bad.json", {"error": "it never began"})
    done = Writer(trials / "done")
    done.finish()
    os.utime(done.folder / "config.json", (time.time() - 100,) * 2)
    old = Writer(trials / "old")
    old.tell(pretraining(2))
    for file in old.folder.iterdir():
        os.utime(file, (time.time() - 1000,) * 2)
    Writer(tmp_path / "replaced" / "runs-1")
    seen = look(begin(tmp_path), time.time())
    status = {view.name: view.status for view in seen.views.values()}
    assert status == {
        **{"runs": "running", "killed": "stopped", "failed": "failed", "bad": "failed", "done": "finished"},
        "old": "stopped",
    }
    line = summary(seen)
    assert line.startswith("7 runs: 1 running, 1 waiting, 2 stopped, 2 failed, 1 finished, all clients' seconds 40")
    assert left_of(seen) == pytest.approx(150, rel=0.05)
    said = text_of(seen)
    assert "failed: train.loss: got nonsense" in said
    assert "killed: its process is gone" in said
    rows = [line.split()[:2] for line in said.splitlines() if line.split()[:1] and line.split()[0] in names]
    assert rows[0] == ["runs", "running"]
    assert rows[-1] == ["done", "finished"]
    assert "5 more" in text_of(seen, most=1)


def test_a_trial_that_failed_and_is_tried_again_is_running(tmp_path):
    run = Writer(tmp_path / "trials" / "a", os.getpid())
    (tmp_path / "failed").mkdir()
    write_json(tmp_path / "failed" / "a.json", {"error": "no"})
    seen = look(begin(tmp_path), time.time())
    assert only(seen).status == "running"
    run.finish()
    assert only(look(seen, time.time())).status == "finished"


@pytest.mark.parametrize(("where", "name"), [("trials", "a"), ("trials/a", "."), (".", "trials/a"), ("..", "sweep")])
def test_a_dropped_trial_is_known_by_whatever_name_its_folder_is_given(where, name, tmp_path, monkeypatch):
    Writer(tmp_path / "sweep" / "trials" / "a", NOBODY).tell(pretraining(1))
    monkeypatch.chdir(tmp_path / "sweep" / where)
    for scores in (tmp_path / "sweep" / "scores", tmp_path / "sweep" / "scores" / "left_out"):
        scores.mkdir()
        write_json(scores / "a.json", {"dropped": {"iteration": 1}})
        assert only(look(begin(Path(name)), time.time())).status == "dropped"
        (scores / "a.json").unlink()


@pytest.mark.parametrize(("where", "name"), [(".", "run"), ("run", ".")])
def test_a_run_that_stopped_is_no_dropped_trial(where, name, tmp_path, monkeypatch):
    Writer(tmp_path / "run", NOBODY).tell(pretraining(1))
    monkeypatch.chdir(tmp_path / where)
    assert only(look(begin(Path(name)), time.time())).status == "stopped"


def test_plain_lines_say_what_changes_and_not_every_round(tmp_path):
    run, out = Writer(tmp_path / "runs" / "a", os.getpid()), io.StringIO()
    plain, seen = Plain(Console(file=out, width=200)), begin(tmp_path)
    for events in ([pretraining(1)], [pretraining(2)], [pretraining(3)], [searching(1, 1, {"a": 0.5})], []):
        if events:
            run.tell(*events)
        seen = look(seen, time.time())
        plain.show(seen, time.time())
    said = out.getvalue().splitlines()
    assert [line.split(",")[1] for line in said if line.startswith("runs/a")] == [" pretrain", " search 1"]
    assert len([line for line in said if line.startswith("1 run: 1 running")]) == 1


def test_nothing_that_events_say_is_obeyed(tmp_path):
    run = Writer(tmp_path / "run", os.getpid())
    run.tell({"event": "warning", "message": "[red]\x1b[2J$x$"}, {"event": "round", "stage": 3}, {"event": "strange"})
    run.tell({"event": "select"}, {"event": "round"})
    seen = look(begin(run.folder), time.time())
    assert only(seen).damaged == 2
    assert "\x1b" not in text_of(seen)
    assert "[red]" in text_of(seen)


def test_watching_leaves_a_folder_as_it_is(tmp_path):
    run = Writer(tmp_path / "trials" / "a", os.getpid())
    run.tell(pretraining(1))
    write_json(tmp_path / "sweep.json", {"trials": []})

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}

    before = state()
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert main(["watch", str(run.folder), "--once"]) == 0
    assert state() == before


def test_the_command_goes_on_until_the_writer_is_done(tmp_path, capsys):
    run = Writer(tmp_path / "run", os.getpid())

    def work():
        for n in range(1, 11):
            run.tell(pretraining(n), end=b"")
            time.sleep(0.02)
            run.tell(end=b"\n")
        run.tell(searching(1, 1, {"a": 0.5}))
        time.sleep(0.1)
        run.finish()

    writer = threading.Thread(target=work)
    writer.start()
    try:
        assert main(["watch", str(run.folder), "--every", "0.05"]) == 0
    finally:
        writer.join()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("run: running")
    assert said[-1].startswith("run: finished, search 1, round 1/2")
    assert "all clients' seconds 105" in said[-1]


def test_a_terminal_shows_a_live_table(tmp_path, monkeypatch, capsys):
    run, out = Writer(tmp_path / "run", os.getpid()), io.StringIO()
    run.tell(pretraining(1))
    console = Console(file=out, force_terminal=True, width=120, height=30)
    monkeypatch.setattr("fednas_jax.cli.watch.terminal", lambda: console)
    waits = iter([lambda: run.tell(pretraining(2)), run.finish])
    monkeypatch.setattr("fednas_jax.cli.watch.time.sleep", lambda seconds: next(waits)())
    assert main(["watch", str(run.folder)]) == 0
    said = out.getvalue()
    assert "1/10" in said
    assert "2/10" in said
    assert "1 run: 1 finished" in said

    def interrupt(seconds):
        raise KeyboardInterrupt

    (run.folder / "result.json").unlink()
    monkeypatch.setattr("fednas_jax.cli.watch.time.sleep", interrupt)
    assert main(["watch", str(run.folder)]) == 130
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back
    assert capsys.readouterr().err == ""


def test_folders_without_runs_are_refused(tmp_path, capsys):
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert "is no folder, want that of a run" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--once"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--every", "0"]) == 2
    assert "--every: got 0" in capsys.readouterr().err


def test_many_finished_runs_are_read_once(tmp_path, monkeypatch):
    for n in range(20):
        run = Writer(tmp_path / f"run-{n}")
        run.tell(pretraining(1))
        run.finish()
    seen = look(begin(tmp_path), time.time())
    monkeypatch.setattr(watching, "read_on", lambda *args: pytest.fail("read again"))
    assert len(look(seen, time.time()).views) == 20
