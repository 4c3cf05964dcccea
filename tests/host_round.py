"""One host's part of a round in which several take part: `python host_round.py PORT NUMBER INDEX OUT`."""

import sys
from pathlib import Path

import jax
import numpy as np

from fednas_jax import nets
from fednas_jax.config.schema import DataConfig, EngineConfig, NetConfig, TrainConfig
from fednas_jax.data import load, pack, partition
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.tasks import Tasks
from fednas_jax.runtime import hosts

CONFIG = TrainConfig(batch_size=8, weight_decay=1e-3, server_optimizer="momentum", server_learning_rate=0.7)
NET = NetConfig(widths=(4, 6, 8), multiple=(1,))
TASKS = Tasks(np.array([0, 0, 0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 1, 2, 3, 8, 4, 5, 6, 7, 8]))


def one_round(devices=None):
    """A round of nine uneven clients whose data is sent part by part, and the scores after it, as a dictionary."""
    data = DataConfig(clients=9, size_sigma=1.0)
    dataset = load(data, 0)
    few = type(dataset.train)(dataset.train.inputs[:260], dataset.train.labels[:260])
    packed = pack(few, partition(few.labels, data, 1), 0.3, 1)
    network = nets.build(NET, (8, 8, 1), 10)
    engine = EngineConfig(lanes=2, eval_batch=4, data_share=0.0)
    fleet = Fleet(FleetSpec(network, packed, dataset.mean, dataset.std, 10, CONFIG, engine, 0, 3, devices))
    assert fleet.streams
    rng = np.random.default_rng(0)

    def draw(a):
        return np.abs(rng.normal(0.1, 0.2, (3, *a.shape))).astype(a.dtype)  # variances are positive

    stack = jax.tree.map(draw, network.abstract(NET.widths))
    server = fleet.init_server(stack)
    trained = fleet.train(NET.widths, stack, server, TASKS, (2, 1, 0), [7, 0, 5], 0.05)
    tally = fleet.evaluate(NET.widths, trained.stack, TASKS)
    leaves = jax.tree.leaves((trained.stack, trained.server))
    found = {f"leaf{n}": np.asarray(leaf) for n, leaf in enumerate(leaves)}
    counted = {name: getattr(tally, name) for name in ("correct", "total", "finite")}
    return found | counted | {"lane_steps": trained.effort.lane_steps}


if __name__ == "__main__":
    port, number, index = (int(a) for a in sys.argv[1:4])
    hosts.start(hosts.Hosts(f"127.0.0.1:{port}", number, index))
    assert len(jax.devices()) == number * len(jax.local_devices()) > number
    assert hosts.agree(index == 1)
    assert not hosts.agree(False)
    assert hosts.allgather("x" * index) == ["x" * n for n in range(number)]
    assert hosts.from_first_host(lambda: f"of {index}") == "of 0"
    np.savez(Path(sys.argv[4]) / f"{index}.npz", **one_round())
    hosts.wait("end")
