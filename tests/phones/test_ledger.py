"""The ledger equals arithmetic done by hand, and other tools read it."""

import os
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import CostConfig
from fednas_jax.phones import devices, ledger, pricing, totals

PARENT_MACS = 1000
MOMENT = ledger.Moment("search", 1, 1)


def priced(clients=4, **fields):
    config = CostConfig(**fields)
    return pricing.priced_round(devices.sample(devices.population(config, PARENT_MACS), config, clients, 0), 0, MOMENT)


# 0.1 s an example for the parent, 2 Mbit/s = 250,000 bytes a second both ways, 3 W, 5 J a megabyte.
PRICING = priced(watts=3.0, joules_per_megabyte=5.0)


def ledger_rows():
    """Three clients, two candidates, one round of training and one scoring."""
    trained = pricing.Work(
        candidate=np.array([0, 0, 1]),
        client=np.array([0, 1, 2]),
        examples=np.array([20, 40, 60]),
        forward=np.array([1000, 1000, 500]),
        training=np.array([2800, 2800, 1450]),
        down=np.array([25_000, 25_000, 10_000]),
        up=np.array([25_000, 25_000, 10_000]),
    )
    scored = pricing.Work(
        candidate=np.array([1]),
        client=np.array([0]),
        examples=np.array([12]),
        forward=np.array([500]),
        training=np.array([1450]),
        down=np.array([10_000]),
        up=np.array([10_000]),
    )
    return [pricing.training(PRICING, MOMENT, trained), pricing.scoring(PRICING, MOMENT, scored)]


def rows(phase):
    frame = pd.concat(table.to_pandas() for table in ledger_rows())
    return frame[frame["phase"] == phase].reset_index(drop=True)


def test_training_takes_the_papers_seconds_and_the_macs_as_counted():
    trained = rows("train")
    assert trained["macs"].tolist() == [2800 * 20, 2800 * 40, 1450 * 60]
    # The parent's example takes 0.1 s, half the MACs half of that.
    np.testing.assert_allclose(trained["seconds"], [2.0, 4.0, 3.0])
    np.testing.assert_allclose(trained["joules"], [6.0, 12.0, 9.0])
    assert trained["bytes"].tolist() == [0, 0, 0]


def test_two_megabits_are_a_quarter_of_a_million_bytes_a_second():
    for phase in ("download", "upload"):
        moved = rows(phase).iloc[:3]
        assert moved["bytes"].tolist() == [25_000, 25_000, 10_000]
        np.testing.assert_allclose(moved["seconds"], [0.1, 0.1, 0.04])
        np.testing.assert_allclose(moved["joules"], [0.125, 0.125, 0.05])


def test_scoring_is_charged_a_download_and_one_forward_pass_an_example():
    assert rows("evaluate")[["client", "candidate", "macs", "bytes"]].values.tolist() == [[0, 1, 6000, 0]]
    # 6,000 of the 3,000 MACs that take 0.1 s.
    np.testing.assert_allclose(rows("evaluate")["seconds"], [0.2])
    assert rows("download").iloc[3][["client", "candidate", "bytes"]].tolist() == [0, 1, 10_000]
    assert len(rows("upload")) == 3


def test_slow_uplinks_slow_uploads_alone():
    slow = priced(up_mbit_per_second=0.2)
    size, none = np.array([25_000]), np.array([0])
    assert slow.seconds("upload", none, none, none, none, size) == pytest.approx([1.0])
    assert slow.seconds("download", none, none, none, none, size) == pytest.approx([0.1])


def test_every_reader_sees_the_same_ledger(tmp_path):
    path = tmp_path / "ledger" / "0000-search-0001.parquet"
    ledger.write(ledger_rows(), path)
    total = 2.0 + 4.0 + 3.0 + 0.2 + 2 * 0.24 + 0.04
    names = [field.name for field in ledger.SCHEMA]
    assert pq.read_table(path).column_names == names
    assert np.asarray(pq.read_table(path)["seconds"]).sum() == pytest.approx(total)
    assert pd.read_parquet(path)["seconds"].sum() == pytest.approx(total)
    assert pl.read_parquet(path)["seconds"].sum() == pytest.approx(total)
    query = f"select sum(seconds), count(*) filter (phase = 'upload') from '{path}'"
    assert duckdb.sql(query).fetchall() == [(pytest.approx(total), 3)]
    assert not list(path.parent.glob("*.tmp"))
    assert ledger.read(path.parent).num_rows == 11


def test_client_cost_counts_idle_clients_with_zero(tmp_path):
    ledger.write(ledger_rows(), tmp_path / "a.parquet")
    found = totals.client_cost(ledger.read(tmp_path), 4)
    assert set(found) == {"pretrain", "search", "finetune", "all"}
    by_client = [2.0 + 0.2 + 0.2 + 0.04, 4.0 + 0.2, 3.0 + 0.08, 0.0]
    seconds = found["search"]["seconds"]
    assert seconds["total"] == pytest.approx(sum(by_client))
    assert seconds["mean"] == pytest.approx(sum(by_client) / 4)
    assert seconds["max"] == pytest.approx(4.2)
    assert seconds["p50"] == pytest.approx(np.percentile(by_client, 50))
    assert found["search"]["bytes_up"]["total"] == 60_000
    assert found["search"]["bytes_down"]["total"] == 70_000
    assert found["all"] == found["search"]
    assert found["finetune"]["macs"]["max"] == 0
    assert found["search"]["macs"]["total"] == 2800 * 20 + 2800 * 40 + 1450 * 60 + 6_000


# Three phones that differ: seconds an example, seconds a MAC, and links in bytes a second.
BASE, PER_MAC = np.asarray([0.0, 0.01, 0.02]), np.asarray([1e-3, 2e-3, 1e-4])
DOWN, UP = np.asarray([1000.0, 2000.0, 500.0]), np.asarray([500.0, 1000.0, 250.0])
TABLES = {0: (100, 250, 4000, 1000), 1: (60, 160, 2000, 500)}  # candidate: forward, training, bytes down and up


def three_phones(watts=2.0, joules=1e-3):
    none, all_same = np.zeros(3), np.ones(3)
    return devices.Devices(
        np.zeros(3, int), BASE, PER_MAC, none + np.nan, DOWN, UP, none, none, all_same * watts, all_same * joules
    )


def work(candidate, client, examples):
    columns = np.asarray([TABLES[k] for k in candidate]).T
    return pricing.Work(np.asarray(candidate), np.asarray(client), np.asarray(examples), *columns)


def two_rounds():
    """Round 1: candidate 0 on clients 0 and 1, candidate 1 on client 2. Round 2: both on client 1, who leaves in the
    second after 5 of its 10 examples; client 2 is stopped by the clock in its upload, 1/4 of it done. Then scoring."""
    phones = three_phones()
    moments = [ledger.Moment("search", 1, n) for n in (1, 2)]
    first = work([0, 0, 1], [0, 1, 2], [10, 20, 10])
    second = work([0, 1, 1], [1, 1, 2], [10, 10, 20])
    done = pricing.Done(
        np.asarray([(1, 1, 1), (1, 0.5, 0), (1, 1, 0.25)]),
        np.asarray([True, False, False]),
        np.asarray([False, False, True]),
    )
    scored = work([0, 1], [0, 0], [4, 4])
    priced = [pricing.priced_round(phones, 0, moment) for moment in moments]
    return [
        pricing.training(priced[0], moments[0], first),
        pricing.training(priced[1], moments[1], second, done),
        pricing.scoring(priced[1], moments[1], scored),
    ]


def test_a_ledger_of_two_rounds_equals_arithmetic_done_by_hand():
    rows = pa.concat_tables(two_rounds()).to_pandas()
    got = rows[["round", "candidate", "client", "phase", "examples", "macs", "bytes", "used"]].values.tolist()
    assert got == [
        [1, 0, 0, "download", 0, 0, 4000, True],
        [1, 0, 1, "download", 0, 0, 4000, True],
        [1, 1, 2, "download", 0, 0, 2000, True],
        [1, 0, 0, "train", 10, 10 * 250, 0, True],
        [1, 0, 1, "train", 20, 20 * 250, 0, True],
        [1, 1, 2, "train", 10, 10 * 160, 0, True],
        [1, 0, 0, "upload", 0, 0, 1000, True],
        [1, 0, 1, "upload", 0, 0, 1000, True],
        [1, 1, 2, "upload", 0, 0, 500, True],
        [2, 0, 1, "download", 0, 0, 4000, True],
        [2, 1, 1, "download", 0, 0, 2000, False],
        [2, 1, 2, "download", 0, 0, 2000, False],
        [2, 0, 1, "train", 10, 10 * 250, 0, True],
        [2, 1, 1, "train", 5, 5 * 160, 0, False],
        [2, 1, 2, "train", 20, 20 * 160, 0, False],
        [2, 0, 1, "upload", 0, 0, 1000, True],
        [2, 1, 2, "upload", 0, 0, 125, False],
        [2, 0, 0, "download", 0, 0, 4000, True],
        [2, 1, 0, "download", 0, 0, 2000, True],
        [2, 0, 0, "evaluate", 4, 4 * 100, 0, True],
        [2, 1, 0, "evaluate", 4, 4 * 60, 0, True],
    ]
    # Training an example: three times the base, and its MACs; evaluating it: once. Bytes over the link's own speed.
    seconds = [4000 / 1000, 4000 / 2000, 2000 / 500]
    seconds += [2500 * 1e-3, 20 * 3 * 0.01 + 5000 * 2e-3, 10 * 3 * 0.02 + 1600 * 1e-4]
    seconds += [1000 / 500, 1000 / 1000, 500 / 250]
    seconds += [4000 / 2000, 2000 / 2000, 2000 / 500]
    seconds += [10 * 3 * 0.01 + 2500 * 2e-3, 5 * 3 * 0.01 + 800 * 2e-3, 20 * 3 * 0.02 + 3200 * 1e-4]
    seconds += [1000 / 1000, 0.25 * 500 / 250]
    seconds += [4000 / 1000, 2000 / 1000, 400 * 1e-3, 240 * 1e-3]
    np.testing.assert_allclose(rows.seconds, seconds, rtol=1e-14)
    moves = rows.phase.isin(["download", "upload"])
    np.testing.assert_allclose(rows.joules, np.where(moves, rows.bytes * 1e-3, np.asarray(seconds) * 2.0), rtol=1e-14)


def test_a_round_lasts_until_the_last_phone_whose_work_was_used():
    first, second, scored = two_rounds()
    assert ledger.duration(first) == pytest.approx(2 + 10.6 + 1)  # client 1; client 0 takes 8.5, client 2 6.76
    assert ledger.duration(second) == pytest.approx(2 + 5.3 + 1)  # client 1's first task; its second was in vain
    assert ledger.duration(scored) == pytest.approx(4 + 0.4 + 2 + 0.24)  # one phone, one thing at a time


def test_used_and_wasted_make_up_what_was_spent():
    whole = pa.concat_tables(two_rounds())
    lost, spent = totals.wasted(whole), totals.client_cost(whole, 3)
    by_use = totals.sums_by(whole, "used").to_pandas().set_index("used")
    assert by_use.macs.tolist() == [4000, 2500 + 5000 + 1600 + 2500 + 400 + 240]
    assert lost["search"]["macs"] == 4000
    assert lost["search"]["bytes_up"] == 125
    assert lost["search"]["seconds"] + by_use.seconds[True] == pytest.approx(spent["search"]["seconds"]["total"])
    assert lost["pretrain"]["seconds"] == 0


@pytest.mark.parametrize("by", [(), ("client",), ("candidate", "round"), ("stage", "phase"), ("iteration", "work")])
def test_totals_by_anything_add_up_to_the_ledger(by):
    whole = pa.concat_tables(two_rounds())
    found = totals.sums_by(whole, *by).to_pandas()
    for quantity in ("examples", "macs", "bytes", "seconds", "joules"):
        assert found[quantity].sum() == pytest.approx(np.asarray(whole[quantity]).sum())
    assert not found.duplicated(list(by)).any() if by else len(found) == 1


def test_totals_of_a_ledger_of_many_files_are_the_same_each_time():
    """Arrow's threads would add up their parts as they come."""
    rows, clients = 400_000, 40
    rng = np.random.default_rng(0)
    columns = {field.name: pa.nulls(rows, field.type) for field in ledger.SCHEMA}
    columns["client"] = pa.array(rng.integers(0, clients, rows), ledger.SCHEMA.field("client").type)
    columns["seconds"] = pa.array(rng.random(rows) * 100, ledger.SCHEMA.field("seconds").type)
    whole = pa.table(columns)
    parts = pa.concat_tables([whole.slice(first, 5000) for first in range(0, rows, 5000)])
    found = [totals.sums_by(parts, "client")["seconds"] for _ in range(12)]
    assert all(one.equals(found[0]) for one in found)


NO_THREADS = """
import os, sys
from pathlib import Path
from fednas_jax.phones import ledger, totals
from fednas_jax.sweep import table
before = len(os.listdir("/proc/self/task"))
totals.sums_by(ledger.read(Path(sys.argv[1])), "client")
try:
    table.read(Path(sys.argv[1]) / "a.parquet")
except Exception as error:
    print(error)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="threads are counted by Linux")
def test_reading_a_ledger_or_a_table_starts_no_threads(tmp_path):
    """A process that ends just as Arrow's threads start is aborted: one in fifty, on a machine that is busy."""
    ledger.write(two_rounds(), tmp_path / "ledger" / "a.parquet")
    command = [sys.executable, "-c", NO_THREADS, str(tmp_path / "ledger")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert "want the table of a sweep" in said[0]
    assert said[1] == "0"


def test_repricing_on_the_same_phones_is_the_same_ledger_and_on_others_theirs():
    uncut = two_rounds()[0]
    assert pricing.reprice(uncut, three_phones(), 0).equals(uncut)
    twice = pricing.reprice(uncut, three_phones(watts=4.0, joules=2e-3)._replace(per_mac=2 * PER_MAC), 0)
    np.testing.assert_allclose(np.asarray(twice["seconds"])[3], 2 * 2.5)
    assert [np.asarray(twice[c]).sum() for c in ("macs", "bytes")] == [9100, 12500]


positive = st.floats(1e-3, 1e3)


@given(
    st.lists(st.tuples(positive, positive, positive, positive), min_size=3, max_size=3),
    st.lists(st.tuples(*[st.floats(0.1, 1)] * 4), min_size=3, max_size=3),
    st.sampled_from([np.nan, 3.0]),
)
def test_faster_phones_better_links_smaller_candidates_and_fewer_clients_never_cost_more(phones, factors, training):
    base, per_mac, down, up = np.asarray(phones).T
    faster = np.asarray(factors).T
    slow = three_phones()._replace(
        base=base, per_mac=per_mac / 1e3, down=1e3 * down, up=1e3 * up, training=np.full(3, training)
    )
    fast = slow._replace(
        base=base * faster[0], per_mac=slow.per_mac * faster[1], down=slow.down / faster[2], up=slow.up / faster[3]
    )
    large, small = work([0, 0, 0], [0, 1, 2], [10, 20, 30]), work([1, 1, 1], [0, 1, 2], [10, 20, 30])
    fewer = work([0, 0], [1, 2], [20, 30])

    def spent(phones, tasks):
        priced = pricing.priced_round(phones, 0, MOMENT)
        rows = pa.concat_tables([pricing.training(priced, MOMENT, tasks), pricing.scoring(priced, MOMENT, tasks)])
        return np.asarray([np.asarray(rows[c]).sum() for c in ("seconds", "joules", "macs", "bytes")])

    for cheaper in (spent(fast, large), spent(slow, small), spent(slow, fewer)):
        assert (cheaper <= spent(slow, large) * (1 + 1e-12)).all()


def test_phases_add_up_to_the_stage(tmp_path):
    ledger.write(ledger_rows(), tmp_path / "a.parquet")
    table = ledger.read(tmp_path)
    phases = totals.phase_seconds(table, "search")
    assert list(phases) == ["download", "train", "evaluate", "upload"]
    assert sum(phases.values()) == pytest.approx(np.asarray(table["seconds"]).sum())
    assert sum(totals.phase_seconds(table, "pretrain").values()) == 0
