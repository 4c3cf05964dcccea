"""The whole run: pretrain the parent, search iteration by iteration, fine-tune the family, test it once.

The only room that knows everyone. A run's state is one record; every function here takes it and returns the next.
Where several hosts run a search, each goes through all of this; the first alone reads and writes the run's folder.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from fednas_jax import (
    candidates,
    checkpoint,
    controller,
    cores,
    cost,
    data,
    hosts,
    nets,
    parents,
    participation,
    runstate,
    space,
)
from fednas_jax.config import Config, differences, resolve, validate_clients
from fednas_jax.errors import ConfigError, DataError, Interrupted, TrainingError
from fednas_jax.fleet import Fleet, Tally, Tasks
from fednas_jax.prices import Prices, prices_of
from fednas_jax.resources import Goal, Resource, goal_of
from fednas_jax.rundir import RunDir, write_json
from fednas_jax.runstate import Member, RunState, Stage, load_member, save_member
from fednas_jax.seeds import KeyPurpose, Purpose, generator
from fednas_jax.space import Space, Variables, Widths

SCHEMA = 1  # of result.json
MOST_SCORINGS = 100  # tries to have all candidates of a round scored


@dataclasses.dataclass(frozen=True)
class Setup:
    """What does not change during a run."""

    config: Config
    dataset: data.Dataset
    space: Space
    fleet: Fleet
    places: int  # K: places in a stack
    groups: int  # M
    group_of: np.ndarray  # [C] group of each client
    goal: Goal
    prices: Prices
    run: RunDir
    checkpoints: checkpoint.Checkpoints
    parent: parents.Parent | None  # given, in a run that begins
    observe: Callable[[dict[str, Any]], None]
    should_stop: Callable[[], bool]
    began: float  # time.perf_counter() at the process's start of this run
    heterogeneity: data.Heterogeneity  # of the clients

    @property
    def clients(self) -> int:
        """Number of clients C, one where the method is centralised."""
        return len(self.fleet.train_count)

    @property
    def cohort(self) -> int:
        """Clients sampled in a group for each round of the search; 0 takes all, as without partial clients."""
        return self.config.search.clients_per_group if self.config.search.partial else 0

    @functools.cached_property
    def plan(self) -> Callable[..., controller.Plan]:
        """The controller's plan, compiled for this run's groups."""
        s = self.config.search
        # Where clients may be away or too many are invited, the round's own draw picks them from the whole groups.
        most, help_out = self.cohort * self.config.participation.everybody, s.idle_groups == "help"
        return jax.jit(functools.partial(controller.plan, groups=self.groups, most=most, help_out=help_out))


def run_search(
    config: Config,
    out: Path,
    observe: Callable[[dict[str, Any]], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    devices: Sequence[jax.Device] | None = None,
    dataset: data.Dataset | None = None,
) -> dict[str, Any]:
    """Runs a search, or goes on with an unfinished one, and returns what stands in its result.json.

    Args:
      config: the run; open switches are filled by its method.
      out: the run's folder. A finished run of the same config is returned as it is.
      observe: is called with every event that is written to events.jsonl, on the first host.
      should_stop: asked after every round; True on any host saves and raises `Interrupted` on all.
      devices: those to train on; all of all hosts by default, which are a CPU's cores where jax is not in use yet.
      dataset: data of your own (`from_arrays`) instead of `config.data.source`, the same on every host. The recorded
        source is then a checksum of it, so that no run goes on with other data.

    Raises:
      FednasError: one line in the user's words: config, data, network or folder cannot be used, or training diverged.
      Interrupted: `should_stop` said so; the same call goes on.
    """
    began = time.perf_counter()
    if dataset is not None:
        given = dataclasses.replace(config.data, source=f"dataset:{data.fingerprint(dataset)}")
        config = dataclasses.replace(config, data=given)
    config = resolve(config)
    cores.use_all()
    _same_config(config)
    run = RunDir(out)
    hosts.said(lambda: run.check(config))
    finished = hosts.said(run.result)
    if finished is not None:
        return finished
    setup = prepare(config, run, observe, lambda: hosts.agree(should_stop()), devices, began, dataset)
    try:
        state = _restored(setup) or _first(setup)
        if state.stage == Stage.PRETRAIN and not state.round:
            _tell(
                setup,
                event="start",
                clients=setup.clients,
                examples=int(setup.fleet.train_count.sum() + setup.fleet.val_count.sum()),
                heterogeneity=setup.heterogeneity._asdict(),
                network=setup.space.network.name,
                macs=setup.space.macs(state.widths),
                params=setup.space.params(state.widths),
                devices=", ".join(sorted({d.device_kind for d in setup.fleet.mesh.devices.flat})),
            )
            if state.source is not None:
                _tell(setup, event="load", path=state.source["path"])
        while state.stage != Stage.TEST:
            step = {Stage.PRETRAIN: pretrain, Stage.SEARCH: iterate, Stage.FINETUNE: finetune}[state.stage]
            state = step(setup, state)
        return _finish(setup, state)
    finally:
        setup.checkpoints.close()


def prepare(
    config: Config,
    run: RunDir,
    observe: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    devices: Sequence[jax.Device] | None,
    began: float,
    given: data.Dataset | None,
) -> Setup:
    """Loads data, probes the network, checks what only the two can tell; makes the run's folder last."""
    s = config.search
    dataset, packed, found, goal, places = hosts.together(lambda: _loaded(config, given))
    _same_data(dataset, packed)
    prices = prices_of(config, found, packed)
    groups = s.groups if s.partial else 1
    checkpoints = checkpoint.Checkpoints(run.checkpoints)
    parent = hosts.said(lambda: _parent(config, found, checkpoints))
    # A resumed run goes on with the lanes it was begun with, so that sums are added in the same order.
    kind = (devices or jax.devices())[0].device_kind
    lanes = config.engine.lanes or hosts.said(lambda: run.lanes(kind))
    fleet = Fleet(
        found.network,
        packed,
        dataset.mean,
        dataset.std,
        config.train,
        dataclasses.replace(config.engine, lanes=lanes),
        config.seed,
        places,
        devices,
        tasks=packed.clients * (1 if s.partial_clients else places),
    )
    hosts.said(lambda: run.create(config, fleet.lanes, kind))
    return Setup(
        config,
        dataset,
        found,
        fleet,
        places,
        groups,
        controller.client_groups(packed.train_count, groups),
        goal,
        prices,
        run,
        checkpoints,
        parent,
        observe,
        should_stop,
        began,
        data.heterogeneity(np.asarray(packed.labels), packed.offsets),
    )


def _same_config(config: Config) -> None:
    """Refuses hosts that were started with different commands."""
    everyones = hosts.everyones(config)
    for host, other in enumerate(everyones):
        if differ := differences(everyones[0], other):
            fields = "; ".join(f"{d} there" for d in differ)
            raise ConfigError(f"host {host}: has another config than host 0, want the same command: {fields}")


def _same_data(dataset: data.Dataset, packed: data.PackedClients) -> None:
    """Refuses hosts that see different data."""
    about = (packed.train_count, packed.val_count, dataset.train.labels[:100_000])
    sums = hosts.everyones([zlib.crc32(np.ascontiguousarray(a).tobytes()) for a in about])
    for host, other in enumerate(sums):
        if other != sums[0]:
            raise DataError(f"data: host {host} has other data than host 0, want the same files on every host")


def _loaded(config: Config, given: data.Dataset | None) -> tuple[data.Dataset, data.PackedClients, Space, Goal, int]:
    """What a host has of its own: data set, clients, and what the network's space says of goal and places."""
    s = config.search
    dataset = given or data.load(config.data, config.seed)
    divided = data.partition(dataset.train.labels, config.data, config.seed, dataset.natural)
    skew = data.feature_skew(config.data, len(divided.offsets) - 1, config.seed)
    packed = data.pack(dataset.train, divided, config.data.validation, config.seed, skew)
    validate_clients(config, packed.clients)
    if s.centralised:
        packed = data.merge(packed)
    network = nets.build(config.net, dataset.train.images.shape[1:], dataset.classes)
    found = space.probe(network, config.net.multiple, depth=s.depth)
    return dataset, packed, found, goal_of(found, s, config.cost), candidates.most_candidates(found, s)


def _parent(config: Config, found: Space, checkpoints: checkpoint.Checkpoints) -> parents.Parent | None:
    """The parent that the config names; none where the run goes on and has its weights in a checkpoint."""
    return None if config.parent is None or checkpoints.begun() else parents.load(config.parent, found)


def pretrain(setup: Setup, state: RunState) -> RunState:
    """Trains the parent with FedAvg up to the next checkpoint; after the last round scores it on all clients."""
    stage = setup.config.pretrain
    numbers = np.zeros(setup.places, np.int64)
    state, spent = _fedavg(setup, state, KeyPurpose.PRETRAIN, stage.rounds, stage.clients_per_round, numbers)
    if state.round < stage.rounds:
        return _saved(setup, state, f"pretrain-{state.round:04d}", spent)
    tally, rows, seconds = _score(
        setup,
        state.shape,
        _filled(setup, state.stack),
        lambda here, again: Tasks(np.zeros(len(here), np.int32), here.astype(np.int32)),
        numbers,
        [state.widths],
        cost.Moment("pretrain", 0, state.round),
        _clock(setup),
    )
    score = float(tally.accuracy[0])
    if not np.isfinite(score):
        raise TrainingError(
            f"pretraining: the parent's score is {score}, want a number; try a lower train.learning_rate"
        )
    _tell(setup, event="parent", score=score, macs=setup.space.macs(state.widths), **_sum(rows, simulated=seconds))
    member = Member(0, state.widths, state.shape, score)
    save_member(setup.run, setup.space.network, member, _place(state.stack, 0))
    state = state._replace(round=0, server=(), family=(member,))
    if setup.config.command == "pretrain":
        state = state._replace(stage=Stage.TEST, stop_reason="pretrained")
    else:
        state = state._replace(stage=Stage.SEARCH)
        state = _after_search(setup, state._replace(stop_reason=_reason(setup, state)))
    return _saved(setup, state, f"pretrain-{stage.rounds:04d}-end", [*spent, rows])


def iterate(setup: Setup, state: RunState) -> RunState:
    """One iteration of the search: candidates, rungs of rounds, dropping, selection; its winner joins the family."""
    s, iteration = setup.config.search, state.iteration + 1
    table = setup.goal.foremost(state.widths)
    state = _compacted(setup, state)
    proposals = candidates.propose(setup.space, s, state.widths, iteration, setup.config.seed, setup.goal)
    if not proposals:
        state = state._replace(stop_reason="no candidate is feasible")
        return _saved(setup, _after_search(setup, state), None, [])
    parent = _place(state.stack, 0)
    norms = setup.space.norms(parent.params)
    masks = [candidates.keep_masks(norms, state.kept, p.widths, setup.space.blocks) for p in proposals]
    stack = _filled(setup, _stacked([setup.space.mask(parent, mask) for mask in masks]))
    widths = [p.widths for p in proposals]
    _tell(
        setup,
        event="iteration",
        iteration=iteration,
        resource=table.name,
        target=candidates.target_of(setup.space, s, state.widths, iteration, setup.goal),
        candidates=[p._asdict() for p in proposals],
    )
    stack, end, spent = _train_candidates(setup, state.shape, stack, iteration, proposals, table)
    before = table(state.widths)
    score_before = np.float32(state.family[-1].score)
    chosen = int(controller.select(end, score_before, np.float32(before), ratio=s.select == "ratio"))
    if chosen < 0:
        got = ", ".join(f"{x:g}" for x in np.asarray(end.scores)[: len(proposals)])
        raise TrainingError(
            f"iteration {iteration}: no candidate has a finite score (got {got}); try a lower train.learning_rate"
        )
    member = Member(iteration, widths[chosen], state.shape, float(end.scores[chosen]))
    winner = _place(stack, chosen)
    _tell(
        setup,
        event="select",
        iteration=iteration,
        winner=proposals[chosen].name,
        widths=list(member.widths),
        score=member.score,
        macs=setup.space.macs(member.widths),
        progress=setup.goal.progress(member.widths),
    )
    state = state._replace(
        iteration=iteration,
        widths=member.widths,
        stack=_stacked([winner]),
        kept=masks[chosen],
        family=(*state.family, member),
    )
    save_member(setup.run, setup.space.network, member, setup.space.slice(winner, masks[chosen]))
    state = state._replace(stop_reason=_reason(setup, state))
    return _saved(setup, _after_search(setup, state), f"search-{iteration:04d}", spent)


def finetune(setup: Setup, state: RunState) -> RunState:
    """Trains the family on, members of one physical shape side by side, up to the next checkpoint."""
    stage = setup.config.finetune
    buckets = _buckets(setup, state)
    if state.bucket == len(buckets):
        return _saved(setup, state._replace(stage=Stage.TEST), None, [])
    members = buckets[state.bucket]
    shape = members[0].shape
    if state.round == 0:
        stack = _stacked([setup.space.embed(load_member(setup.run, setup.space.network, m), shape) for m in members])
        state = state._replace(shape=shape, stack=stack, server=setup.fleet.init_server(_filled(setup, stack)))
    numbers = np.asarray([m.iteration for m in members])
    widths = [m.widths for m in members]
    state, spent = _fedavg(
        setup, state, KeyPurpose.FINETUNE, stage.rounds, stage.clients_per_round, _padded(setup, numbers), widths
    )
    name = f"finetune-{state.bucket:02d}-{state.round:04d}"
    if state.round == stage.rounds:
        for place, member in enumerate(members):
            first = tuple(np.arange(w) for w in member.widths)
            tuned = setup.space.slice(_place(state.stack, place), first)
            save_member(setup.run, setup.space.network, member, tuned, "finetuned")
        state = state._replace(bucket=state.bucket + 1, round=0, server=())
    return _saved(setup, state, name, spent)


def _first(setup: Setup) -> RunState:
    """The start of a run: the parent that was given, or a freshly initialised one."""
    widths = setup.space.widths
    if setup.parent is None:
        key = jax.random.fold_in(jax.random.key(setup.config.seed), KeyPurpose.INIT)
        stack = _stacked([jax.device_get(setup.space.network.init(widths, key))])
    else:
        stack = _stacked([setup.parent.variables])
    return RunState(
        stage=Stage.PRETRAIN,
        iteration=0,
        round=0,
        bucket=0,
        shape=widths,
        widths=widths,
        stack=stack,
        kept=tuple(np.ones(w, bool) for w in widths),
        server=setup.fleet.init_server(_filled(setup, stack)),
        family=(),
        stop_reason="",
        ledgers=(),
        source=setup.parent.source if setup.parent else None,
    )


def _fedavg(
    setup: Setup,
    state: RunState,
    purpose: KeyPurpose,
    rounds: int,
    cohort: int,
    numbers: np.ndarray,
    widths: Sequence[Widths] | None = None,
) -> tuple[RunState, list[pa.Table]]:
    """Ordinary FedAvg of all members of the stack on the same cohorts, until the next checkpoint is due."""
    config = setup.config
    members = jax.tree.leaves(state.stack)[0].shape[0]
    stack, server, spent = _filled(setup, state.stack), state.server, []
    widths = widths or [state.widths] * members
    stage = state.stage.name.lower()
    done, clock = state.round, _clock(setup)
    while done < rounds:
        moment = cost.Moment(stage, 0, done + 1)
        present, gone, waited = _there(setup, moment, clock)
        clients = np.arange(setup.clients)
        if not config.participation.everybody:
            one = np.zeros(setup.clients, np.int32)
            chosen = participation.invited(setup.prices.presence, moment.numbers, present, one, cohort)
            clients = np.flatnonzero(chosen)
        elif 0 < cohort < setup.clients:
            luck = generator(config.seed, Purpose.COHORT, purpose, done)
            clients = np.sort(luck.choice(setup.clients, cohort, replace=False))
        tasks = Tasks(
            np.repeat(np.arange(members, dtype=np.int32), len(clients)),
            np.tile(clients, members).astype(np.int32),
        )
        tasks, rows, seconds = _part(setup, tasks, numbers, widths, moment, gone)
        seconds += waited
        rate = config.train.learning_rate * config.train.learning_rate_decay**done
        stack, server = setup.fleet.train(state.shape, stack, server, tasks, (purpose, 0, done), numbers.tolist(), rate)
        done, clock = done + 1, clock + seconds
        spent.append(rows)
        _tell(
            setup,
            event="round",
            stage=stage,
            round=done,
            rounds=rounds,
            bucket=state.bucket,
            **_sum(rows, simulated=seconds),
            **({"waited_seconds": waited} if waited else {}),
        )
        if setup.should_stop() or done % config.engine.checkpoint_rounds == 0:
            break
    stack = jax.tree.map(lambda a: np.asarray(a[:members]), jax.device_get(stack))
    return state._replace(round=done, stack=stack, server=server), spent


def _train_candidates(
    setup: Setup,
    shape: Widths,
    stack: Variables,
    iteration: int,
    proposals: list[candidates.Proposal],
    table: Resource,
) -> tuple[Variables, controller.State, list[pa.Table]]:
    """The rungs of one iteration; returns the trained stack, the controller's last state, and what clients spent."""
    s = setup.config.search
    widths = [p.widths for p in proposals]
    alive = np.arange(setup.places) < len(proposals)
    resource = np.asarray([table(w) for w in widths] + [0] * (setup.places - len(proposals)), np.float32)
    rungs = controller.schedule(s, iteration, len(proposals))
    state = controller.init(rungs, alive, resource)
    server, spent, numbers = setup.fleet.init_server(stack), [], np.arange(setup.places)
    root = jax.random.fold_in(jax.random.key(setup.config.seed), KeyPurpose.PLAN)
    rounds, clock = 0, _clock(setup)
    while not bool(controller.finished(state)):
        key = jax.random.fold_in(jax.random.fold_in(root, iteration), rounds)
        plan = setup.plan(state, key, setup.group_of)
        rung = int(state.rung) + 1
        moment = cost.Moment("search", iteration, rounds + 1, rung)
        present, gone, waited = _there(setup, moment, clock)
        planned = tasks_of(plan, setup.group_of)
        if not setup.config.participation.everybody:
            chosen = participation.invited(setup.prices.presence, moment.numbers, present, setup.group_of, setup.cohort)
            planned = Tasks(*(field[chosen[planned.client]] for field in planned))
        tasks, rows, seconds = _part(setup, planned, numbers, widths, moment, gone)
        seconds += waited
        stack, server = setup.fleet.train(
            shape,
            stack,
            server,
            tasks,
            (KeyPurpose.SEARCH, iteration, rounds),
            numbers.tolist(),
            setup.config.train.learning_rate,
        )
        rounds += 1
        spent.append(rows)
        scores = np.full(setup.places, np.nan, np.float32)
        if bool(controller.wants_scores(state)):
            who = functools.partial(_scorers, setup, tasks, np.flatnonzero(state.alive), (iteration, rounds))
            tally, rows, longer = _score(setup, shape, stack, who, numbers, widths, moment, clock + seconds)
            scores = tally.accuracy.astype(np.float32)
            spent.append(rows)
            seconds += longer
        clock += seconds
        before = np.asarray(state.alive)
        state = controller.tell(state, scores)
        after = np.asarray(state.alive)
        _tell(
            setup,
            event="round",
            stage="search",
            iteration=iteration,
            rung=rung,
            rungs=len(rungs.rounds),
            round=rounds,
            rounds=int(np.sum(rungs.rounds)),
            alive=int(after.sum()),
            scores={proposals[k].name: float(scores[k]) for k in np.flatnonzero(np.isfinite(scores))},
            **_sum(*spent[-2:] if np.isfinite(scores).any() else spent[-1:], simulated=seconds),
            **({"waited_seconds": waited} if waited else {}),
        )
        if (before & ~after).any():
            dropped = [proposals[k].name for k in np.flatnonzero(before & ~after)]
            _tell(setup, event="drop", iteration=iteration, round=rounds, candidates=dropped)
        if setup.should_stop():
            raise Interrupted  # the last boundary's checkpoint stands; this iteration's rounds are repeated
    return stack, state, spent


def tasks_of(plan: controller.Plan, group_of: np.ndarray) -> Tasks:
    """The task list of a plan: each candidate's groups' clients that are in the cohort."""
    assigned = np.asarray(plan.assign)[:, group_of] & np.asarray(plan.cohort)  # [K, C]
    candidate, client = np.nonzero(assigned)
    return Tasks(candidate.astype(np.int32), client.astype(np.int32))


def _scorers(
    setup: Setup, trained: Tasks, alive: np.ndarray, numbers: tuple[int, ...], here: np.ndarray, again: int
) -> Tasks:
    """Who scores whom: each candidate's own cohort, or one common sample of clients for all, a paired comparison.

    Only clients that are there score. A candidate of whose cohort nobody was taken, or is there any more, is scored by
    all who are there: it is as good as before.
    """
    sample = min(setup.config.search.score_clients, len(here))
    if sample:
        luck = generator(setup.config.seed, Purpose.SCORE, *numbers, *([again] if again else []))
        clients = here[np.sort(luck.choice(len(here), sample, replace=False))]
        return Tasks(np.repeat(alive, sample).astype(np.int32), np.tile(clients, len(alive)).astype(np.int32))
    trained = Tasks(*(field[np.isin(trained.client, here)] for field in trained))
    alone = np.setdiff1d(alive, trained.candidate).astype(np.int32)
    return Tasks(
        np.concatenate([trained.candidate, np.repeat(alone, len(here))]),
        np.concatenate([trained.client, np.tile(here, len(alone)).astype(np.int32)]),
    )


def _score(
    setup: Setup,
    shape: Widths,
    stack: Variables,
    who: Callable[[np.ndarray, int], Tasks],
    numbers: np.ndarray,
    widths: Sequence[Widths],
    moment: cost.Moment,
    clock: float,
) -> tuple[Tally, pa.Table, float]:
    """Has candidates scored by clients that are there; the tally, what it cost, and the simulated seconds.

    Args:
      setup: of the run.
      shape: the stack's.
      stack: [K, ...].
      who: the tasks, of those who are there and the number of times that this was tried.
      numbers: [K] number of the candidate at each place.
      widths: [K] its widths.
      moment: when.
      clock: simulated seconds since the run's beginning.

    Raises:
      ConfigError: nobody stays long enough, however often they are asked.
    """
    seconds, spent, paired = 0.0, [], bool(setup.config.search.score_clients)
    for again in range(MOST_SCORINGS):
        present, gone, waited = _there(setup, moment, clock + seconds)
        tasks = who(np.flatnonzero(present), again)
        examples = setup.fleet.val_count[tasks.client]
        done, rows, took = setup.prices.score(tasks, numbers, widths, examples, moment, gone, paired)
        spent.append(rows)
        seconds += waited + took
        # A candidate that nobody scored to the end is scored again, with all others, by those who are there then.
        if set(done.candidate) == set(tasks.candidate):
            return setup.fleet.evaluate(shape, stack, done), pa.concat_tables(spent), seconds
    raise ConfigError(
        f"participation.availability: got {setup.config.participation.availability} where in {MOST_SCORINGS} tries "
        "nobody stayed to score every candidate, want clients that stay longer"
    )


def _there(setup: Setup, moment: cost.Moment, clock: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Who is there [C], the seconds [C] until each goes away, and the seconds that the server waited for anybody."""
    present, waited = participation.there(setup.prices.presence, moment.numbers, clock)
    return present, participation.stays(setup.prices.presence, clock + waited), waited


def _part(
    setup: Setup,
    tasks: Tasks,
    numbers: np.ndarray,
    widths: Sequence[Widths],
    moment: cost.Moment,
    gone: np.ndarray,
) -> tuple[Tasks, pa.Table, float]:
    """Plays a round of training: the tasks whose updates are taken, what all tasks cost, and the simulated seconds."""
    return setup.prices.play(tasks, numbers, widths, setup.fleet.steps[tasks.client], moment, gone)


def _clock(setup: Setup) -> float:
    """Simulated seconds since the run's beginning: what its events say, which a resumed run has taken back in part."""
    if not setup.config.participation.spells:
        return 0.0  # nobody asks
    return hosts.said(lambda: sum(e.get("simulated_seconds", 0.0) for e in setup.run.events()))


def _compacted(setup: Setup, state: RunState) -> RunState:
    """Slices the parent physically when its MACs fell far enough since the last time: a compilation must pay."""
    macs = setup.space.macs
    if macs(state.widths) > (1 - setup.config.search.compact_at) * macs(state.shape):
        return state
    parent = setup.space.slice(_place(state.stack, 0), state.kept)
    _tell(setup, event="compact", iteration=state.iteration + 1, shape=list(state.widths))
    kept = tuple(np.ones(w, bool) for w in state.widths)
    return state._replace(shape=state.widths, stack=_stacked([parent]), kept=kept)


def _reason(setup: Setup, state: RunState) -> str:
    """Why the search is over, or nothing."""
    if setup.goal.reached(state.widths):
        return "budget reached"
    return "max_iterations reached" if state.iteration >= setup.config.search.max_iterations else ""


def _after_search(setup: Setup, state: RunState) -> RunState:
    """Moves on to fine-tuning where the search has a reason to stop."""
    if not state.stop_reason:
        return state
    missing = sorted(set(setup.config.finetune.members) - {m.iteration for m in state.family})
    if missing:
        _tell(setup, event="skip", members=missing)
    _tell(setup, event="stop", reason=state.stop_reason, iteration=state.iteration)
    return state._replace(stage=Stage.FINETUNE)


def _asked(setup: Setup, family: Sequence[Member]) -> list[Member]:
    """Members to be fine-tuned: those named by iteration and the largest within each share; nothing said: all."""
    stage, macs = setup.config.finetune, setup.space.macs
    if not stage.members and not stage.shares:
        return list(family)
    numbers = set(stage.members)
    for share in stage.shares:
        # MACs fall from iteration to iteration: the first that fits is the largest.
        fits = (m.iteration for m in family if macs(m.widths) <= share * macs(family[0].widths))
        numbers.update(itertools.islice(fits, 1))
    return [m for m in family if m.iteration in numbers]


def _buckets(setup: Setup, state: RunState) -> list[list[Member]]:
    """Members that fine-tune side by side: of one physical shape, whose program exists already, at most K at a time."""
    members = _asked(setup, state.family)
    shapes = dict.fromkeys(m.shape for m in members)
    buckets = []
    for shape in shapes:
        alike = [m for m in members if m.shape == shape]
        buckets += [alike[n : n + setup.places] for n in range(0, len(alike), setup.places)]
    return buckets


def _finish(setup: Setup, state: RunState) -> dict[str, Any]:
    """Tests the family, once, and writes the result. A pretrained parent is not tested: searches will do that."""
    searched = setup.config.command == "search"
    members = [m for bucket in _buckets(setup, state) for m in bucket] if searched else []
    tested = dict(zip([m.iteration for m in members], _test(setup, members) if members else [], strict=True))
    return hosts.said(lambda: _write_result(setup, state, tested))


def _write_result(setup: Setup, state: RunState, tested: dict[int, float | None]) -> dict[str, Any]:
    ledger = cost.read(setup.run.ledger)
    until = cost.search_seconds(ledger, len(state.family), setup.clients)
    hours = _hours(setup, len(state.family))
    meter = setup.fleet.meter

    def described(member: Member) -> dict[str, Any]:
        return {
            "iteration": member.iteration,
            "widths": dict(zip(setup.space.groups, member.widths, strict=True)),
            "macs": setup.space.macs(member.widths),
            "params": setup.space.params(member.widths),
            "resources": {resource.name: resource(member.widths) for resource in setup.goal.resources},
            "score": member.score,
            "test_accuracy": tested.get(member.iteration),
            "client_seconds": until[member.iteration],
            "simulated_hours": hours["until"][member.iteration],
            "path": str(setup.run.model(member.iteration).relative_to(setup.run.path)),
        }

    config = setup.config
    result = {
        "schema": SCHEMA,
        "method": config.method,
        "preset": config.preset,
        "seed": config.seed,
        "finished": True,
        "stop_reason": state.stop_reason,
        "clients": setup.clients,
        "heterogeneity": setup.heterogeneity._asdict(),
        "parent_source": state.source,
        "budgets": [
            {"resource": resource.name, "budget": budget, "unit": resource.unit}
            for resource, budget in zip(setup.goal.resources, setup.goal.budgets, strict=True)
        ],
        "parent": described(state.family[0]),
        "models": [described(m) for m in state.family[1:]],
        "client_cost": cost.client_cost(ledger, setup.clients),
        "wasted": cost.wasted(ledger),
        "simulated_hours": hours["stages"],
        "simulator": {
            "wall_seconds": _meter(setup)["wall_seconds"],
            "compile_seconds": meter.compile_seconds,
            "compilations": meter.compilations,
            "examples_per_second": meter.examples / meter.train_seconds if meter.train_seconds else 0.0,
            "lane_padding": 1 - meter.steps / meter.lane_steps if meter.lane_steps else 0.0,
            "lanes": setup.fleet.lanes,
            "streams": setup.fleet.streams,
            "devices": [str(d) for d in setup.fleet.mesh.devices.flat],
        },
    }
    _tell(setup, event="finished", stop_reason=state.stop_reason)
    write_json(setup.run.result_file, result)
    return result


def _hours(setup: Setup, iterations: int) -> dict[str, Any]:
    """Simulated hours of each stage, and of the search up to the end of each iteration, from 0."""
    stages, each = dict.fromkeys(cost.STAGES, 0.0), np.zeros(iterations)
    for event in setup.run.events():
        if event["event"] in ("round", "parent"):
            stage = event.get("stage", "pretrain")
            spent = event.get("simulated_seconds", 0.0) / 3600  # a run begun before there was a clock has none
            stages[stage] += spent
            if stage == "search":
                each[event["iteration"]] += spent
    return {"stages": stages | {"all": sum(stages.values())}, "until": np.cumsum(each).tolist()}


def _test(setup: Setup, members: list[Member]) -> list[float | None]:
    """Test accuracy of each member after its fine-tuning, None if that diverged: the one use of the test split."""
    split = data.chunks(setup.dataset.test, 256)
    fleet = Fleet(
        setup.space.network,
        split,
        setup.dataset.mean,
        setup.dataset.std,
        setup.config.train,
        dataclasses.replace(setup.config.engine, eval_batch=256, lanes=setup.fleet.lanes),
        setup.config.seed,
        setup.places,
        list(setup.fleet.mesh.devices.flat),
        setup.fleet.meter,
    )
    whole, everyone = setup.space.widths, np.arange(split.clients, dtype=np.int32)
    found: list[float | None] = []
    for first in range(0, len(members), setup.places):
        some = members[first : first + setup.places]
        stack = _stacked(
            [setup.space.embed(load_member(setup.run, setup.space.network, m, "finetuned"), whole) for m in some]
        )
        places = np.arange(len(some), dtype=np.int32)
        tasks = Tasks(np.repeat(places, split.clients), np.tile(everyone, len(some)))
        accuracy = fleet.evaluate(whole, _filled(setup, stack), tasks).accuracy[: len(some)]
        found += [float(a) if np.isfinite(a) else None for a in accuracy]
    for member in (m for m, accuracy in zip(members, found, strict=True) if accuracy is None):
        _tell(setup, event="diverged", stage="finetune", iteration=member.iteration)
    return found


def _saved(setup: Setup, state: RunState, ledger: str | None, spent: list[pa.Table]) -> RunState:
    """Writes the ledger's next file and the checkpoint that knows it; stops here where that was asked for."""
    if ledger is None or not spent:
        spent = []
    else:
        state = state._replace(ledgers=(*state.ledgers, f"{len(state.ledgers):04d}-{ledger}.parquet"))
    hosts.said(lambda: _write_checkpoint(setup, state, spent))
    if setup.should_stop() and state.stage != Stage.TEST:
        raise Interrupted
    return state


def _write_checkpoint(setup: Setup, state: RunState, spent: list[pa.Table]) -> None:
    if spent:
        cost.write(spent, setup.run.ledger / state.ledgers[-1])
    step = setup.checkpoints.next_step()
    _tell(setup, event="checkpoint", stage=state.stage.name.lower(), iteration=state.iteration, step=step)
    about = runstate.record(state) | {"events_size": setup.run.events_size(), "meter": _meter(setup)}
    setup.checkpoints.save(step, runstate.arrays(state), about)


def _meter(setup: Setup) -> dict[str, float]:
    """The simulator's effort so far, this process and those before."""
    meter = setup.fleet.meter
    return dataclasses.asdict(meter) | {"wall_seconds": meter.wall_seconds + time.perf_counter() - setup.began}


def _restored(setup: Setup) -> RunState | None:
    """The state of the latest checkpoint, with everything written after it taken back; None where there is none."""
    found = hosts.said(lambda: _read_checkpoint(setup))
    if found is None:
        return None
    step, about, arrays, spent = found
    for name, value in about["meter"].items():
        setattr(setup.fleet.meter, name, value)
    state = runstate.restored(about, arrays)
    _tell(setup, event="resume", step=step, client_seconds=spent, progress=setup.goal.progress(state.widths))
    return state


def _read_checkpoint(setup: Setup) -> tuple[int, dict[str, Any], dict[str, Any], float] | None:
    """Step, record, arrays and client seconds of the latest checkpoint; what was written after it is taken back."""
    latest = setup.checkpoints.latest()
    if latest is None:
        setup.run.rewind(0, [])
        return None
    step, about = latest
    like = runstate.like(about, setup.space.network, setup.places, setup.fleet.init_server)
    arrays = setup.checkpoints.restore(step, like)
    setup.run.rewind(about["events_size"], about["ledgers"])
    spent = sum(e["client_seconds"] for e in setup.run.events() if e["event"] in ("round", "parent"))
    return step, about, arrays, spent


def _tell(setup: Setup, **event: Any) -> None:
    if hosts.first():
        setup.run.append(event)
        setup.observe(event)


def _sum(*tables: pa.Table, simulated: float | None = None) -> dict[str, float]:
    """What an event says of its rows: all clients' seconds, and the simulated seconds that went by."""
    return {
        "client_seconds": float(sum(np.asarray(t["seconds"]).sum() for t in tables)),
        "simulated_seconds": sum(cost.duration(t) for t in tables) if simulated is None else simulated,
    }


def _stacked(trees: Sequence[Variables]) -> Variables:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _place(stack: Variables, place: int) -> Variables:
    """One candidate of a stack, on the host."""
    return jax.tree.map(lambda a: np.asarray(a[place]), stack)


def _filled(setup: Setup, stack: Variables) -> Variables:
    """The stack with all K places filled, so that every round runs the same program; what fills is never trained."""

    def fill(leaf: Any) -> Any:
        missing = setup.places - leaf.shape[0]
        return np.concatenate([leaf, np.repeat(leaf[:1], missing, 0)]) if missing else leaf

    return jax.tree.map(fill, stack)


def _padded(setup: Setup, numbers: np.ndarray) -> np.ndarray:
    return np.pad(numbers, (0, setup.places - len(numbers)))
