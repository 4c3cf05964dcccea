"""A round of a run: who is there, who is invited, what becomes of them, who trains and scores what, and what it costs.

Rounds are counted from 1 here, as in ledger and events; keys of random numbers count them from 0.
Letters: K most networks at once, C clients, T tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from fednas_jax.engine.fleet import Trained as FleetTrained
from fednas_jax.engine.tasks import Effort, Tally, Tasks
from fednas_jax.errors import ConfigError
from fednas_jax.phones import availability, ledger
from fednas_jax.run.problem import Problem
from fednas_jax.run.state import Stack
from fednas_jax.search import assignment, panel
from fednas_jax.seeds import KeyPurpose, Purpose, generator
from fednas_jax.space.network import Widths
from fednas_jax.space.stacks import padded

MOST_SCORINGS = 100  # tries to have all candidates of a round scored
PURPOSES = dict(zip(ledger.STAGES, (KeyPurpose.PRETRAIN, KeyPurpose.SEARCH, KeyPurpose.FINETUNE), strict=True))


class Team(NamedTuple):
    """The networks that train in the same rounds, by their numbers below K."""

    stacks: tuple[Stack, ...]  # all their slots filled
    candidate_ids: np.ndarray  # [K] whom each network's random numbers and rows belong to
    widths: Sequence[Widths]  # of each, at which it is sent and priced


class Invited(NamedTuple):
    """Whom the server asks to train."""

    tasks: Tasks
    wanted: np.ndarray  # [K] updates of each network that it waits for, of those it asked; 0: see `race.outcome`


class Trained(NamedTuple):
    """What a round of training left."""

    team: Team
    tasks: Tasks  # whose updates were taken
    rows: pa.Table  # of the ledger
    seconds: float  # simulated, waiting included
    waited: float  # of them, until anybody was there
    left_out: np.ndarray  # [K] updates that were no finite numbers, or beyond the bound
    effort: Effort


class Scored(NamedTuple):
    """What a round of scoring left."""

    tally: Tally
    rows: pa.Table
    seconds: float  # simulated, waiting included
    waited: float


def begin(
    problem: Problem,
    team: Team,
    moment: ledger.Moment,
    clock: float,
    invite: Callable[[np.ndarray], Invited],
    learning_rate: float,
) -> Callable[[], Trained]:
    """Hands a round of training to the devices; what is returned waits for them.

    Args:
      problem: of the run.
      team: its networks.
      moment: the round.
      clock: simulated seconds since the run's beginning.
      invite: the tasks, of who is there [C] bool, and how many of them are wanted.
      learning_rate: of the clients.
    """
    present, gone, waited = problem.there(moment, clock)
    invited, wanted = invite(present)

    def played() -> tuple[Tasks, pa.Table, float]:
        steps = problem.fleet.steps[invited.client]
        return problem.prices.simulate_round(invited, team.candidate_ids, team.widths, steps, moment, gone, wanted)

    # Where everybody stays to the end all updates are taken, and the round is priced while the devices work.
    known = None if problem.config.participation.everybody else played()
    tasks = invited if known is None else known[0]
    begun = _begun(problem, team, moment, tasks, learning_rate)

    def collect() -> Trained:
        _, rows, seconds = known or played()
        stacks, left_out, effort = [], np.zeros(problem.slots, np.int64), Effort()
        for stack, wait in begun:
            if wait is not None:
                done = wait()
                stack = stack._replace(variables=done.stack, server=done.server)
                left_out[list(stack.numbers)] = done.left_out[: len(stack.numbers)]
                effort += done.effort
            stacks.append(stack)
        return Trained(team._replace(stacks=tuple(stacks)), tasks, rows, seconds + waited, waited, left_out, effort)

    return collect


def _begun(
    problem: Problem, team: Team, moment: ledger.Moment, tasks: Tasks, learning_rate: float
) -> list[tuple[Stack, Callable[[], FleetTrained] | None]]:
    """Each stack, and what waits for its round, None where it has no tasks; one stack trains at a time."""
    key = (PURPOSES[moment.stage], moment.iteration, moment.round - 1)
    turns = _by_stack(team, tasks)
    busy = [(stack.physical_widths, stack.slots) for stack, _, own in turns if len(own.client)]
    begun: list[tuple[Stack, Callable[[], FleetTrained] | None]] = []
    running: Callable[[], FleetTrained] | None = None
    with problem.fleet.compiling("train", busy):
        for stack, ids, own in turns:
            if not len(own.client):
                begun.append((stack, None))
                continue
            if running is not None:
                running()
            asked = (stack.physical_widths, stack.variables, stack.server, own, key, ids, learning_rate)
            running = functools.cache(problem.fleet.begin(*asked))
            begun.append((stack, running))
    return begun


def cohort(problem: Problem, moment: ledger.Moment, networks: int, wanted: int) -> Callable[[np.ndarray], Invited]:
    """Invites the same clients for all networks, as FedAvg does.

    Args:
      problem: of the run.
      moment: the round.
      networks: how many there are.
      wanted: clients; 0: all.
    """

    def invite(present: np.ndarray) -> Invited:
        clients = np.arange(problem.clients)
        if not problem.config.participation.everybody:
            one_group = np.zeros(problem.clients, np.int32)
            presence = problem.prices.presence
            clients = np.flatnonzero(availability.invited(presence, moment.numbers, present, one_group, wanted))
        elif 0 < wanted < problem.clients:
            rng = generator(problem.config.seed, Purpose.COHORT, PURPOSES[moment.stage], moment.round - 1)
            clients = np.sort(rng.choice(problem.clients, wanted, replace=False))
        slots = np.arange(networks, dtype=np.int32)
        tasks = Tasks(np.repeat(slots, len(clients)), np.tile(clients, networks).astype(np.int32))
        return Invited(tasks, np.full(networks, wanted))

    return invite


def groups(problem: Problem, moment: ledger.Moment, draw: assignment.Draw) -> Callable[[np.ndarray], Invited]:
    """Invites for each candidate clients of the groups that are dealt to it.

    Args:
      problem: of the run.
      moment: the round.
      draw: which groups those are.
    """

    def invite(present: np.ndarray) -> Invited:
        tasks, wanted = tasks_of(draw, problem.group_of), problem.cohort * np.asarray(draw.assign).sum(1)
        if problem.config.participation.everybody:
            return Invited(tasks, wanted)
        presence, group_of = problem.prices.presence, problem.group_of
        chosen = availability.invited(presence, moment.numbers, present, group_of, problem.cohort)
        return Invited(_only(tasks, chosen[tasks.client]), wanted)

    return invite


def tasks_of(draw: assignment.Draw, group_of: np.ndarray) -> Tasks:
    """The task list of a draw: each candidate's groups' clients that are in the cohort."""
    assigned = np.asarray(draw.assign)[:, group_of] & np.asarray(draw.cohort)  # [K, C]
    candidate, client = np.nonzero(assigned)
    return Tasks(candidate.astype(np.int32), client.astype(np.int32))


def everyone(here: np.ndarray, again: int) -> Tasks:
    """All clients that are there score the first network."""
    del again
    return Tasks(np.zeros(len(here), np.int32), here.astype(np.int32))


def scorers(
    problem: Problem, trained: Tasks, alive: np.ndarray, moment: ledger.Moment
) -> Callable[[np.ndarray, int], Tasks]:
    """Who scores whom: each candidate's own cohort, or one common sample of clients for all, a paired comparison.

    Only clients that are there score. A candidate of whose cohort nobody was taken, or is there any more, is scored by
    all who are there: it is as good as before.

    Args:
      problem: of the run.
      trained: the round's tasks that were taken.
      alive: numbers of the candidates to be scored.
      moment: the round.
    """

    def who(here: np.ndarray, again: int) -> Tasks:
        sample = min(problem.config.search.score_clients, len(here))
        if sample:
            number = (moment.iteration, moment.round, *([again] if again else []))
            rng = generator(problem.config.seed, Purpose.SCORE, *number)
            clients = here[np.sort(rng.choice(len(here), sample, replace=False))]
            return Tasks(np.repeat(alive, sample).astype(np.int32), np.tile(clients, len(alive)).astype(np.int32))
        tasks = _only(trained, np.isin(trained.client, here) & np.isin(trained.candidate, alive))
        alone = np.setdiff1d(alive, tasks.candidate).astype(np.int32)
        return Tasks(
            np.concatenate([tasks.candidate, np.repeat(alone, len(here))]),
            np.concatenate([tasks.client, np.tile(here, len(alone)).astype(np.int32)]),
        )

    return who


def score(
    problem: Problem, team: Team, moment: ledger.Moment, clock: float, who: Callable[[np.ndarray, int], Tasks]
) -> Scored:
    """Has networks scored by clients that are there.

    Args:
      problem: of the run.
      team: the networks.
      moment: the round.
      clock: simulated seconds since the run's beginning.
      who: the tasks, of the clients who are there and the number of times that this was tried.

    Raises:
      ConfigError: nobody stays long enough, however often they are asked.
    """
    asked = _asked(problem, team, moment, clock, who)
    tally = _tally(problem, team, asked.done)
    return Scored(tally, asked.rows, asked.seconds, asked.waited)


def score_until_clear(
    problem: Problem,
    team: Team,
    alive: np.ndarray,
    moment: ledger.Moment,
    clock: float,
    clear: Callable[[panel.Counts, np.ndarray], bool],
) -> Scored:
    """Has candidates scored by a panel that grows in stages of `search.score_clients` to `search.score_most`.

    Each stage asks clients that were not asked before, of those who are there then; where there are none it is over.

    Args:
      problem: of the run.
      team: the networks.
      alive: slots of the candidates to be scored.
      moment: the round.
      clock: simulated seconds since the run's beginning.
      clear: whether the decision is clear by the counts so far; of them, who has a score [K].

    Raises:
      ConfigError: as `score`.
    """
    s, slots = problem.config.search, problem.slots
    correct, total, finite = np.zeros((0, slots), np.int64), np.zeros(0, np.int64), np.ones(slots, bool)
    seen, seconds, waited, effort = np.zeros(0, np.int64), 0.0, 0.0, Effort()
    rows: list[pa.Table] = []
    stages = panel.sizes(s.score_clients, s.score_most)
    for stage, wanted in enumerate(stages):
        who = _stage(problem, moment, alive, seen, stage, wanted)
        if stage and not len(who(np.flatnonzero(problem.there(moment, clock + seconds)[0]), 0).client):
            break
        asked = _asked(problem, team, moment, clock + seconds, who)
        rows, seconds, waited = [*rows, asked.rows], seconds + asked.seconds, waited + asked.waited
        each = np.unique(asked.done.client)
        seen = np.concatenate([seen, each])
        for client in each:  # one after the other, since the test is about differences within a client
            tally = _tally(problem, team, _only(asked.done, asked.done.client == client))
            correct, total = np.vstack([correct, tally.correct]), np.append(total, tally.total.max())
            finite &= tally.finite | (tally.total == 0)  # a client of whose examples none has a label says nothing
            effort += tally.effort
        if stage + 1 < len(stages) and clear(panel.Counts(correct, total), finite):
            break
    counts = panel.Counts(correct, total)
    each_total = np.where(np.isin(np.arange(slots), alive), total.sum(), 0)
    finite &= each_total > 0
    tally = Tally(np.where(finite, counts.scores, np.nan), correct.sum(0), each_total, finite, effort)
    return Scored(tally, pa.concat_tables(rows), seconds, waited)


def _stage(
    problem: Problem, moment: ledger.Moment, alive: np.ndarray, seen: np.ndarray, stage: int, wanted: int
) -> Callable[[np.ndarray, int], Tasks]:
    """Whom a stage of a growing panel asks: clients that are there and were not asked before, each about all alive."""

    def who(here: np.ndarray, again: int) -> Tasks:
        fresh = np.setdiff1d(here, seen)
        number = (moment.iteration, moment.round, *([again, stage] if stage else [again] if again else []))
        rng = generator(problem.config.seed, Purpose.SCORE, *number)
        clients = fresh[np.sort(rng.choice(len(fresh), min(wanted, len(fresh)), replace=False))]
        slots = np.repeat(alive, len(clients)).astype(np.int32)
        return Tasks(slots, np.tile(clients, len(alive)).astype(np.int32))

    return who


class _Asked(NamedTuple):
    """What became of asking clients to score."""

    done: Tasks  # whose scores count
    rows: pa.Table
    seconds: float  # simulated, waiting included
    waited: float


def _asked(
    problem: Problem, team: Team, moment: ledger.Moment, clock: float, who: Callable[[np.ndarray, int], Tasks]
) -> _Asked:
    """Asks until every network is scored by somebody; arguments and errors are those of `score`."""
    seconds, waits, paired = 0.0, 0.0, bool(problem.config.search.score_clients)
    spent: list[pa.Table] = []
    # Who comes by chance is there for the whole round: it was waited for before the training, where there was any.
    trained = moment.round > 0 and not problem.config.participation.spells
    for again in range(MOST_SCORINGS):
        present, gone, waited = problem.there(moment, clock + seconds)
        tasks = who(np.flatnonzero(present), again)
        examples = problem.fleet.val_count[tasks.client]
        done, rows, took = problem.prices.score(tasks, team.candidate_ids, team.widths, examples, moment, gone, paired)
        waited *= not trained
        seconds, waits = seconds + waited + took, waits + waited
        if set(done.candidate) == set(tasks.candidate):
            return _Asked(done, pa.concat_tables([*spent, rows]), seconds, waits)
        # A candidate that nobody scored to the end is scored again, with all others, by those who are there then.
        spent.append(ledger.in_vain(rows))
    raise ConfigError(
        f"participation.availability: got {problem.config.participation.availability} where in {MOST_SCORINGS} tries "
        "nobody stayed to score every candidate, want clients that stay longer"
    )


def _tally(problem: Problem, team: Team, tasks: Tasks) -> Tally:
    """What scoring counts for each network [K]; those that nobody scores have no score."""
    slots = problem.slots
    score, finite = np.full(slots, np.nan), np.zeros(slots, bool)
    correct, total, effort = np.zeros(slots, np.int64), np.zeros(slots, np.int64), Effort()
    turns = [(stack, own) for stack, _, own in _by_stack(team, tasks) if len(own.client)]
    with problem.fleet.compiling("score", [(stack.physical_widths, stack.slots) for stack, _ in turns]):
        for stack, own in turns:
            found, numbers = problem.fleet.evaluate(stack.physical_widths, stack.variables, own), list(stack.numbers)
            score[numbers], finite[numbers] = found.score[: len(numbers)], found.finite[: len(numbers)]
            correct[numbers], total[numbers] = found.correct[: len(numbers)], found.total[: len(numbers)]
            effort += found.effort
    return Tally(score, correct, total, finite, effort)


def _by_stack(team: Team, tasks: Tasks) -> list[tuple[Stack, list[int], Tasks]]:
    """Each stack, the candidate ids of its slots, and its tasks, whose candidates are its slots."""
    found = []
    for stack in team.stacks:
        ids = team.candidate_ids[padded(np.asarray(stack.numbers), stack.slots)].tolist()
        own = _only(tasks, np.isin(tasks.candidate, stack.numbers))
        slot = np.zeros(1 + max(stack.numbers), np.int32)
        slot[list(stack.numbers)] = np.arange(len(stack.numbers))
        found.append((stack, ids, own._replace(candidate=slot[own.candidate])))
    return found


def _only(tasks: Tasks, keep: np.ndarray) -> Tasks:
    return Tasks(*(field[keep] for field in tasks))
