"""A small round that the engine's tests train: a network with dropout and BatchNorm, and ten tasks."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from fednas_jax.config.schema import EngineConfig, TrainConfig
from fednas_jax.engine.fleet import Fleet, FleetSpec
from fednas_jax.engine.tasks import Effort, Tasks

WIDTHS = (4, 6)
MOMENT = (3, 2, 1)
NAMES = [7, 0, 5]
CONFIG = TrainConfig(local_epochs=1.5, batch_size=8, learning_rate=0.05, momentum=0.9, weight_decay=1e-3, proximal=0.3)


class ConvNorm(nnx.Module):
    """With dropout, so that all that follows holds with it: its draws is the task's, whatever the lane or device."""

    def __init__(self, widths, rngs):
        self.conv = nnx.Conv(1, widths["conv"], (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(widths["conv"], momentum=0.9, rngs=rngs)
        self.dense = nnx.Linear(16 * widths["conv"], widths["dense"], rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.classifier = nnx.Linear(widths["dense"], 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.classifier(self.dropout(nnx.relu(self.dense(x.reshape(x.shape[0], -1)))))


class Counted(Fleet):
    """A fleet that adds up its effort."""

    effort = Effort()

    def train(self, *args):
        trained = super().train(*args)
        self.effort += trained.effort
        return trained


def fleet(network, dataset, packed, lanes, devices, config=CONFIG, data_share=0.25, lowering="auto", **more):
    engine = EngineConfig(lanes=lanes, lowering=lowering, eval_batch=4, data_share=data_share)
    devices = jax.devices()[:devices]
    return Counted(FleetSpec(network, packed, dataset.mean, dataset.std, 10, config, engine, 0, 3, devices, **more))


def stacked(candidates):
    return jax.tree.map(lambda *a: np.stack(a), *candidates)


def one_round(engine, candidates, tasks, config=CONFIG):
    stack = stacked(candidates)
    rate = config.learning_rate
    trained = engine.train(WIDTHS, stack, engine.init_server(stack), tasks, MOMENT, NAMES, rate).stack
    return [jax.tree.map(lambda a, k=k: np.asarray(a[k]), trained) for k in range(len(candidates))]


TASKS = Tasks(np.array([0, 0, 0, 0, 0, 2, 2, 2, 2, 2]), np.array([0, 1, 2, 3, 8, 4, 5, 6, 7, 8]))


def round_key():
    key = jax.random.key(0)
    for part in MOMENT:
        key = jax.random.fold_in(key, part)
    return key


def assert_equal(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def assert_close(one, other, atol=1e-5):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


def trained_and_scored(engine, candidates, tasks=TASKS, config=CONFIG):
    trained = one_round(engine, candidates, tasks, config)
    return trained, scored(engine, trained, tasks)


def scored(engine, candidates, tasks=TASKS):
    """The tally without its seconds, which never are the same."""
    return engine.evaluate(WIDTHS, stacked(candidates), tasks)._replace(effort=None)


def with_config(**changed):
    return dataclasses.replace(CONFIG, **changed)
