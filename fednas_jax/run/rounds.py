"""Rounds of a run: who is asked, who trains and scores what, and what that costs. FedAvg, and an iteration's rungs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pyarrow as pa

from fednas_jax.engine.tasks import Tally, Tasks, diverged
from fednas_jax.errors import ConfigError, Interrupted, TrainingError
from fednas_jax.phones import availability, ledger
from fednas_jax.run.problem import Setup
from fednas_jax.run.state import RunState
from fednas_jax.search import policies as controller
from fednas_jax.search import proposals as candidates
from fednas_jax.search.resources import Resource
from fednas_jax.seeds import KeyPurpose, Purpose, generator
from fednas_jax.space import stacks
from fednas_jax.space.network import Variables, Widths

MOST_SCORINGS = 100  # tries to have all candidates of a round scored


def fedavg(
    setup: Setup,
    state: RunState,
    purpose: KeyPurpose,
    rounds: int,
    cohort: int,
    candidate_ids: np.ndarray,
    widths: Sequence[Widths] | None = None,
) -> tuple[RunState, list[pa.Table]]:
    """Ordinary FedAvg of all members of the stack on the same cohorts, until the next checkpoint is due."""
    config = setup.config
    members = jax.tree.leaves(state.stack)[0].shape[0]
    stack, server, spent = stacks.filled(state.stack, setup.slots), state.server, []
    widths = widths or [state.widths] * members
    stage = state.stage.name.lower()
    done, clock = state.round, setup.clock()
    while done < rounds:
        moment = ledger.Moment(stage, 0, done + 1)
        present, gone, waited = setup.there(moment, clock)
        clients = np.arange(setup.clients)
        if not config.participation.everybody:
            one = np.zeros(setup.clients, np.int32)
            chosen = availability.invited(setup.prices.presence, moment.numbers, present, one, cohort)
            clients = np.flatnonzero(chosen)
        elif 0 < cohort < setup.clients:
            rng = generator(config.seed, Purpose.COHORT, purpose, done)
            clients = np.sort(rng.choice(setup.clients, cohort, replace=False))
        tasks = Tasks(
            np.repeat(np.arange(members, dtype=np.int32), len(clients)),
            np.tile(clients, members).astype(np.int32),
        )
        tasks, rows, seconds = setup.prices.simulate_round(
            tasks, candidate_ids, widths, setup.fleet.steps[tasks.client], moment, gone
        )
        seconds += waited
        rate = config.train.learning_rate * config.train.learning_rate_decay**done
        stack, server, left_out, effort = setup.fleet.train(
            state.physical_widths, stack, server, tasks, (purpose, 0, done), candidate_ids.tolist(), rate
        )
        setup.meter.effort += effort
        if purpose == KeyPurpose.PRETRAIN and diverged(tasks, left_out)[0]:
            raise TrainingError(
                f"{stage} round {done + 1}: no client's update is of finite numbers, or within train.update_bound; "
                f"train.learning_rate is {config.train.learning_rate:g}, try a lower train.learning_rate"
            )
        done, clock = done + 1, clock + seconds
        spent.append(rows)
        setup.tell(
            event="round",
            stage=stage,
            round=done,
            rounds=rounds,
            bucket=state.bucket,
            **summed(rows, simulated=seconds),
            **({"waited_seconds": waited} if waited else {}),
        )
        if setup.should_stop() or done % config.engine.checkpoint_rounds == 0:
            break
    stack = jax.tree.map(lambda a: np.asarray(a[:members]), jax.device_get(stack))
    return state._replace(round=done, stack=stack, server=server), spent


def train_candidates(
    setup: Setup,
    physical_widths: Widths,
    stack: Variables,
    iteration: int,
    proposals: list[candidates.Proposal],
    table: Resource,
) -> tuple[Variables, controller.State, list[pa.Table]]:
    """The rungs of one iteration; returns the trained stack, the controller's last state, and what clients spent."""
    s = setup.config.search
    widths = [p.widths for p in proposals]
    alive = np.arange(setup.slots) < len(proposals)
    resource = np.asarray([table(w) for w in widths] + [0] * (setup.slots - len(proposals)), np.float32)
    rungs = controller.schedule(s, iteration, len(proposals))
    state = controller.init(rungs, alive, resource)
    server, spent, candidate_ids = setup.fleet.init_server(stack), [], np.arange(setup.slots)
    root = jax.random.fold_in(jax.random.key(setup.config.seed), KeyPurpose.PLAN)
    rounds, clock, lost = 0, setup.clock(), np.zeros(setup.slots, bool)
    while not bool(controller.finished(state)):
        key = jax.random.fold_in(jax.random.fold_in(root, iteration), rounds)
        plan = setup.plan(state, key, setup.group_of)
        rung = int(state.rung) + 1
        moment = ledger.Moment("search", iteration, rounds + 1, rung)
        present, gone, waited = setup.there(moment, clock)
        planned = tasks_of(plan, setup.group_of)
        if not setup.config.participation.everybody:
            chosen = availability.invited(setup.prices.presence, moment.numbers, present, setup.group_of, setup.cohort)
            planned = Tasks(*(field[chosen[planned.client]] for field in planned))
        tasks, rows, seconds = setup.prices.simulate_round(
            planned, candidate_ids, widths, setup.fleet.steps[planned.client], moment, gone
        )
        seconds += waited
        stack, server, left_out, effort = setup.fleet.train(
            physical_widths,
            stack,
            server,
            tasks,
            (KeyPurpose.SEARCH, iteration, rounds),
            candidate_ids.tolist(),
            setup.config.train.learning_rate,
        )
        setup.meter.effort += effort
        lost |= diverged(tasks, left_out)
        rounds += 1
        tables = [rows]
        scores = np.full(setup.slots, np.nan, np.float32)
        if bool(controller.wants_scores(state)):
            who = functools.partial(scorers, setup, tasks, np.flatnonzero(state.alive), (iteration, rounds))
            tally, rows, longer, again = score(
                setup, physical_widths, stack, who, candidate_ids, widths, moment, clock + seconds
            )
            # Who diverged stayed as it was before that round: it was not trained, and must not win.
            scores = np.where(lost, np.nan, tally.accuracy).astype(np.float32)
            tables.append(rows)
            seconds, waited = seconds + longer, waited + again
        spent += tables
        clock += seconds
        before = np.asarray(state.alive)
        state = controller.tell(state, scores)
        after = np.asarray(state.alive)
        setup.tell(
            event="round",
            stage="search",
            iteration=iteration,
            rung=rung,
            rungs=len(rungs.rounds),
            round=rounds,
            rounds=int(np.sum(rungs.rounds)),
            alive=int(after.sum()),
            scores={proposals[k].name: float(scores[k]) for k in np.flatnonzero(np.isfinite(scores))},
            **summed(*tables, simulated=seconds),
            **({"waited_seconds": waited} if waited else {}),
        )
        if (before & ~after).any():
            dropped = [proposals[k].name for k in np.flatnonzero(before & ~after)]
            setup.tell(event="drop", iteration=iteration, round=rounds, candidates=dropped)
        if setup.should_stop():
            raise Interrupted  # the last boundary's checkpoint stands; this iteration's rounds are repeated
    return stack, state, spent


def tasks_of(plan: controller.Plan, group_of: np.ndarray) -> Tasks:
    """The task list of a plan: each candidate's groups' clients that are in the cohort."""
    assigned = np.asarray(plan.assign)[:, group_of] & np.asarray(plan.cohort)  # [K, C]
    candidate, client = np.nonzero(assigned)
    return Tasks(candidate.astype(np.int32), client.astype(np.int32))


def scorers(
    setup: Setup, trained: Tasks, alive: np.ndarray, moment: tuple[int, ...], here: np.ndarray, again: int
) -> Tasks:
    """Who scores whom: each candidate's own cohort, or one common sample of clients for all, a paired comparison.

    Only clients that are there score. A candidate of whose cohort nobody was taken, or is there any more, is scored by
    all who are there: it is as good as before.
    """
    sample = min(setup.config.search.score_clients, len(here))
    if sample:
        rng = generator(setup.config.seed, Purpose.SCORE, *moment, *([again] if again else []))
        clients = here[np.sort(rng.choice(len(here), sample, replace=False))]
        return Tasks(np.repeat(alive, sample).astype(np.int32), np.tile(clients, len(alive)).astype(np.int32))
    trained = Tasks(*(field[np.isin(trained.client, here)] for field in trained))
    alone = np.setdiff1d(alive, trained.candidate).astype(np.int32)
    return Tasks(
        np.concatenate([trained.candidate, np.repeat(alone, len(here))]),
        np.concatenate([trained.client, np.tile(here, len(alone)).astype(np.int32)]),
    )


def score(
    setup: Setup,
    physical_widths: Widths,
    stack: Variables,
    who: Callable[[np.ndarray, int], Tasks],
    candidate_ids: np.ndarray,
    widths: Sequence[Widths],
    moment: ledger.Moment,
    clock: float,
) -> tuple[Tally, pa.Table, float, float]:
    """Has candidates scored by clients that are there.

    Args:
      setup: of the run.
      physical_widths: the stack's.
      stack: [K, ...].
      who: the tasks, of those who are there and the number of times that this was tried.
      candidate_ids: [K] number of the candidate in each slot.
      widths: [K] its widths.
      moment: when.
      clock: simulated seconds since the run's beginning.

    Returns:
      The tally, what it cost, the simulated seconds, and how many of them the server waited for anybody.

    Raises:
      ConfigError: nobody stays long enough, however often they are asked.
    """
    seconds, waits, spent, paired = 0.0, 0.0, [], bool(setup.config.search.score_clients)
    # Who comes by chance is there for the whole round: it was waited for before the training, where there was any.
    trained = moment.round > 0 and not setup.config.participation.spells
    for again in range(MOST_SCORINGS):
        present, gone, waited = setup.there(moment, clock + seconds)
        tasks = who(np.flatnonzero(present), again)
        examples = setup.fleet.val_count[tasks.client]
        done, rows, took = setup.prices.score(tasks, candidate_ids, widths, examples, moment, gone, paired)
        waited *= not trained
        seconds, waits = seconds + waited + took, waits + waited
        if set(done.candidate) == set(tasks.candidate):
            spent.append(rows)
            tally = setup.fleet.evaluate(physical_widths, stack, done)
            setup.meter.effort += tally.effort
            return tally, pa.concat_tables(spent), seconds, waits
        # A candidate that nobody scored to the end is scored again, with all others, by those who are there then.
        spent.append(ledger.in_vain(rows))
    raise ConfigError(
        f"participation.availability: got {setup.config.participation.availability} where in {MOST_SCORINGS} tries "
        "nobody stayed to score every candidate, want clients that stay longer"
    )


def summed(*tables: pa.Table, simulated: float | None = None) -> dict[str, float]:
    """What an event says of its rows: all clients' seconds, and the simulated seconds that went by."""
    return {
        "client_seconds": float(sum(np.asarray(t["seconds"]).sum() for t in tables)),
        "simulated_seconds": sum(ledger.duration(t) for t in tables) if simulated is None else simulated,
    }
