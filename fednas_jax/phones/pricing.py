"""What work costs on a phone: seconds and joules from MACs and bytes, and the ledger's rows of a round's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fednas_jax.phones.devices import THREE_PASSES, Devices, links
from fednas_jax.phones.ledger import (
    KINDS,
    PHASES,
    SCHEMA,
    STAGES,
    Moment,
    moments,
)


class Pricing(NamedTuple):
    """The clients' phones, and their links in one round; arrays [C]."""

    devices: Devices
    down: np.ndarray  # bytes a second
    up: np.ndarray

    def seconds(
        self,
        phase: str,
        client: np.ndarray,
        examples: np.ndarray,
        forward: np.ndarray,
        macs: np.ndarray,
        size: np.ndarray,
    ) -> np.ndarray:
        """Seconds [T] of one phase on each task's phone and link.

        Evaluating an example takes base + MACs of the forward pass x seconds a MAC. Training takes as many forward
        passes as the phone's table says; where it says nothing, the MACs as counted, and the base three times.

        Args:
          phase: of PHASES.
          client: [T].
          examples: [T] worked on in the phase.
          forward: [T] MACs of the candidate's forward pass on one example.
          macs: [T] of the whole phase, as counted.
          size: [T] bytes moved in the phase.
        """
        if phase in ("download", "upload"):
            return size / (self.up if phase == "upload" else self.down)[client]
        base, per_mac = self.devices.base[client], self.devices.per_mac[client]
        if phase == "evaluate":
            return examples * base + macs * per_mac
        said = self.devices.training[client]
        counted = THREE_PASSES * examples * base + macs * per_mac
        return np.where(np.isnan(said), counted, said * examples * (base + forward * per_mac))

    def joules(self, phase: str, client: np.ndarray, seconds: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Energy [T]: the phone's power while it computes, and the bytes it moves. Both are assumptions of the user."""
        computes = phase in ("train", "evaluate")
        return seconds * computes * self.devices.watts[client] + size * self.devices.joules_per_byte[client]


def priced_round(devices: Devices, seed: int, moment: Moment) -> Pricing:
    """The phones with their links as they are in this round."""
    return Pricing(devices, *links(devices, seed, *moment.numbers))


class Work(NamedTuple):
    """T tasks: who worked on what, and how much there was of it. All integers."""

    candidate: np.ndarray  # [T] the candidate's number
    client: np.ndarray  # [T]
    examples: np.ndarray  # [T] examples trained on, or validation examples evaluated
    forward: np.ndarray  # [T] MACs of the candidate's forward pass on one example
    training: np.ndarray  # [T] MACs of training the candidate on one example
    down: np.ndarray  # [T] bytes of the candidate's parameters and statistics
    up: np.ndarray  # [T] bytes of its update as it is sent


class Done(NamedTuple):
    """How far T tasks got."""

    share: np.ndarray  # [T, 3] of download, training and upload; of scoring [T, 2] of download and evaluation
    used: np.ndarray  # [T] bool
    cut: np.ndarray  # [T] bool: stopped by the clock, so that a part of an example or byte took time too


# What a task is done in, one after the other. The few bytes of a score are free.
TRAINING = ("download", "train", "upload")


SCORING = ("download", "evaluate")


def task_seconds(priced: Pricing, work: Work, phases: Sequence[str]) -> np.ndarray:
    """Seconds [T, P] that the P phases of each task take if nothing stops them: those of TRAINING or of SCORING."""
    return np.stack([_amount(priced, phase, work, None)[3] for phase in phases], axis=1)


def training(priced: Pricing, moment: Moment, work: Work, done: Done | None = None) -> pa.Table:
    """The rows of training tasks: download the candidate, train it, upload the update.

    Args:
      priced: phones and links.
      moment: when.
      work: the tasks.
      done: how far each got; None: to the end, and its update was used. Phases that were not begun have no row.
    """
    return _phases(priced, moment, "training", TRAINING, work, done)


def scoring(priced: Pricing, moment: Moment, work: Work, done: Done | None = None) -> pa.Table:
    """The rows of scoring tasks: download the averaged candidate, evaluate it. Arguments as of `training`."""
    return _phases(priced, moment, "scoring", SCORING, work, done)


def _phases(
    priced: Pricing, moment: Moment, kind: str, phases: Sequence[str], work: Work, done: Done | None
) -> pa.Table:
    return pa.concat_tables(
        [
            _rows(priced, moment, phase, kind, work, done and done._replace(share=done.share[:, n]))
            for n, phase in enumerate(phases)
        ]
    )


def _amount(
    priced: Pricing, phase: str, work: Work, share: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Examples, MACs, bytes and seconds [T] of one phase; of a share of it what was finished: whole examples, bytes."""

    def part(values: np.ndarray) -> np.ndarray:
        return values if share is None else np.floor(share * values + 1e-9).astype(np.int64)

    nothing = np.zeros(len(work.client), np.int64)
    examples, macs, size = nothing, nothing, nothing
    if phase in ("train", "evaluate"):
        examples = part(work.examples)
        macs = examples * (work.training if phase == "train" else work.forward)
    else:
        size = part(work.up if phase == "upload" else work.down)
    return examples, macs, size, priced.seconds(phase, work.client, examples, work.forward, macs, size)


def _rows(priced: Pricing, moment: Moment, phase: str, kind: str, work: Work, done: Done | None) -> pa.Table:
    """One phase of the tasks; it either computes (MACs, on examples) or moves bytes. `done.share` is [T] here."""
    used = np.full(len(work.client), True)
    if done is not None:
        begun = done.share > 0
        work, done = Work(*(field[begun] for field in work)), Done(*(field[begun] for field in done))
        used = done.used
    examples, macs, size, seconds = _amount(priced, phase, work, None if done is None else done.share)
    if done is not None:
        seconds = np.where(done.cut, done.share * _amount(priced, phase, work, None)[3], seconds)
    count = len(work.client)

    def name(value: str, values: Sequence[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(np.full(count, values.index(value), np.int8)), list(values))

    columns = [
        name(moment.stage, STAGES),
        np.full(count, moment.iteration),
        np.full(count, moment.round),
        work.candidate,
        work.client,
        name(phase, PHASES),
        examples,
        macs,
        size,
        seconds,
        priced.joules(phase, work.client, seconds, size),
        used,
        name(kind, KINDS),
        work.forward if phase in ("train", "evaluate") else np.zeros(count, np.int64),
        np.full(count, moment.rung),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def reprice(table: pa.Table, devices: Devices, seed: int) -> pa.Table:
    """The rows [N] of a ledger with the seconds and joules that other phones and links would have spent on them."""
    stage, phase = (np.asarray(pc.cast(table[c], pa.string())) for c in ("stage", "phase"))
    numbers = {
        c: np.asarray(table[c]) for c in ("iteration", "round", "client", "examples", "forward", "macs", "bytes")
    }
    seconds, joules = np.zeros(len(stage)), np.zeros(len(stage))
    for moment in moments(table):
        priced = priced_round(devices, seed, moment)
        now = (stage == moment.stage) & (numbers["iteration"] == moment.iteration) & (numbers["round"] == moment.round)
        for name in PHASES:
            at = np.flatnonzero(now & (phase == name))
            of = [numbers[c][at] for c in ("client", "examples", "forward", "macs", "bytes")]
            seconds[at] = priced.seconds(name, *of)
            joules[at] = priced.joules(name, of[0], seconds[at], of[-1])
    for column, values in (("seconds", seconds), ("joules", joules)):
        table = table.set_column(SCHEMA.get_field_index(column), SCHEMA.field(column), pa.array(values))
    return table
