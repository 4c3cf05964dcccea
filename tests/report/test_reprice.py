"""Tiny runs whose clients are away, leave or are late: who is left out of training, and runs priced again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from fednas_jax.cli.app import main
from fednas_jax.config.schema import (
    Config,
    CostConfig,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    ParticipationConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.engine.fleet import Fleet
from fednas_jax.errors import ConfigError, Interrupted, RunError
from fednas_jax.phones import availability, ledger, totals
from fednas_jax.report.reprice import reprice_run
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search

TINY = Config(
    data=DataConfig(clients=6, min_examples=10),
    net=NetConfig(widths=(2, 4, 16), multiple=(1, 1, 8)),
    train=TrainConfig(batch_size=30, compression="int8"),
    pretrain=StageConfig(rounds=3, clients_per_round=4),
    search=SearchConfig(groups=3, rungs=((1, 2), (1, 1)), max_iterations=1, compact_at=0.99, budget=0.5),
    finetune=FinetuneConfig(rounds=2),
    cost=CostConfig(population="flash", server_seconds=0.5),
    participation=ParticipationConfig(availability="bernoulli", available=0.3, dropout=0.3, overcommit=1.0),
    engine=EngineConfig(lanes=2, checkpoint_rounds=2),
)
TABLE = "name,share,base [ms],speed [ms/MMAC],down [Mbit/s],up [Mbit/s]\nslow,1,9,900,0.1,0.1\nfast,1,0.5,1,8,8\n"


def run(config, out, **more):
    return run_search(config, out, devices=jax.devices()[:1], **more)


def recorded(config, out):
    """The run, and the tasks that its engine was given, round by round."""
    given, begin = [], Fleet.begin

    def noted(self, widths, stack, server, tasks, *rest):
        given.append(sorted(zip(tasks.candidate.tolist(), tasks.client.tolist(), strict=True)))
        return begin(self, widths, stack, server, tasks, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fleet, "begin", noted)
        result = run(config, out)
    return result, out, given


@pytest.fixture(scope="module")
def leaving(tmp_path_factory):
    return recorded(TINY, tmp_path_factory.mktemp("leaving") / "run")


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    (folder / "phones.csv").write_text(TABLE)
    config = dataclasses.replace(
        TINY,
        cost=CostConfig(population=str(folder / "phones.csv")),
        participation=ParticipationConfig(deadline_seconds=0.6, overcommit=1.25),
    )
    return recorded(config, folder / "run")


@pytest.mark.parametrize("kind", ["leaving", "late"])
def test_the_engine_trains_those_whose_work_is_used_and_nobody_else(kind, request):
    _, out, given = request.getfixturevalue(kind)
    wasted = 0
    training = [
        rows
        for _, table in ledger.read_files(RunDir(out).ledger)
        for _, work, rows in ledger.rounds(table)
        if work == "training"
    ]
    assert len(training) == len(given)
    for tasks, table in zip(given, training, strict=True):
        rows = table.to_pandas()
        uploads = rows[rows.used & (rows.phase == "upload")]
        # Candidates are numbered by their places, members of the family in fine-tuning by iteration: 0 and 1.
        assert sorted(zip(uploads.candidate, uploads.client, strict=True)) == tasks
        wasted += (~rows.used).sum()
    assert wasted > 0
    assert sum(len(tasks) for tasks in given) > 0


def test_what_leavers_did_is_charged_and_they_send_nothing(leaving):
    _, out, _ = leaving
    lost = ledger.read(RunDir(out).ledger).to_pandas()
    lost = lost[~lost.used]
    assert set(lost.phase) <= {"download", "train"}
    steps = lost[lost.phase == "train"].examples
    assert (steps % TINY.train.batch_size == 0).all()


def test_the_late_stop_at_the_deadline_and_no_round_is_longer(late):
    result, out, _ = late
    for _, table in ledger.read_files(RunDir(out).ledger):
        for _, work, rows in ledger.rounds(table):
            if work == "training":
                busy = totals.sums_by(rows, "client")["seconds"].to_numpy()
                assert busy.max() <= 0.6 * (1 + 1e-9)
    assert result["wasted"]["all"]["seconds"] > 0
    rounds = [e for e in RunDir(out).events() if e["event"] == "round" and e["stage"] != "search"]
    assert all(e["simulated_seconds"] <= 0.6 for e in rounds)


def test_simulated_hours_add_up_and_grow_with_the_iterations(leaving):
    result, out, _ = leaving
    hours = result["simulated_hours"]
    assert hours["all"] == pytest.approx(sum(hours[stage] for stage in ledger.STAGES))
    seconds = sum(e.get("simulated_seconds", 0) for e in RunDir(out).events() if e["event"] in ("round", "parent"))
    assert hours["all"] == pytest.approx(seconds / 3600)
    assert result["parent"]["simulated_hours"] == 0
    assert result["models"][0]["simulated_hours"] == pytest.approx(hours["search"])


def test_compressed_uploads_are_smaller_than_downloads(leaving):
    spent = leaving[0]["client_cost"]["pretrain"]
    frame = ledger.read(RunDir(leaving[1]).ledger).to_pandas()
    sent = frame[frame.phase == "upload"].groupby("candidate").bytes.first()[0]
    got = frame[frame.phase == "download"].groupby("candidate").bytes.first()[0]
    assert sent < 0.35 * got
    assert spent["bytes_up"]["total"] < spent["bytes_down"]["total"]


def test_repricing_a_run_on_its_own_phones_gives_its_own_ledger(leaving):
    result, out, _ = leaving
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p != out}
    found = reprice_run(out, TINY.cost)
    assert found["client_cost"] == result["client_cost"]
    assert found["wasted"] == result["wasted"]
    assert found["simulated_hours"] == pytest.approx(result["simulated_hours"], rel=1e-12)
    assert any("waited_seconds" in event for event in RunDir(out).events())
    assert found["models"][1]["client_seconds"] == result["models"][0]["client_seconds"]
    assert found["models"][1]["simulated_hours"] == pytest.approx(result["models"][0]["simulated_hours"])
    assert json.loads((out / "reprice" / "flash.json").read_text()) == found
    after = {p: p.stat().st_mtime_ns for p in out.rglob("*") if "reprice" not in str(p.relative_to(out)) and p != out}
    assert after == before


def test_the_command_line_prices_a_run_on_other_phones(leaving, capsys):
    result, out, _ = leaving
    assert main(["reprice", str(out), "--population", "flash_kilobytes", "--name", "fast"]) == 0
    said = capsys.readouterr().out
    assert "flash_kilobytes" in said
    assert " (as run)" in said
    found = json.loads((out / "reprice" / "fast.json").read_text())
    mine, theirs = result["client_cost"]["all"], found["client_cost"]["all"]
    assert theirs["macs"] == mine["macs"]
    assert theirs["bytes_up"] == mine["bytes_up"]
    assert theirs["seconds"]["total"] < mine["seconds"]["total"]
    assert found["simulated_hours"]["all"] < result["simulated_hours"]["all"]
    # The phones are the same, the links eight times as fast: only bytes take less time.
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    moved = frame.seconds[frame.phase.isin(["download", "upload"])].sum()
    assert theirs["seconds"]["total"] == pytest.approx(mine["seconds"]["total"] - moved * 7 / 8)


def test_a_run_whose_participation_had_a_price_is_not_priced_again(late, capsys):
    with pytest.raises(RunError, match=r"participation\.overcommit: got 1\.25, want its default: who took part"):
        reprice_run(late[1], CostConfig())
    assert main(["reprice", str(late[1]), "--population", "phones"]) == 2
    assert capsys.readouterr().err.startswith("fednas: ")
    assert not (late[1] / "reprice").exists()


@pytest.mark.exhaustive
def test_who_is_there_depends_on_the_simulated_clock_and_stopping_does_not_matter(tmp_path):
    """Clients 0 to 2 are there for the first two seconds of every five, 3 to 5 for the rest."""
    spells = [f"{c},{2 * (c > 2)},{2 + 3 * (c > 2)}" for c in range(6)]
    (tmp_path / "trace.csv").write_text("\n".join(["client,from [s],to [s]", *spells]))
    config = dataclasses.replace(
        TINY,
        cost=CostConfig(seconds_per_example=0.001, server_seconds=1.0),
        participation=ParticipationConfig(availability="trace", trace=tmp_path / "trace.csv"),
        search=dataclasses.replace(TINY.search, budget=1.0),  # pretraining alone
        finetune=FinetuneConfig(rounds=0),
    )
    _, whole, given = recorded(config, tmp_path / "whole")
    crews = [{client > 2 for _, client in tasks} for tasks in given]
    assert all(len(crew) == 1 for crew in crews)
    assert {True, False} <= set().union(*crews)
    asked = iter([False, False])
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", should_stop=lambda: next(asked, True))
    (tmp_path / "trace.csv").write_text("\n".join(["client,from [s],to [s]", "0,0,7"]))
    with pytest.raises(RunError, match=r"^participation\.trace: .*trace\.csv has changed since this run began with it"):
        run(config, tmp_path / "stopped")
    (tmp_path / "trace.csv").write_bytes((tmp_path / "stopped" / "inputs" / "0-trace.csv").read_bytes())
    run(config, tmp_path / "stopped")
    mine, theirs = (RunDir(tmp_path / name) for name in ("stopped", "whole"))
    assert ledger.read(mine.ledger).equals(ledger.read(theirs.ledger))
    assert mine.result()["simulated_hours"] == theirs.result()["simulated_hours"]
    assert whole == theirs.path


def seconds_there(now, client, start, end):
    """Seconds between two moments in which a client is there, spell by spell, cycle by cycle."""
    total, cycle = 0.0, now.cycle[client]
    mine = now.client == client
    for turn in range(int((start + now.offset[client]) // cycle), int((end + now.offset[client]) // cycle) + 1):
        begins = now.start[mine] + turn * cycle - now.offset[client]
        ends = now.end[mine] + turn * cycle - now.offset[client]
        total += np.clip(np.minimum(ends, end) - np.maximum(begins, start), 0, None).sum()
    return total


@pytest.mark.exhaustive
def test_no_client_works_while_it_is_away(tmp_path):
    comes_and_goes = ParticipationConfig(
        availability="intervals", ready_seconds=(20.0, 90.0), away_seconds=(20.0, 60.0), wait_seconds=5.0
    )
    config = dataclasses.replace(TINY, cost=CostConfig(), participation=comes_and_goes)
    result, out, given = recorded(config, tmp_path / "run")
    now = availability.presence(comes_and_goes, 6, config.seed)
    frame, clock = ledger.read(RunDir(out).ledger).to_pandas(), 0.0
    for event in RunDir(out).events():
        if event["event"] not in ("round", "parent"):
            continue
        stage = event.get("stage", "pretrain")
        rows = frame[frame.stage == stage]
        if stage == "pretrain":
            rows = rows[(rows.phase == "evaluate") | (rows.work == "scoring") == (event["event"] == "parent")]
        rows = rows[(rows["round"] == event.get("round", config.pretrain.rounds))]
        rows = rows[rows.iteration == event.get("iteration", 0)]
        end = clock + event["simulated_seconds"]
        for client, busy in rows.groupby("client").seconds.sum().items():
            assert busy <= seconds_there(now, client, clock, end) * (1 + 1e-9)
        clock = end
    assert clock == pytest.approx(3600 * result["simulated_hours"]["all"])
    # A client's score of a candidate counts once, however often it was asked.
    counted = frame[frame.used & (frame.phase == "evaluate")]
    assert not counted.duplicated(["stage", "iteration", "round", "candidate", "client"]).any()
    # Somebody went away in the midst of its work, which was charged and not used.
    assert result["wasted"]["all"]["seconds"] > 0
    assert (~frame[frame.work == "training"].used).any()
    assert sum(len(tasks) for tasks in given) == (frame.used & (frame.phase == "upload")).sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"participation": ParticipationConfig(deadline_seconds=1e-3)},
            r"participation\.deadline_seconds: got 0\.001, want at least .*, in which the fastest client trains",
        ),
        ({"cost": CostConfig(population="nokia")}, r"cost\.population: got 'nokia', want one of paper"),
    ],
)
def test_what_no_client_can_do_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(dataclasses.replace(TINY, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_default_phones_are_the_papers(leaving):
    """A tenth of a second for an example of the parent, and 2 Mbit/s: by an independent count of pretraining."""
    _, out, _ = leaving
    found = reprice_run(out, CostConfig(), "paper")
    frame = ledger.read(RunDir(out).ledger).to_pandas()
    pretrain = frame[frame.stage == "pretrain"]
    trained = pretrain.examples[pretrain.phase == "train"].sum()
    scored = pretrain.examples[pretrain.phase == "evaluate"].sum()
    want = 0.1 * trained + 0.1 / 3 * scored + pretrain.bytes.sum() / 250_000
    assert found["client_cost"]["pretrain"]["seconds"]["total"] == pytest.approx(want)


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", ".hidden", "a/b", "a\0b", "x" * 200])
def test_a_name_that_leads_elsewhere_is_refused(name, leaving):
    before = sorted(leaving[1].parent.rglob("*"))
    with pytest.raises(RunError, match=r"^--name: got "):
        reprice_run(leaving[1], CostConfig(), name)
    assert sorted(leaving[1].parent.rglob("*")) == before
