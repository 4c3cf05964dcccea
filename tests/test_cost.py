"""The ledger equals arithmetic done by hand, and other tools read it."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest

from fednas_jax import cost, devices
from fednas_jax.config import CostConfig

PARENT_MACS = 1000
MOMENT = cost.Moment("search", 1, 1)


def priced(clients=4, **fields):
    config = CostConfig(**fields)
    return cost.pricing(devices.sample(devices.population(config, PARENT_MACS), config, clients, 0), 0, MOMENT)


# 0.1 s an example for the parent, 2 Mbit/s = 250,000 bytes a second both ways, 3 W, 5 J a megabyte.
PRICING = priced(watts=3.0, joules_per_megabyte=5.0)


def ledger():
    """Three clients, two candidates, one round of training and one scoring."""
    trained = cost.Work(
        candidate=np.array([0, 0, 1]),
        client=np.array([0, 1, 2]),
        examples=np.array([20, 40, 60]),
        forward=np.array([1000, 1000, 500]),
        training=np.array([2800, 2800, 1450]),
        down=np.array([25_000, 25_000, 10_000]),
        up=np.array([25_000, 25_000, 10_000]),
    )
    scored = cost.Work(
        candidate=np.array([1]),
        client=np.array([0]),
        examples=np.array([12]),
        forward=np.array([500]),
        training=np.array([1450]),
        down=np.array([10_000]),
        up=np.array([10_000]),
    )
    return [cost.training(PRICING, MOMENT, trained), cost.scoring(PRICING, MOMENT, scored)]


def rows(phase):
    frame = pd.concat(table.to_pandas() for table in ledger())
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
    cost.write(ledger(), path)
    total = 2.0 + 4.0 + 3.0 + 0.2 + 2 * 0.24 + 0.04
    names = [field.name for field in cost.SCHEMA]
    assert pq.read_table(path).column_names == names
    assert np.asarray(pq.read_table(path)["seconds"]).sum() == pytest.approx(total)
    assert pd.read_parquet(path)["seconds"].sum() == pytest.approx(total)
    assert pl.read_parquet(path)["seconds"].sum() == pytest.approx(total)
    query = f"select sum(seconds), count(*) filter (phase = 'upload') from '{path}'"
    assert duckdb.sql(query).fetchall() == [(pytest.approx(total), 3)]
    assert not list(path.parent.glob("*.tmp"))
    assert cost.read(path.parent).num_rows == 11


def test_client_cost_counts_idle_clients_with_zero(tmp_path):
    cost.write(ledger(), tmp_path / "a.parquet")
    found = cost.client_cost(cost.read(tmp_path), 4)
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


def test_phases_add_up_to_the_stage(tmp_path):
    cost.write(ledger(), tmp_path / "a.parquet")
    table = cost.read(tmp_path)
    phases = cost.phase_seconds(table, "search")
    assert list(phases) == ["download", "train", "evaluate", "upload"]
    assert sum(phases.values()) == pytest.approx(np.asarray(table["seconds"]).sum())
    assert sum(cost.phase_seconds(table, "pretrain").values()) == 0
