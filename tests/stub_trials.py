"""Small trials, and some that train nothing: what a worker leaves is written at once. Used by the tests of sweeps."""

from pathlib import Path

import pyarrow.parquet as pq

from fednas_jax.config.files import from_json
from fednas_jax.files import make_folder, write_json
from fednas_jax.run.folder import RunDir
from fednas_jax.run.manifest import sealed
from fednas_jax.sweep.scheduling import Outcome

TINY = """
preset = "digits"
[fields]
data.clients = 4
net.widths = [2, 4, 8]
net.multiple = [1, 2, 4]
train.batch_size = 200
pretrain.rounds = 1
finetune.rounds = 1
search.groups = 2
search.settle_rounds = 1
search.score_clients = 0
search.max_iterations = 1
search.growth = 0.0
search.budget = 0.5
engine.lanes = 1
"""
FOUR = f"{TINY}\n[[trials]]\ngrid = {{ method = ['fednas', 'naive'], seed = [0, 1] }}\n"

SPENT = {
    name: dict.fromkeys(("mean", "p50", "p95", "max", "total"), 2.5e6)
    for name in ("seconds", "macs", "bytes_up", "bytes_down", "joules")
}


def member(iteration, macs, accuracy):
    return {
        "iteration": iteration,
        "widths": {"conv": 4},
        "macs": macs,
        "params": 10,
        "score": 0.5,
        "test_accuracy": accuracy,
        "client_seconds": 1.0,
    }


def result(config):
    """A result.json whose accuracies tell the seed."""
    return sealed(
        {
            "schema": 2,
            "method": config.method,
            "preset": config.preset,
            "seed": config.seed,
            "stop_reason": "budget reached",
            "clients": 4,
            "parent": member(0, 1000, 0.9),
            "models": [member(1, 600, 0.8), member(2, 200, 0.7 + config.seed / 1000)],
            "client_cost": dict.fromkeys(("pretrain", "search", "finetune", "all"), SPENT),
            "simulated_hours": dict.fromkeys(("pretrain", "search", "finetune", "all"), 3.0),
            "simulator": {"wall_seconds": 1.5},
        }
    )


def finish(values, path):
    """Leaves a finished run."""
    run, config = RunDir(Path(path)), from_json(values)
    make_folder(run.path)
    run.create(config, 1, "rows", "cpu", {}, "00000000")
    write_json(run.result_file, result(config))


class StubPool:
    """A pool of `scheduling` whose workers finish every trial at once, unless `becomes` says otherwise.

    Args:
      becomes: a job's config as JSON values, and how often it was tried -> an Outcome that is no 'finished', or None.
      number: of workers.
    """

    def __init__(self, becomes=lambda values, tries: None, number=1):
        self.number, self.becomes = number, becomes
        self.running, self.tried, self.closed = {}, [], False

    def begin(self, worker, pack):
        (job,) = pack
        assert worker not in self.running
        self.running[worker] = job

    def wait(self, seconds):
        ended = []
        for worker, job in self.running.items():
            values = job.config()
            self.tried.append(job.name)
            outcome = self.becomes(values, self.tried.count(job.name))
            if outcome is None:
                finish(values, job.path)
                outcome = Outcome("finished", wall_seconds=1.5)
            ended.append((worker, outcome))
        self.running = {}
        return ended

    def stop(self):
        pass

    def close(self):
        self.closed = True


def written(folder, text):
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def rows(out):
    """The table but for times of this machine."""
    return pq.read_table(out / "trials.parquet").drop_columns("wall_seconds").to_pylist()
