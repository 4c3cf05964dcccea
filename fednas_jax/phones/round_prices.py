"""What a run's work costs: the clients' phones, who of them takes part, and a candidate's work by its widths.

Letters: C clients, K candidates, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fednas_jax.config.schema import Config
from fednas_jax.data import PackedClients
from fednas_jax.engine import compression
from fednas_jax.engine.local import local_steps
from fednas_jax.engine.tasks import Tasks
from fednas_jax.errors import ConfigError
from fednas_jax.phones import availability, devices, ledger, pricing, race
from fednas_jax.runtime import hosts
from fednas_jax.space import training_macs
from fednas_jax.space.masks import Space
from fednas_jax.space.network import Widths


class Prices(NamedTuple):
    """Everything that the price of a round depends on."""

    config: Config
    devices: devices.Devices
    presence: availability.Presence
    forward: Callable[[Any], Any]  # MACs of a forward pass of one example
    training: Callable[[Any], Any]  # MACs of training on one example
    down: Callable[[Any], Any]  # bytes
    up: Callable[[Any], Any]  # bytes, as the update is sent

    def work(
        self, tasks: Tasks, candidate_ids: np.ndarray, widths: Sequence[Widths], examples: np.ndarray
    ) -> pricing.Work:
        """Tasks with the MACs and bytes of each candidate as it is physically sent, at its own widths.

        Args:
          tasks: T of them.
          candidate_ids: [K] number of the candidate in each slot.
          widths: [K] its widths.
          examples: [T] that each task works on.
        """
        tables = (self.forward, self.training, self.down, self.up)
        columns = (np.asarray([table(w) for w in widths], np.int64)[tasks.candidate] for table in tables)
        return pricing.Work(candidate_ids[tasks.candidate], tasks.client, examples.astype(np.int64), *columns)

    def at(self, moment: ledger.Moment) -> pricing.Pricing:
        """Phones, and their links as they are in this round."""
        return pricing.priced_round(self.devices, self.config.seed, moment)

    def simulate_round(
        self,
        tasks: Tasks,
        candidate_ids: np.ndarray,
        widths: Sequence[Widths],
        steps: np.ndarray,
        moment: ledger.Moment,
        gone: np.ndarray,
        wanted: np.ndarray,
    ) -> tuple[Tasks, pa.Table, float]:
        """Plays a round of training: the tasks whose updates are taken, what all tasks cost, and the simulated seconds.

        Args:
          tasks: T of them, in the order in which each phone does its own.
          candidate_ids: [K] number of the candidate in each slot.
          widths: [K] its widths.
          steps: [T] local steps of each task.
          moment: when.
          gone: [C] seconds after which a client goes away (`availability.stays`).
          wanted: [K] updates of each candidate; 0: see `race.outcome`.
        """
        chosen, server = self.config.participation, self.config.cost.server_seconds
        priced = self.at(moment)
        work = self.work(tasks, candidate_ids, widths, steps * self.config.train.batch_size)
        if chosen.everybody or not len(steps):
            rows = pricing.training(priced, moment, work)
            return tasks, rows, ledger.duration(rows) + server
        leaves = availability.leaving(self.presence, moment.numbers)
        seconds = pricing.task_seconds(priced, work, pricing.TRAINING)
        found = race.outcome(chosen, tasks.candidate, tasks.client, steps, seconds, leaves, gone, wanted)
        rows = pricing.training(priced, moment, work, pricing.Done(found.done, found.used, found.cut))
        taken = Tasks(*(field[found.used] for field in tasks))
        return taken, rows, (found.seconds if chosen.timed else ledger.duration(rows)) + server

    def score(
        self,
        tasks: Tasks,
        candidate_ids: np.ndarray,
        widths: Sequence[Widths],
        examples: np.ndarray,
        moment: ledger.Moment,
        gone: np.ndarray,
        paired: bool,
    ) -> tuple[Tasks, pa.Table, float]:
        """Plays a round of scoring: as `simulate_round`, of validation examples.

        Args:
          tasks: T of them, in the order in which each phone does its own.
          candidate_ids: [K] number of the candidate in each slot.
          widths: [K] its widths.
          examples: [T] validation examples of each task.
          moment: when.
          gone: [C] seconds after which a client goes away (`availability.stays`).
          paired: only those who scored all of their candidates count.
        """
        priced, work = self.at(moment), self.work(tasks, candidate_ids, widths, examples)
        if np.isinf(gone[tasks.client]).all():
            rows = pricing.scoring(priced, moment, work)
            return tasks, rows, ledger.duration(rows)
        seconds = pricing.task_seconds(priced, work, pricing.SCORING)
        found = race.scored(tasks.candidate, tasks.client, seconds, gone, paired)
        rows = pricing.scoring(priced, moment, work, pricing.Done(found.done, found.used, found.cut))
        return Tasks(*(field[found.used] for field in tasks)), rows, found.seconds


def prices_of(config: Config, space: Space, packed: PackedClients) -> Prices:
    """Deals phones to the clients; the first host reads the files.

    Raises:
      ConfigError: no such population, phone or table; or a deadline that no client can meet.
    """

    def read() -> tuple[devices.Devices, availability.Presence]:
        population = devices.population(config.cost, space.macs(space.widths))
        dealt = devices.sample(population, config.cost, packed.clients, config.seed)
        return dealt, availability.presence(config.participation, packed.clients, config.seed)

    training = training_macs.training_table(space)
    up = compression.upload_bytes(config.train, space)
    prices = Prices(config, *hosts.from_first_host(read), space.macs, training, space.size, up)
    deadline = config.participation.deadline_seconds
    if deadline is not None:
        widths, name = (space.widths, "parent") if config.pretrain.rounds else (space.smallest, "smallest network")
        least = _fastest(prices, widths, packed)
        if least > deadline:
            got = f"participation.deadline_seconds: got {deadline}"
            raise ConfigError(f"{got}, want at least {least:.3g}, in which the fastest client trains the {name}")
    return prices


def _fastest(prices: Prices, widths: Widths, packed: PackedClients) -> float:
    """Seconds in which the fastest client downloads, trains and uploads a network, its links being their means."""
    everyone = Tasks(np.zeros(packed.clients, np.int32), np.arange(packed.clients, dtype=np.int32))
    examples = local_steps(packed.train_count, prices.config.train) * prices.config.train.batch_size
    work = prices.work(everyone, np.zeros(1, int), [widths], examples)
    dealt = prices.devices
    priced = pricing.Pricing(dealt, dealt.down, dealt.up)
    return float(pricing.task_seconds(priced, work, pricing.TRAINING).sum(1).min())
