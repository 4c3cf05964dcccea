"""What each class of phones gets of one family: chosen by hand, and refused in one line where it cannot be."""

import dataclasses
import json

import pytest

from fednas_jax.cli.app import main
from fednas_jax.config.files import to_json
from fednas_jax.config.schema import Config
from fednas_jax.errors import ConfigError, RunError
from fednas_jax.files import write_json
from fednas_jax.phones import ledger, totals
from fednas_jax.report import assigning
from fednas_jax.report.assigning import Tier
from fednas_jax.search import lut


def member(iteration, mmacs, score, test, width):
    return {
        "iteration": iteration,
        "widths": {"conv": width},
        "macs": mmacs * 10**6,
        "score": score,
        "test_accuracy": test,
        "params": 100 * width,
        "client_seconds": 1.5 * iteration,
    }


# Milliseconds on pixel2, 2.5 + 0.286 x MMAC: 31.1, 16.8, 8.22, 5.36, and 2.786 of the member that was never tested.
RESULT = {
    "parent": member(0, 100, 0.80, 0.79, 40),
    "models": [
        member(1, 50, 0.81, 0.77, 20),
        member(2, 20, 0.75, 0.76, 8),
        member(3, 10, 0.75, 0.70, 4),
        member(4, 1, 0.99, None, 2),
    ],
    "method": "fednas",
    "preset": "digits",
    "seed": 0,
    "clients": 4,
    "stop_reason": "budget reached",
    "client_cost": totals.client_cost(ledger.SCHEMA.empty_table(), 4),
}


def tier(name="t", device="pixel2", ms=None, ratio=None, clients=1):
    return Tier(name, device, ms, ratio, clients)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "models" / "000").mkdir(parents=True)
    write_json(folder / "config.json", {"config": to_json(Config())})
    write_json(folder / "result.json", RESULT)
    write_json(folder / "models" / "000" / "widths.json", {"network": "cnn", "widths": {"conv": 40}})
    return folder


@pytest.mark.parametrize(
    ("wanted", "iteration", "ms"),
    [
        (tier(ms=100), 1, 16.8),  # the better validation score, though the parent tests better and fits too
        (tier(ms=16.8), 1, 16.8),  # a budget that is met exactly holds
        (tier(ms=16.7), 3, 5.36),  # of equal scores the faster; members that were not tested are not offered
        (tier(ms=5.0), None, None),
        (tier(ratio=0.6), 1, 16.8),  # of the parent's 31.1 ms: 18.66
        (tier(ratio=0.1), None, None),
        (tier(device="lg_g8", ms=5.0), 3, 1.43),  # 0.4 + 0.103 x 10; 50 MMAC would take 5.55
    ],
)
def test_a_tier_gets_the_best_validated_member_that_fits(wanted, iteration, ms):
    choice = assigning.choose(RESULT, "cnn", wanted)
    assert choice.iteration == iteration
    if iteration is None:
        assert (choice.widths, choice.ms, choice.test_accuracy) == (None, None, None)
        assert choice.least_ms == pytest.approx(5.36)
    else:
        chosen = RESULT["models"][iteration - 1]
        assert choice.ms == pytest.approx(ms)
        assert (choice.widths, choice.test_accuracy) == (chosen["widths"], chosen["test_accuracy"])


def table(tmp_path, **changes):
    layers = (lut.Layer("only", ("conv",), ((2, 40),), (2.0, 40.0)),)
    made = lut.Table("cnn", (8, 8, 1), ("conv",), (40,), 10**8, "hand", layers, 1.0, 1.0, ())
    path = tmp_path / "lut.json"
    write_json(path, lut.to_json(dataclasses.replace(made, **changes)))
    return str(path)


def test_a_tiers_device_may_be_a_lookup_table(tmp_path):
    """1 ms, and 1 ms for each channel."""
    choice = assigning.choose(RESULT, "cnn", tier(device=table(tmp_path), ms=9.5))
    assert (choice.iteration, choice.ms) == (3, 5.0)  # member 2, of an equal score, takes 9 ms
    assert assigning.choose(RESULT, "cnn", tier(device=table(tmp_path), ratio=0.6)).budget_ms == pytest.approx(0.6 * 41)


def test_a_tiers_device_may_be_a_phone_of_ones_own_table(tmp_path):
    path = tmp_path / "phones.csv"
    path.write_text("name,base [ms],speed [ms/MMAC],down [Mbit/s],up [Mbit/s]\nold,1,2,1,1\n")
    choice = assigning.choose(RESULT, "cnn", tier(device=f"{path}:old", ms=41))
    assert (choice.iteration, choice.ms) == (3, 21)


@pytest.mark.parametrize("changes", [{"network": "vgg"}, {"groups": ("other",)}, {"widths": (39,)}])
def test_a_lookup_table_of_another_network_is_refused(changes, tmp_path):
    if "groups" in changes:
        changes["layers"] = (lut.Layer("only", ("other",), ((2, 40),), (2.0, 40.0)),)
    with pytest.raises(ConfigError, match="want cnn up to 40, as in this run"):
        assigning.choose(RESULT, "cnn", tier(device=table(tmp_path, **changes), ms=10))


def test_the_command_prints_what_each_tier_runs_and_writes_it(run, tmp_path, capsys):
    path = tmp_path / "phones.json"
    write_json(
        path,
        [
            {"name": "high", "device": "lg_g8", "budget_ms": 6, "clients": 30},
            {"name": "mid", "device": "pixel2", "budget_ratio": 0.3, "clients": 60},
            {"name": "low", "device": "s7_edge", "budget_ms": 1, "clients": 10},
        ],
    )
    assert main(["tiers", str(run), str(path)]) == 0
    said = capsys.readouterr().out
    # 30 phones at 0.77 and 60 at 0.70.
    assert f"90 of 100 phones are served: mean test accuracy {(30 * 0.77 + 60 * 0.70) / 90:.4f}" in said
    assert "low: no member fits 1 ms; the fastest member takes 7.43 ms on s7_edge" in said
    page = (run / "report.html").read_text()
    assert page.index("What each class of phones runs") < page.index(">mid</th>") < page.index("none fits")
    written = json.loads((run / "tiers.json").read_text())["tiers"]
    assert [choice["iteration"] for choice in written] == [1, 3, None]
    assert written[0]["tier"] == {
        "name": "high",
        "device": "lg_g8",
        "budget_ms": 6,
        "budget_ratio": None,
        "clients": 30,
    }


GOOD = {"name": "low", "device": "pixel2", "budget_ms": 9}


@pytest.mark.parametrize(
    ("rows", "want"),
    [
        (None, "cannot be read: No such file"),
        ("{", "cannot be read as JSON: "),
        (chr(91) * 100_000, "cannot be read as JSON: "),
        ([GOOD | {"clients": 10**400}], "want a whole number of at least 1"),
        ({"name": "low"}, "got no list of objects, want one for each tier with name, device"),
        ([], "got no list of objects"),
        (
            [{"name": "low", "device": "pixel2", "budget": 40}],
            "tier 'low': got 'budget' without a unit, want budget_ms",
        ),
        ([GOOD | {"watts": 3}], "tier 'low': got 'watts', want only name, device"),
        ([GOOD | {"budget_ratio": 0.5}], "tier 'low': got budget_ms and budget_ratio, want one of"),
        ([{"name": "low", "device": "pixel2"}], "tier 'low': got no budget, want one of budget_ms, budget_ratio"),
        ([{"device": "pixel2", "budget_ms": 9}], "tier 1, name: got None, want text"),
        ([GOOD | {"budget_ms": "40 ms"}], "tier 'low', budget_ms: got '40 ms', want a number above 0"),
        ([GOOD | {"budget_ms": -1}], "tier 'low', budget_ms: got -1, want a number above 0"),
        ([GOOD | {"clients": 0}], "tier 'low', clients: got 0, want a whole number of at least 1"),
        ([GOOD | {"device": "pixel9"}], "tier 'low', device: got 'pixel9', want one of lg_g8"),
        ([GOOD | {"device": "none.json"}], "tier 'low', device: none.json cannot be read: No such file"),
        ([GOOD, GOOD], "got two tiers named 'low', want different names"),
    ],
)
def test_tiers_that_say_too_little_or_too_much_are_refused_in_one_line(rows, want, tmp_path):
    path = tmp_path / "phones.json"
    if rows is not None:
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    with pytest.raises(ConfigError) as caught:
        assigning.read_tiers(path)
    assert str(caught.value).startswith("tiers: ")
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_in_the_table_is_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"^tiers: tier 't', device: got 'pixel9', want one of lg_g8, .* FILE.csv:NAME"
    ):
        assigning.choose(RESULT, "cnn", tier(device="pixel9", ms=10))


def test_a_run_without_networks_to_offer_is_refused(run, tmp_path):
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="is not finished, want a finished run"):
        assigning.assign(run, [tier(ms=10)])
    with pytest.raises(RunError, match="holds no run"):
        assigning.assign(tmp_path / "nothing", [tier(ms=10)])
    untested = {"parent": RESULT["parent"] | {"test_accuracy": None}, "models": []}
    with pytest.raises(RunError, match="no network of this run was fine-tuned and tested"):
        assigning.choose(untested, "cnn", tier(ms=10))
