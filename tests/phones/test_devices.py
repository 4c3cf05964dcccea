"""Populations of phones: measured figures, what a seed draws of them, and tables of one's own."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import CostConfig
from fednas_jax.errors import ConfigError
from fednas_jax.phones import devices

PARENT = 20_000_000
TABLE = "name,share,base [ms],speed [ms/MMAC],down [kbit/s],up [MB/s]\nslow,3,2,0.5,4000,0.25\nfast,1,1,0.1,8000,0.5\n"


def drawn(name, clients=400, seed=0, **fields):
    config = CostConfig(population=str(name), **fields)
    return devices.sample(devices.population(config, PARENT), config, clients, seed)


@pytest.mark.parametrize("name", devices.POPULATIONS)
def test_one_seed_draws_one_population(name):
    mine, again, other = drawn(name), drawn(name), drawn(name, seed=1)
    for a, b in zip(mine, again, strict=True):
        np.testing.assert_array_equal(a, b)
    same = all(np.array_equal(a, b, equal_nan=True) for a, b in zip(mine, other, strict=True))
    assert same == (name in ("paper", "uniform"))
    assert all((values > 0).all() for values in (mine.per_mac, mine.down, mine.up))


@pytest.mark.parametrize("name", devices.POPULATIONS)
def test_every_population_names_its_source_and_licence(name):
    found = devices.population(CostConfig(population=name), PARENT)
    assert found.name == name
    assert "arXiv" in found.source
    assert found.licence


def test_the_paper_trains_an_example_of_the_parent_in_a_tenth_of_a_second():
    paper = drawn("paper", 2)
    np.testing.assert_allclose(paper.training * paper.per_mac * PARENT, 0.1)
    np.testing.assert_array_equal(paper.base, 0)
    np.testing.assert_array_equal([paper.down, paper.up], 250_000)  # 2 Mbit/s, 8 bits a byte, 10^6 bits a megabit


def test_a_measured_phone_takes_its_fit():
    assert devices.phone("pixel1").latency_ms(100e6) == pytest.approx(4.9 + 21.5)
    pixel = drawn("uniform", 1)
    assert pixel.base[0] + 100e6 * pixel.per_mac[0] == pytest.approx(0.0264)
    assert math.isnan(pixel.training[0])
    assert len(set(drawn("phones").per_mac)) == 6


def test_flash_says_kb_and_the_two_readings_differ_by_eight():
    """The default takes kilobits; FLASH's code takes kilobytes, 34.5 Mbit/s in the median."""
    bits, kilobytes = drawn("flash", 4001), drawn("flash_kilobytes", 4001)
    np.testing.assert_allclose(kilobytes.down / bits.down, 8)
    np.testing.assert_allclose(kilobytes.up / bits.up, 8)
    assert np.median(bits.down) * 8 / 1e6 == pytest.approx(4.318, rel=0.05)
    assert np.median(kilobytes.down) * 8 / 1e6 == pytest.approx(34.5, rel=0.05)
    np.testing.assert_array_equal(bits.per_mac, kilobytes.per_mac)


def test_flash_trains_a_batch_of_its_network_as_measured_and_mixes_its_classes():
    flash = drawn("flash", 20_000)
    batch = 10 * flash.training * flash.per_mac * devices.FLASH_MMACS * 1e6
    for kind, mean in enumerate((1.642, 0.588, 0.179)):
        assert np.median(batch[flash.kind == kind]) == pytest.approx(mean, rel=0.01)
    shares = np.bincount(flash.kind, minlength=3) / 20_000
    np.testing.assert_allclose(shares, np.asarray([18820, 16428, 159]) / 35407, atol=0.01)


def test_lognormal_phones_spread_as_asked():
    logs = np.log(drawn("lognormal", 5000, sigma=0.5).per_mac)
    assert logs.std() == pytest.approx(0.5, rel=0.05)
    assert math.exp(np.median(logs)) == pytest.approx(0.215e-9, rel=0.05)


def test_links_vary_by_round_around_their_mean():
    flash = drawn("flash", 3)
    rounds = np.asarray([devices.links(flash, 0, 1, 2, n)[0] for n in range(3000)])
    np.testing.assert_allclose(rounds.mean(0), flash.down, rtol=0.05)
    np.testing.assert_allclose(rounds.std(0) / rounds.mean(0), 0.37, rtol=0.1)
    assert rounds.min() > 0
    np.testing.assert_array_equal(rounds[7], devices.links(flash, 0, 1, 2, 7)[0])
    paper = drawn("paper", 3)
    assert devices.links(paper, 0, 1)[0] is paper.down


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_who_ranks_higher_has_no_slower_link(ranks):
    ranks = np.sort(ranks)
    speeds = devices.quantile(devices.Link(devices.FLASH_UP), ranks)
    assert (np.diff(speeds) >= 0).all()
    assert speeds.min() >= 641 * (1 - 1e-12)
    assert speeds.max() <= 6314 * (1 + 1e-12)


def test_a_table_of_ones_own_is_read_in_its_units(tmp_path):
    (tmp_path / "phones.csv").write_text(TABLE)
    found = drawn(tmp_path / "phones.csv", 4000)
    assert np.mean(found.kind == 0) == pytest.approx(0.75, abs=0.03)
    slow = np.flatnonzero(found.kind == 0)[0]
    assert (found.base[slow], found.per_mac[slow]) == (pytest.approx(2e-3), pytest.approx(0.5e-9))
    assert (found.down[slow], found.up[slow]) == (pytest.approx(500_000), pytest.approx(250_000))
    assert found.watts[slow] == CostConfig().watts


def test_json_says_the_same_as_csv(tmp_path):
    row = {"name": "one", "base [s]": 0.002, "speed [s/GMAC]": 0.5, "down [kB/s]": 500, "up [MB/s]": 0.25}
    row |= {"power [mW]": 1500, "energy [J/MB]": 2, "training": 2.5}
    (tmp_path / "phones.json").write_text(json.dumps([row]))
    found = drawn(tmp_path / "phones.json", 1)
    got = [values[0] for values in found[1:6]]
    np.testing.assert_allclose(got, [2e-3, 0.5e-9, 2.5, 500_000, 250_000])
    np.testing.assert_allclose([found.watts[0], found.joules_per_byte[0]], [1.5, 2e-6])


def test_a_table_that_a_spreadsheet_marked_as_unicode_is_read(tmp_path):
    (tmp_path / "phones.csv").write_text(TABLE, "utf-8-sig")
    assert [phone.name for phone in devices.read_table(tmp_path / "phones.csv").phones] == ["slow", "fast"]


def test_phones_may_all_be_one_of_ones_own_table(tmp_path):
    path = tmp_path / "phones.csv"
    path.write_text(TABLE)
    name = TABLE.splitlines()[2].split(",")[0]
    for population in ("uniform", "lognormal"):
        config = CostConfig(population=population, phone=f"{path}:{name}", sigma=0.0)
        chosen = devices.population(config, 10**6)
        assert chosen.source.startswith(str(path))
        assert chosen.licence == "the user's"
        one, table = devices.sample(chosen, config, 3, 0), devices.read_table(path)
        np.testing.assert_allclose(one.per_mac, 1e-9 * table.phones[1].ms_per_mmac)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("speed [ms/MMAC]", "speed"), r"column 'speed': got no unit, want one of ms/MMAC, .* as in"),
        (TABLE.replace("kbit/s", "kb/s"), r"column 'down': got 'kb/s', want one of Mbit/s, kbit/s, MB/s, kB/s"),
        (TABLE.replace("0.5,4000", "-0.5,4000"), r"column 'speed': got -0\.5 in row 1, want above 0"),
        (TABLE.replace("8000", "0"), r"column 'down': got 0 in row 2, want above 0"),
        (TABLE.replace("8000", "many"), r"column 'down': got 'many' in row 2, want a number"),
        (TABLE.replace("base [ms]", "colour"), r"column 'colour': got no such column, want one of name"),
        ("name,base [ms]\nslow,2\n", r"got no column 'speed', want name, base, speed, down, up"),
        ("", r"got no rows, want one for each kind of phone"),
        (TABLE + TABLE.splitlines()[1] + "\n", r"got two phones named '.*', want different names"),
        (TABLE.replace("share", "base [s]"), r"column 'base': got it twice, want it once"),
        (TABLE.replace("share", "base [ms]"), r"got the column 'base \[ms\]' twice, want it once"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(table, message, tmp_path):
    (tmp_path / "phones.csv").write_text(table)
    with pytest.raises(ConfigError, match=message) as caught:
        drawn(tmp_path / "phones.csv")
    assert str(caught.value).startswith("cost.population: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"population": "nokia"}, r"cost\.population: got 'nokia', want one of paper, uniform"),
        ({"population": "none.csv"}, r"cost\.population: none\.csv cannot be read: No such file"),
        ({"population": "uniform", "phone": "nokia"}, r"cost\.phone: got 'nokia', want one of lg_g8"),
    ],
)
def test_what_is_not_there_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        devices.population(CostConfig(**fields), PARENT)
