"""A small run, what may happen to its folder, and what must come of it. Used by the tests beside this file."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np

from fednas_jax.config.schema import (
    Config,
    DataConfig,
    EngineConfig,
    FinetuneConfig,
    NetConfig,
    SearchConfig,
    StageConfig,
    TrainConfig,
)
from fednas_jax.errors import FednasError, Interrupted
from fednas_jax.phones import ledger
from fednas_jax.run.folder import RunDir
from fednas_jax.run.loop import run_search

SMALL = Config(
    data=DataConfig(clients=6, partition="dirichlet", alpha=1.0),
    net=NetConfig(widths=(4, 8, 16), multiple=(1, 1, 8)),
    train=TrainConfig(batch_size=60, learning_rate=0.1, server_optimizer="momentum", server_learning_rate=0.7),
    pretrain=StageConfig(rounds=2),
    search=SearchConfig(
        reduction=0.2, budget=0.5, groups=3, rungs=((1, 2), (1, 1)), score_clients=3, max_iterations=2, compact_at=0.9
    ),
    finetune=FinetuneConfig(rounds=1),
    engine=EngineConfig(lanes=1),
)
# How often each fault is tried: as many as docs/reliability.md says by default, more where more are asked for.
TIMES = int(os.environ.get("FEDNAS_FAULTS", "1"))


def go(out, **more):
    """Runs, or goes on with, the small run."""
    return run_search(SMALL, out, devices=jax.devices()[:1], **more)


def stopped(out, rounds):
    """Leaves a run that was stopped after some rounds."""
    asked = iter([False] * (rounds - 1))
    try:
        go(out, should_stop=lambda: next(asked, True))
    except Interrupted:
        return
    raise AssertionError("it was to be stopped")


def outcome(out):
    """What everybody would look at: the result but for the simulator's own effort, and the ledger's rows."""
    result = RunDir(out).result()
    rows = ledger.read(RunDir(out).ledger).to_pandas()
    plain = {name: value for name, value in result.items() if name not in ("simulator", "checksum")}
    return plain, rows.astype({name: str for name in ("stage", "phase", "work")}).to_numpy().tolist()


def tried(out):
    """The outcome of going on, or the one line that says why not."""
    try:
        go(out)
    except FednasError as error:
        said = str(error)
    else:
        return outcome(out)
    assert "\n" not in said
    return said


def copied(source, target):
    """A copy of a run's folder to be damaged."""
    shutil.copytree(source, target, symlinks=True)
    return target


def damage(path, kind, rng):
    """Does one of the KINDS to a file."""
    data = bytearray(path.read_bytes())
    if kind == "flip" and data:
        for place in rng.integers(0, len(data), 16):
            data[place] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
    elif kind == "cut":
        path.write_bytes(data[: int(rng.integers(0, max(1, len(data))))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "delete":
        path.unlink()
    elif kind == "grow":
        path.write_bytes(data + rng.bytes(32))


KINDS = ("flip", "cut", "empty", "delete", "grow")


def files(out, *parts):
    """All files of some folders of a run, in a fixed order."""
    return sorted(p for part in parts for p in (out / part).rglob("*") if p.is_file())


def events(out, name):
    """The events of one kind."""
    lines = (json.loads(line) for line in (out / "events.jsonl").read_text().splitlines())
    return [event for event in lines if event["event"] == name]


def rng(number):
    """One generator for each case."""
    return np.random.default_rng([7, number])


def changed(**search):
    """The small run with other fields of the search."""
    return dataclasses.replace(SMALL, search=dataclasses.replace(SMALL.search, **search))
