"""A run's folder before there is a run in it."""

import errno
import json
import os

import pytest

from fednas_jax.config.schema import Config, CostConfig
from fednas_jax.errors import RunError
from fednas_jax.run import lock
from fednas_jax.run.folder import RunDir

TABLE = "name,base [ms],speed [ms/MMAC],down [Mbit/s],up [Mbit/s]\nslow,1,0.2,2,2\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "phones.csv").write_text(TABLE)
    return Config(cost=CostConfig(population=str(tmp_path / "phones.csv")))


def begin(run, config):
    run.check(config)
    run.check_inputs(config)
    run.path.mkdir(exist_ok=True)
    with lock.Lock(run.path) as held:
        held.acquire()
        run.create(config, 1, "rows", "cpu", {}, "00000000")


def test_what_a_process_left_that_was_killed_at_its_start_is_in_nobodys_way(config, tmp_path):
    run = RunDir(tmp_path / "run")
    run.inputs.mkdir(parents=True)
    for name in (f".{lock.OWNER}.tmp", ".config.json.tmp", lock.OWNER, lock.LOCK, "inputs/0-phones.csv"):
        (run.path / name).write_text("half")
    begin(run, config)
    assert (run.inputs / "0-phones.csv").read_text() == TABLE
    assert run.config() == config


def test_a_run_that_began_does_not_go_on_with_another_table(config, tmp_path):
    run = RunDir(tmp_path / "run")
    begin(run, config)
    run.check_inputs(config)
    (tmp_path / "phones.csv").write_text(TABLE.replace("0.2", "0.3"))
    with pytest.raises(RunError, match=r"cost\.population: .* has changed since this run began"):
        run.check_inputs(config)


def test_a_table_that_finds_no_room_is_not_said_to_be_unreadable(config, tmp_path, monkeypatch):
    def full(*args, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = RunDir(tmp_path / "run")
    monkeypatch.setattr("fednas_jax.run.inputs.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):  # which `saving` turns into one line
        begin(run, config)


@pytest.mark.parametrize("field", ["versions", "code", "data"])
def test_what_a_run_began_with_is_read_in_its_form(config, tmp_path, field):
    run = RunDir(tmp_path / "run")
    begin(run, config)
    about = json.loads(run.config_file.read_text())
    checks = {
        "versions": run.other_versions,
        "code": lambda: run.check_code({}),
        "data": lambda: run.check_data("0" * 8),
    }
    checks[field]()
    run.config_file.write_text(json.dumps(about | {field: [1]}))
    with pytest.raises(RunError, match=rf"config\.json: {field}: got a list of 1, want"):
        checks[field]()
    run.config_file.write_text(json.dumps({name: value for name, value in about.items() if name != field}))
    checks[field]()  # of an older version, which did not say
