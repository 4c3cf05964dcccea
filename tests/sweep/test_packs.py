"""Trials that train in one program leave what they leave alone, whatever becomes of the others."""

import functools

import jax
import numpy as np
import pytest
from stub_trials import TINY, written

from fednas_jax.config.files import from_json, to_json
from fednas_jax.config.presets import preset
from fednas_jax.engine import shared
from fednas_jax.errors import Interrupted
from fednas_jax.phones import ledger
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_on, run_search
from fednas_jax.run.verifying import verify_run
from fednas_jax.runtime.shelf import keep_between_runs
from fednas_jax.sweep import attempts, packs, sources
from fednas_jax.sweep.packs import Packed, run_trials
from fednas_jax.sweep.planning import config_of

pytestmark = pytest.mark.exhaustive

FIELDS = {
    "plain": {},
    "seed": {"seed": 3, "pretrain.rounds": 2},
    "rate": {"train.learning_rate": 0.02, "train.momentum": 0.0, "train.weight_decay": 0.01},
    "diverges": {"train.learning_rate": 1000.0, "train.weight_decay": 1000.0, "pretrain.rounds": 4},
    "clients": {"data.clients": 6, "data.partition": "dirichlet", "data.alpha": 0.3, "train.proximal": 0.1},
    "naive": {"method": "naive", "search.max_iterations": 2, "participation.malicious": 0.3},
}
ENDS = [name for name in FIELDS if name != "diverges"]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """What is compiled is kept, as in a worker."""
    keep_between_runs()
    yield
    keep_between_runs(False)


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    source = sources.read(written(tmp_path_factory.mktemp("file"), f"{TINY}\n[[trials]]\nlist = [{{ seed = 0 }}]\n"))
    (common,) = source.trials
    base = preset(source.base)
    return {name: to_json(config_of(base, common | fields)) for name, fields in FIELDS.items()}


def in_pack(configs, out, names, should_stop=lambda: False):
    trials = [Packed(name, str(out / name), configs[name]) for name in names]
    return {outcome.trial: outcome for outcome in run_trials(trials, should_stop)}


def watched(patch):
    """A list of the shared fleets that are made from now on; `runs` of each: how many trained together, each time."""
    made = []

    class Seen(shared.Shared):
        def __init__(self, *args):
            super().__init__(*args)
            self.runs = []
            made.append(self)

        def train(self, runs, asked):
            self.runs.append(len(runs))
            return super().train(runs, asked)

    patch.setattr(packs, "Shared", Seen)
    return made


@pytest.fixture(scope="module")
def together(configs, tmp_path_factory):
    """All in one pack; where they are, what became of them, and what the shared fleets did."""
    out = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        made = watched(patch)
        outcomes = in_pack(configs, out, FIELDS)
    return out, outcomes, made


class Apart:
    """Trials by themselves; `apart / name` is where one is, which is run when it is first asked for."""

    def __init__(self, configs, out):
        self.configs, self.out = configs, out

    def __truediv__(self, name):
        run_search(from_json(self.configs[name]), self.out / name)
        return self.out / name


@pytest.fixture(scope="module")
def apart(configs, tmp_path_factory):
    return Apart(configs, tmp_path_factory.mktemp("apart"))


def result_of(out):
    result = RunDir(out).result()
    return {name: value for name, value in result.items() if name not in ("simulator", "checksum")}


def assert_close(mine, theirs):
    """Values alike: numbers to 1e-5, all else exactly."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert_close(mine[name], theirs[name])
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert_close(a, b)
    elif isinstance(mine, float):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    else:
        assert mine == theirs


def assert_same_run(out, other):
    assert verify_run(out).finished
    assert_close(result_of(out), result_of(other))
    rows, others = (ledger.read(RunDir(o).ledger).to_pydict() for o in (out, other))
    assert_close(rows, others)


def test_two_trials_on_one_device_leave_what_they_leave_alone(configs, tmp_path, monkeypatch):
    one, names = jax.devices()[:1], ["plain", "rate"]
    monkeypatch.setattr(attempts, "run_on", functools.partial(run_on, devices=one))
    made = watched(monkeypatch)
    assert {outcome.kind for outcome in in_pack(configs, tmp_path, names).values()} == {"finished"}
    assert (made[0].fleet.mesh.size, set(made[0].runs)) == (1, {2})
    for name in names:
        run_search(from_json(configs[name]), tmp_path / "alone" / name, devices=one)
        assert_same_run(tmp_path / name, tmp_path / "alone" / name)


@pytest.mark.parametrize("name", ENDS)
def test_a_trial_of_a_pack_leaves_what_it_leaves_alone(together, apart, name):
    out, outcomes, _ = together
    assert outcomes[name].kind == "finished"
    assert_same_run(out / name, apart / name)


def test_they_do_train_in_one_program(together):
    _, _, (fleet, *_) = together
    assert max(fleet.runs) == len(FIELDS)
    first = dict(zip(FIELDS, fleet._union.first, strict=True))
    assert first["plain"] == first["rate"] == 0  # the same partition lies there once
    assert first["clients"] > 0


def test_one_that_diverges_leaves_the_others_alone(together):
    _, outcomes, _ = together
    assert outcomes["diverges"].kind == "failed"
    assert "diverged" in outcomes["diverges"].error
    assert not outcomes["diverges"].traceback


def test_each_has_its_share_of_the_time(together):
    out, outcomes, _ = together
    for name in ENDS:
        assert 0 < RunDir(out / name).result()["simulator"]["wall_seconds"] <= outcomes[name].wall_seconds


def stops_after(number):
    asked = iter([False] * number)
    return lambda: next(asked, True)


def test_a_trial_goes_on_alone_or_in_a_pack_wherever_it_was_begun(configs, apart, tmp_path):
    outcomes = in_pack(configs, tmp_path, ["plain", "rate"], stops_after(8))
    assert {outcome.kind for outcome in outcomes.values()} == {"stopped"}
    assert RunDir(tmp_path / "rate").config_file.exists()
    with pytest.raises(Interrupted):
        run_search(from_json(configs["seed"]), tmp_path / "seed", should_stop=stops_after(2))
    run_search(from_json(configs["plain"]), tmp_path / "plain")
    assert {o.kind for o in in_pack(configs, tmp_path, ["rate", "seed"]).values()} == {"finished"}
    for name in ("plain", "rate", "seed"):
        assert_same_run(tmp_path / name, apart / name)


def test_a_finished_trial_and_one_that_cannot_begin_leave_the_pack_at_once(configs, together, tmp_path):
    out, _, _ = together
    bad = configs["plain"] | {"parent": str(tmp_path / "none")}
    trials = [Packed("plain", str(out / "plain"), configs["plain"]), Packed("bad", str(tmp_path / "bad"), bad)]
    found = {outcome.trial: outcome for outcome in run_trials(trials, lambda: False)}
    assert found["plain"].kind == "finished"
    assert "none" in found["bad"].error
    assert (found["bad"].kind, found["bad"].traceback) == ("failed", "")


def test_what_does_not_fit_into_memory_is_done_in_parts(configs, apart, tmp_path, monkeypatch):
    most = []
    monkeypatch.setattr(packs.mesh, "memory_of", lambda device: 1)
    monkeypatch.setattr(packs, "_answers", lambda live, real=packs._answers: most.append(len(live)) or real(live))
    assert [o.kind for o in in_pack(configs, tmp_path, ["plain", "seed"]).values()] == ["finished"] * 2
    assert set(most) == {1}
    assert_same_run(tmp_path / "seed", apart / "seed")


def test_what_fails_together_is_tried_apart(configs, apart, tmp_path, monkeypatch):
    real = shared.Shared.train

    def train(self, runs, asked):
        if len(runs) > 1:
            raise MemoryError
        return real(self, runs, asked)

    monkeypatch.setattr(shared.Shared, "train", train)
    assert [o.kind for o in in_pack(configs, tmp_path, ["plain", "seed"]).values()] == ["finished"] * 2
    assert_same_run(tmp_path / "plain", apart / "plain")
