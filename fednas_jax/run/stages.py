"""The steps of a run: a round of pretraining, of an iteration of the search, or of fine-tuning, and what lies between.

Each takes the problem and a state, hands what there is to train to the devices, and returns what waits for them and
tells the next state with what happened; none touches the disk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from fednas_jax.engine.tasks import Effort, diverged
from fednas_jax.phones import ledger
from fednas_jax.run import diagnosis, events, rounds
from fednas_jax.run.problem import Problem
from fednas_jax.run.rounds import Team
from fednas_jax.run.session import Model, Step
from fednas_jax.run.state import Member, RunState, Spent, Stack, Stage, Trial
from fednas_jax.search import panel, policies, proposals
from fednas_jax.seeds import KEYS, KeyPurpose
from fednas_jax.space import stacks
from fednas_jax.space.network import Variables, Widths


def first_state(problem: Problem, variables: Variables | None, source: dict[str, Any] | None) -> RunState:
    """The start of a run.

    Args:
      problem: of the run.
      variables: of a given parent; None: a freshly initialised one.
      source: where the given parent came from.
    """
    widths = problem.space.widths
    if variables is None:
        key = jax.random.fold_in(jax.random.key(problem.config.seed, impl=KEYS), KeyPurpose.INIT)
        variables = jax.device_get(problem.space.network.init(widths, key))
    return RunState(
        stage=Stage.PRETRAIN,
        iteration=0,
        round=0,
        bucket=0,
        physical_widths=widths,
        widths=widths,
        stacks=_trainable(problem, [widths], [variables]),
        kept=tuple(np.ones(w, bool) for w in widths),
        trial=None,
        family=(),
        stop_reason="",
        source=source,
        given_score=None,
        spent=Spent(),
        effort=Effort(),
        warnings=(),
        files=(),
        pending=ledger.SCHEMA.empty_table(),
    )


Collect = Callable[[], Step]
"""Waits for what was begun, and tells the step. Its caller may work while the devices do."""


def begin(problem: Problem, state: RunState) -> Collect:
    """Begins what comes next in a run: one round at most."""
    of: dict[Stage, Callable[[Problem, RunState], Collect]] = {
        Stage.PRETRAIN: pretrain,
        Stage.SEARCH: search,
        Stage.FINETUNE: finetune,
    }
    return of[state.stage](problem, state)


def pretrain(problem: Problem, state: RunState) -> Collect:
    """A round of FedAvg of the parent; after the last all who are there score it.

    Raises:
      TrainingError: the parent diverged in this round; when it is collected.
    """
    stage = problem.config.pretrain
    if state.round == stage.rounds:
        return functools.partial(_pretrained, problem, state)
    if state.round == 0 and state.source is not None:
        state = state._replace(given_score=diagnosis.score_of(problem, state.stacks[0]))
    return _fedavg(problem, state, stage.rounds, stage.clients_per_round, [state.widths], np.zeros(1, np.int64))


def _pretrained(problem: Problem, state: RunState) -> Step:
    """The end of pretraining: the parent's score."""
    moment = ledger.Moment("pretrain", 0, state.round)
    team = _team(problem, state, [state.widths], np.zeros(1, np.int64))
    found = rounds.score(problem, team, moment, state.spent.seconds, rounds.everyone)
    score = float(found.tally.score[0])
    if not np.isfinite(score):
        raise diagnosis.without_score(problem.config, "pretraining", f"the parent's score is {score}, want a number")
    macs = problem.space.macs(state.widths)
    parent = events.Parent(score, macs, **_spent(found.rows, found.seconds, found.waited))
    warnings = diagnosis.of_parent(problem, found.tally, state.given_score)
    member = Member(0, state.widths, state.physical_widths, score)
    model = Model(member, _network(state))
    state = _paid(state, "pretrain", 0, found.rows, found.seconds, found.tally.effort)
    state = state._replace(
        round=0,
        stacks=(_lone(state.physical_widths, model.variables),),
        family=(member,),
        warnings=(*state.warnings, *warnings),
    )
    told = (parent, *map(events.Warned, warnings))
    if problem.config.command == "pretrain":
        state = state._replace(stage=Stage.TEST, stop_reason="pretrained")
        return Step(state, told, (model,), closes="pretrain")
    state, more = _after_search(problem, state._replace(stage=Stage.SEARCH, stop_reason=_reason(problem, state)))
    return Step(state, (*told, *more), (model,), closes="pretrain")


def search(problem: Problem, state: RunState) -> Collect:
    """The beginning, a round, or the end of an iteration of the search."""
    if state.trial is None:
        return functools.partial(_iteration, problem, state)
    if not bool(problem.policy.finished(state.trial.policy)):
        return _trial_round(problem, state, state.trial)
    return functools.partial(_select, problem, state, state.trial)


def finetune(problem: Problem, state: RunState) -> Collect:
    """A round of FedAvg of a bucket of the family's members, side by side."""
    stage, parts = problem.config.finetune, buckets(problem, state)
    if state.bucket == len(parts):
        return lambda: Step(state._replace(stage=Stage.TEST), boundary=False)
    members = parts[state.bucket]
    if state.round == stage.rounds:
        return functools.partial(_finetuned, problem, state, members)
    iterations, widths = np.asarray([m.iteration for m in members]), [m.widths for m in members]
    return _fedavg(problem, state, stage.rounds, stage.clients_per_round, widths, iterations)


def _finetuned(problem: Problem, state: RunState, members: Sequence[Member]) -> Step:
    """The end of a bucket's fine-tuning."""
    models = []
    for number, member in enumerate(members):
        channels = tuple(np.arange(w) for w in member.widths)
        models.append(Model(member, problem.space.slice(_network(state, number), channels), "finetuned"))
    name = f"finetune-{state.bucket:02d}"
    stage_after = Stage.TEST if state.bucket + 1 == len(buckets(problem, state)) else Stage.FINETUNE
    state = state._replace(stage=stage_after, bucket=state.bucket + 1, round=0, stacks=())
    return Step(state, models=tuple(models), closes=name)


def needs_members(problem: Problem, state: RunState) -> list[Member]:
    """The members that the next step fine-tunes and has no weights of yet; `with_members` takes them."""
    if state.stage != Stage.FINETUNE or state.stacks:
        return []
    parts = buckets(problem, state)
    return parts[state.bucket] if state.bucket < len(parts) else []


def with_members(problem: Problem, state: RunState, members: Sequence[Member], found: Sequence[Variables]) -> RunState:
    """The state with the members of the next bucket in its stack.

    Args:
      problem: of the run.
      state: that `needs_members` was asked about.
      members: its answer.
      found: variables of each, at its own widths.
    """
    shapes = [member.physical_widths for member in members]
    embedded = [problem.space.embed(variables, shape) for variables, shape in zip(found, shapes, strict=True)]
    return state._replace(stacks=_trainable(problem, shapes, embedded))


def buckets(problem: Problem, state: RunState) -> list[list[Member]]:
    """Members that fine-tune side by side, at most K at a time: masked ones of one physical shape in one program."""
    members = asked_for(problem, state.family)
    shapes = [0 if problem.sliced else m.physical_widths for m in members]
    alike = [[members[n] for n in numbers] for _, numbers in _alike(shapes)]
    return [part[n : n + problem.slots] for part in alike for n in range(0, len(part), problem.slots)]


def asked_for(problem: Problem, family: Sequence[Member]) -> list[Member]:
    """Members to be fine-tuned: those named by iteration and the largest within each share; nothing said: all."""
    stage = problem.config.finetune
    if not stage.members and not stage.shares:
        return list(family)
    largest = {_largest_within(problem, family, share) for share in stage.shares}
    return [m for m in family if m.iteration in {*stage.members, *largest}]


def _largest_within(problem: Problem, family: Sequence[Member], share: float) -> int | None:
    """The iteration of the largest member within a share of the parent's MACs; None: there is none."""
    whole = problem.space.macs(family[0].widths)
    # MACs fall from iteration to iteration: the first that fits is the largest.
    return next((m.iteration for m in family if problem.space.macs(m.widths) / whole <= share), None)


def _fedavg(
    problem: Problem, state: RunState, total: int, wanted: int, widths: Sequence[Any], candidate_ids: np.ndarray
) -> Collect:
    """One round of ordinary FedAvg of all networks of the stack, on the same clients."""
    stage, number = state.stage.name.lower(), state.round + 1
    moment = ledger.Moment(stage, 0, number)
    team = _team(problem, state, widths, candidate_ids)
    invite = rounds.cohort(problem, moment, len(widths), wanted)
    rate = problem.rates(total)[state.round]
    wait = rounds.begin(problem, team, moment, state.spent.seconds, invite, rate)
    return lambda: _averaged(state, wait(), total, rate, candidate_ids)


def _averaged(
    state: RunState, done: rounds.Trained, total: int, learning_rate: float, candidate_ids: np.ndarray
) -> Step:
    """The end of a round of FedAvg."""
    stage, number = state.stage.name.lower(), state.round + 1
    lost = np.flatnonzero(diverged(done.tasks, done.left_out))
    if len(lost) and state.stage == Stage.PRETRAIN:
        raise diagnosis.diverged_parent(stage, number, learning_rate)
    event = events.Round(
        stage=stage,
        round=number,
        rounds=total,
        bucket=state.bucket,
        left_out=int(done.left_out.sum()) or None,
        **_spent(done.rows, done.seconds, done.waited),
    )
    # A member that fine-tuning would spoil stays as it was; the run goes on with the others.
    spoiled = tuple(events.Diverged(stage, int(candidate_ids[slot])) for slot in lost)
    texts = [f"iteration {e.iteration}: diverged in fine-tuning, first in round " for e in spoiled]
    fresh = [text for text in texts if not any(said.startswith(text) for said in state.warnings)]
    warnings = [f"{text}{number}; it stays as it was before such a round" for text in fresh]
    state = _paid(state, stage, 0, done.rows, done.seconds, done.effort)
    state = state._replace(round=number, stacks=done.team.stacks, warnings=(*state.warnings, *warnings))
    return Step(state, (event, *spoiled, *map(events.Warned, warnings)))


def _iteration(problem: Problem, state: RunState) -> Step:
    """An iteration's candidates, masked or sliced from the parent."""
    state, told = _compacted(problem, state)
    iteration, space = state.iteration + 1, problem.space
    found = tuple(problem.proposer.propose(state.widths, iteration, problem.config.seed))
    if not found:
        state, more = _after_search(problem, state._replace(stop_reason="no candidate is feasible"))
        return Step(state, (*told, *more), boundary=False)
    parent = _network(state)
    norms = space.norms(parent.params)
    masks = tuple(proposals.keep_masks(norms, state.kept, p.widths, space.blocks) for p in found)
    shapes = [p.widths if problem.sliced else state.physical_widths for p in found]
    networks = [space.slice(parent, mask) if problem.sliced else space.mask(parent, mask) for mask in masks]
    resource = problem.goal.most_exceeded(state.widths)
    each = np.asarray([resource(p.widths) for p in found] + [0] * (problem.slots - len(found)), np.float32)
    alive = np.arange(problem.slots) < len(found)
    table = problem.policy.table(iteration, len(found))
    event = events.Iteration(
        iteration=iteration,
        resource=resource.name,
        target=proposals.target_of(space, problem.config.search, state.widths, iteration, problem.goal),
        parent=float(resource(state.widths)),
        candidates=[p._asdict() | {"resource": float(each[k])} for k, p in enumerate(found)],
    )
    state = state._replace(
        round=0,
        stacks=_trainable(problem, shapes, networks),
        trial=Trial(found, masks, problem.policy.init(table, alive, each), np.zeros(problem.slots, bool)),
    )
    return Step(state, (*told, event), boundary=False)


def _trial_round(problem: Problem, state: RunState, trial: Trial) -> Collect:
    """One round of an iteration: those alive train, and are scored where that decides something."""
    policy, iteration, number = problem.policy, state.iteration + 1, state.round + 1
    training, at = np.asarray(policy.plan(trial.policy)), policies.progress_of(policy, trial.policy)
    moment = ledger.Moment("search", iteration, number, at.rung)
    team = _team(problem, state, [p.widths for p in trial.proposals], np.arange(problem.slots))
    key = jax.random.fold_in(jax.random.key(problem.config.seed, impl=KEYS), KeyPurpose.PLAN)
    key = jax.random.fold_in(jax.random.fold_in(key, iteration), number - 1)
    draw = problem.draw(training, key, problem.group_of)
    rate, invite = problem.config.train.learning_rate, rounds.groups(problem, moment, draw)
    wait = rounds.begin(problem, team, moment, state.spent.seconds, invite, rate)
    return lambda: _tried(problem, state, trial, wait(), moment, at)


def _tried(
    problem: Problem,
    state: RunState,
    trial: Trial,
    done: rounds.Trained,
    moment: ledger.Moment,
    at: policies.Progress,
) -> Step:
    """The end of a round of an iteration: scores, where they are wanted, and what the policy makes of them."""
    policy, iteration, number = problem.policy, state.iteration + 1, state.round + 1
    alive, clock = np.asarray(trial.policy.alive), state.spent.seconds
    lost = trial.lost | diverged(done.tasks, done.left_out)
    rows, seconds, waited, effort = [done.rows], done.seconds, done.waited, done.effort
    scores = np.full(problem.slots, np.nan, np.float32)
    if bool(policy.wants_scores(trial.policy)):
        found = _scored(problem, state, trial, done, lost, moment, clock + seconds)
        scores = np.where(lost, np.nan, found.tally.score).astype(np.float32)
        rows, seconds, waited = [*rows, found.rows], seconds + found.seconds, waited + found.waited
        effort += found.tally.effort
    policy_state = jax.device_get(policy.tell(trial.policy, scores))
    after = np.asarray(policy_state.alive)
    name = [p.name for p in trial.proposals]
    told: list[events.Event] = [
        events.Round(
            stage="search",
            iteration=iteration,
            rung=at.rung,
            rungs=at.rungs,
            round=number,
            rounds=at.rounds,
            alive=int(after.sum()),
            scores={name[k]: float(scores[k]) for k in np.flatnonzero(np.isfinite(scores))},
            left_out=int(done.left_out.sum()) or None,
            **_spent(pa.concat_tables(rows), seconds, waited),
        )
    ]
    dropped = np.flatnonzero(alive & ~after)
    if len(dropped):
        scored = bool(policy.wants_scores(trial.policy))
        nonfinite = [name[k] for k in dropped if scored and not np.isfinite(scores[k])]
        told.append(events.Drop(iteration, number, [name[k] for k in dropped], nonfinite or None))
    state = _paid(state, "search", iteration, pa.concat_tables(rows), seconds, effort)
    state = state._replace(
        round=number,
        stacks=done.team.stacks,
        trial=trial._replace(policy=policy_state, lost=lost),
    )
    return Step(state, tuple(told))


def _scored(
    problem: Problem,
    state: RunState,
    trial: Trial,
    done: rounds.Trained,
    lost: np.ndarray,
    moment: ledger.Moment,
    clock: float,
) -> rounds.Scored:
    """The scores after a round of an iteration: of each candidate's cohort, of one panel, or of one that grows."""
    s, alive = problem.config.search, np.flatnonzero(np.asarray(trial.policy.alive))
    if not s.growing_panel:
        who = rounds.scorers(problem, done.tasks, alive, moment)
        return rounds.score(problem, done.team, moment, clock, who)
    looks = len(panel.sizes(s.score_clients, s.score_most)) - 1
    before, resource = _parent(problem, state)

    def clear(counts: panel.Counts, finite: np.ndarray) -> bool:
        scores = np.where(finite & ~lost, counts.scores, np.nan)
        claims = panel.claims(problem.policy, trial.policy, scores, before, resource)
        return panel.clear(counts, claims, problem.clients, looks, s.score_error, s.score_tolerance)

    return rounds.score_until_clear(problem, done.team, alive, moment, clock, clear)


def _select(problem: Problem, state: RunState, trial: Trial) -> Step:
    """An iteration's winner becomes the parent of the next."""
    iteration, end = state.iteration + 1, trial.policy
    chosen = int(problem.policy.select(end, *_parent(problem, state)))
    if chosen < 0:
        got = ", ".join(f"{x:g}" for x in np.asarray(end.scores)[: len(trial.proposals)])
        said = f"no candidate has a finite score (got {got})"
        raise diagnosis.without_score(problem.config, f"iteration {iteration}", said)
    widths, mask = trial.proposals[chosen].widths, trial.masks[chosen]
    winner, physical = _network(state, chosen), widths if problem.sliced else state.physical_widths
    member = Member(iteration, widths, physical, float(end.scores[chosen]))
    kept = tuple(np.ones(w, bool) for w in widths) if problem.sliced else mask
    event = events.Select(
        iteration=iteration,
        winner=trial.proposals[chosen].name,
        widths=list(widths),
        score=member.score,
        macs=problem.space.macs(widths),
        progress=problem.goal.progress(widths),
    )
    state = state._replace(
        iteration=iteration,
        round=0,
        physical_widths=physical,
        widths=widths,
        stacks=(_lone(physical, winner),),
        kept=kept,
        trial=None,
        family=(*state.family, member),
    )
    state, more = _after_search(problem, state._replace(stop_reason=_reason(problem, state)))
    model = Model(member, problem.space.slice(winner, kept))
    return Step(state, (event, *more), (model,), closes=f"search-{iteration:04d}")


def _parent(problem: Problem, state: RunState) -> tuple[np.float32, np.float32]:
    """The score, and the resource, of the network that the iteration began with."""
    resource = problem.goal.most_exceeded(state.widths)
    return np.float32(state.family[-1].score), np.float32(resource(state.widths))


def _compacted(problem: Problem, state: RunState) -> tuple[RunState, tuple[events.Event, ...]]:
    """Slices the parent physically when what it needs fell far enough since the last time: a compilation must pay."""
    space = problem.space
    smaller = space.coarse(state.widths)
    most = (1 - problem.config.search.compact_at) * space.macs(state.physical_widths)
    if problem.sliced or space.macs(smaller) > most:
        return state, ()
    parent = space.embed(space.slice(_network(state), state.kept), smaller)
    kept = tuple(np.arange(physical) < width for physical, width in zip(smaller, state.widths, strict=True))
    state = state._replace(physical_widths=smaller, stacks=(_lone(smaller, parent),), kept=kept)
    return state, (events.Compact(state.iteration + 1, list(smaller)),)


def _reason(problem: Problem, state: RunState) -> str:
    """Why the search is over, or nothing."""
    if problem.goal.reached(state.widths):
        return "budget reached"
    return "max_iterations reached" if state.iteration >= problem.config.search.max_iterations else ""


def _after_search(problem: Problem, state: RunState) -> tuple[RunState, tuple[events.Event, ...]]:
    """Moves on to fine-tuning where the search has a reason to stop."""
    if not state.stop_reason:
        return state, ()
    stage = problem.config.finetune
    missing = sorted(set(stage.members) - {m.iteration for m in state.family})
    shares = [share for share in stage.shares if _largest_within(problem, state.family, share) is None]
    told: list[events.Event] = [events.Skip(missing, shares)] if missing or shares else []
    told.append(events.Stop(state.stop_reason, state.iteration))
    return state._replace(stage=Stage.FINETUNE, stacks=(), kept=()), tuple(told)


def _team(problem: Problem, state: RunState, widths: Sequence[Any], candidate_ids: np.ndarray) -> Team:
    """The state's networks, all slots of their stacks filled."""
    filled = tuple(stack._replace(variables=problem.filled(stack.variables)) for stack in state.stacks)
    return Team(filled, stacks.padded(candidate_ids, problem.slots), widths)


def _trainable(problem: Problem, shapes: Sequence[Widths], networks: Sequence[Variables]) -> tuple[Stack, ...]:
    """Networks, and the physical widths of each, at the start of their training: those of one shape in one stack."""

    def stack(physical_widths: Widths, numbers: list[int]) -> Stack:
        variables = problem.filled(stacks.stacked([networks[n] for n in numbers]))
        return Stack(physical_widths, tuple(numbers), variables, problem.fleet.init_server(variables))

    return tuple(stack(*alike) for alike in _alike(shapes))


def _alike(shapes: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Each shape that there is, and the numbers of those that have it."""
    return [(shape, [n for n, other in enumerate(shapes) if other == shape]) for shape in dict.fromkeys(shapes)]


def _lone(physical_widths: Widths, network: Variables) -> Stack:
    """A parent between two iterations."""
    return Stack(physical_widths, (0,), stacks.stacked([network]))


def _network(state: RunState, number: int = 0) -> Variables:
    """One of the state's networks, on the host."""
    stack = next(stack for stack in state.stacks if number in stack.numbers)
    return stacks.in_slot(stack.variables, stack.numbers.index(number))


def _paid(state: RunState, stage: str, iteration: int, rows: pa.Table, seconds: float, effort: Effort) -> RunState:
    """The state with a round's rows, seconds and effort added."""
    spent = Spent(
        seconds=state.spent.seconds + seconds,
        client_seconds=state.spent.client_seconds + client_seconds(rows),
        clock=state.spent.clock.after(stage, iteration, seconds),
    )
    pending = pa.concat_tables([state.pending, rows])
    return state._replace(spent=spent, effort=state.effort + effort, pending=pending)


def client_seconds(rows: pa.Table) -> float:
    """Seconds of all clients together."""
    return float(np.asarray(rows["seconds"]).sum())


def _spent(rows: pa.Table, seconds: float, waited: float) -> dict[str, Any]:
    """What an event says of its rows."""
    return {
        "client_seconds": client_seconds(rows),
        "simulated_seconds": seconds,
        "waited_seconds": waited or None,
    }
