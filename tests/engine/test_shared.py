"""Runs that share a fleet train and score as each would with its own."""

import dataclasses

import jax
import numpy as np
import pytest
from rounds import NAMES, TASKS, WIDTHS, assert_close, fleet, stacked, with_config

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import pack, partition
from fednas_jax.engine.fleet import Fleet
from fednas_jax.engine.shared import Shared, ToScore, ToTrain, kind_of
from fednas_jax.engine.tasks import Tasks

FEW = Tasks(np.array([2, 2, 0, 0]), np.array([3, 1, 0, 4]))
"""Of the second run, whose candidate 1 rests."""


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_a_round_of_two_runs_is_what_each_has_alone(network, dataset, packed, candidates, devices):
    other_config = with_config(learning_rate=0.02, momentum=0.0, weight_decay=0.01, proximal=0.0)
    examples = type(dataset.train)(dataset.train.inputs[300:420], dataset.train.labels[300:420])
    other_data = pack(examples, partition(examples.labels, DataConfig(clients=5), 2), 0.3, 2)
    one = fleet(network, dataset, packed, 1, devices).spec
    other = dataclasses.replace(one, train=other_config, data=other_data, seed=5)
    assert kind_of(one, 1) == kind_of(other, 1)
    both = Shared([one, other], 1)
    asked = []
    for spec, tasks, moment in ((one, TASKS, (3, 2, 1)), (other, FEW, (1, 0, 4))):
        stack, rate = stacked(candidates[::-1]), spec.train.learning_rate
        asked.append(ToTrain(WIDTHS, stack, Fleet(spec).init_server(stack), tasks, moment, NAMES, rate))
    together = both.train([0, 1], asked)
    tallies = both.evaluate([0, 1], [ToScore(WIDTHS, t.stack, a.tasks) for t, a in zip(together, asked, strict=True)])
    for spec, ask, trained, tally in zip((one, other), asked, together, tallies, strict=True):
        alone = Fleet(spec)
        wanted = alone.train(*ask)
        assert_close((trained.stack, trained.server, trained.left_out), jax.device_get(wanted[:3]))
        scores = alone.evaluate(WIDTHS, jax.device_get(trained.stack), ask.tasks)
        assert_close(tally._replace(effort=None), scores._replace(effort=None))
