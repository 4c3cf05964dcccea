"""The whole run: pretrain the parent, search iteration by iteration, fine-tune the family, test it once.

The only room that knows everyone. A run's state is one record; every function here takes it and returns the next.
Where several hosts run a search, each goes through all of this; the first alone reads and writes the run's folder.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa

from fednas_jax import data
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config
from fednas_jax.engine.fleet import Tasks
from fednas_jax.errors import Interrupted, TrainingError
from fednas_jax.phones import ledger
from fednas_jax.run import inputs, results, rounds
from fednas_jax.run import state as runstate
from fednas_jax.run.folder import RunDir
from fednas_jax.run.problem import Setup, prepare, same_config
from fednas_jax.run.state import Member, RunState, Stage, load_member, save_member
from fednas_jax.runtime import cores, hosts
from fednas_jax.search import proposals as candidates
from fednas_jax.seeds import KeyPurpose
from fednas_jax.space import stacks


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
    same_config(config)
    run = RunDir(out)
    hosts.from_first_host(lambda: run.check(config))
    finished = hosts.from_first_host(run.result)
    if finished is not None:
        return finished
    hosts.from_first_host(lambda: inputs.check(config, run.inputs))
    setup = prepare(config, run, observe, lambda: hosts.agree(should_stop()), devices, began, dataset)
    try:
        state = _restored(setup) or _first(setup)
        if state.stage == Stage.PRETRAIN and not state.round:
            setup.tell(
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
                setup.tell(event="load", path=state.source["path"])
        while state.stage != Stage.TEST:
            step = {Stage.PRETRAIN: pretrain, Stage.SEARCH: iterate, Stage.FINETUNE: finetune}[state.stage]
            state = step(setup, state)
        return _finish(setup, state)
    finally:
        setup.checkpoints.close()


def pretrain(setup: Setup, state: RunState) -> RunState:
    """Trains the parent with FedAvg up to the next checkpoint; after the last round all who are there score it."""
    stage = setup.config.pretrain
    candidate_ids = np.zeros(setup.slots, np.int64)
    state, spent = rounds.fedavg(
        setup, state, KeyPurpose.PRETRAIN, stage.rounds, stage.clients_per_round, candidate_ids
    )
    if state.round < stage.rounds:
        return _saved(setup, state, f"pretrain-{state.round:04d}", spent)
    tally, rows, seconds, waited = rounds.score(
        setup,
        state.physical_widths,
        stacks.filled(state.stack, setup.slots),
        lambda here, again: Tasks(np.zeros(len(here), np.int32), here.astype(np.int32)),
        candidate_ids,
        [state.widths],
        ledger.Moment("pretrain", 0, state.round),
        setup.clock(),
    )
    score = float(tally.accuracy[0])
    if not np.isfinite(score):
        raise TrainingError(
            f"pretraining: the parent's score is {score}, want a number; try a lower train.learning_rate"
        )
    setup.tell(
        event="parent",
        score=score,
        macs=setup.space.macs(state.widths),
        **rounds.summed(rows, simulated=seconds),
        **({"waited_seconds": waited} if waited else {}),
    )
    member = Member(0, state.widths, state.physical_widths, score)
    save_member(setup.run, setup.space.network, member, stacks.in_slot(state.stack, 0))
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
    table = setup.goal.most_exceeded(state.widths)
    state = _compacted(setup, state)
    proposals = setup.proposer.propose(state.widths, iteration, setup.config.seed)
    if not proposals:
        state = state._replace(stop_reason="no candidate is feasible")
        return _saved(setup, _after_search(setup, state), None, [])
    parent = stacks.in_slot(state.stack, 0)
    norms = setup.space.norms(parent.params)
    masks = [candidates.keep_masks(norms, state.kept, p.widths, setup.space.blocks) for p in proposals]
    stack = stacks.filled(stacks.stacked([setup.space.mask(parent, mask) for mask in masks]), setup.slots)
    widths = [p.widths for p in proposals]
    setup.tell(
        event="iteration",
        iteration=iteration,
        resource=table.name,
        target=candidates.target_of(setup.space, s, state.widths, iteration, setup.goal),
        candidates=[p._asdict() for p in proposals],
    )
    stack, end, spent = rounds.train_candidates(setup, state.physical_widths, stack, iteration, proposals, table)
    before = table(state.widths)
    score_before = np.float32(state.family[-1].score)
    chosen = int(setup.policy.select(end, score_before, np.float32(before)))
    if chosen < 0:
        got = ", ".join(f"{x:g}" for x in np.asarray(end.scores)[: len(proposals)])
        raise TrainingError(
            f"iteration {iteration}: no candidate has a finite score (got {got}); try a lower train.learning_rate"
        )
    member = Member(iteration, widths[chosen], state.physical_widths, float(end.scores[chosen]))
    winner = stacks.in_slot(stack, chosen)
    setup.tell(
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
        stack=stacks.stacked([winner]),
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
    physical_widths = members[0].physical_widths
    if state.round == 0:
        stack = stacks.stacked(
            [setup.space.embed(load_member(setup.run, setup.space.network, m), physical_widths) for m in members]
        )
        state = state._replace(
            physical_widths=physical_widths,
            stack=stack,
            server=setup.fleet.init_server(stacks.filled(stack, setup.slots)),
        )
    candidate_ids = np.asarray([m.iteration for m in members])
    widths = [m.widths for m in members]
    state, spent = rounds.fedavg(
        setup,
        state,
        KeyPurpose.FINETUNE,
        stage.rounds,
        stage.clients_per_round,
        stacks.padded(candidate_ids, setup.slots),
        widths,
    )
    name = f"finetune-{state.bucket:02d}-{state.round:04d}"
    if state.round == stage.rounds:
        for place, member in enumerate(members):
            first = tuple(np.arange(w) for w in member.widths)
            tuned = setup.space.slice(stacks.in_slot(state.stack, place), first)
            save_member(setup.run, setup.space.network, member, tuned, "finetuned")
        state = state._replace(bucket=state.bucket + 1, round=0, server=())
    return _saved(setup, state, name, spent)


def _first(setup: Setup) -> RunState:
    """The start of a run: the parent that was given, or a freshly initialised one."""
    widths = setup.space.widths
    if setup.parent is None:
        key = jax.random.fold_in(jax.random.key(setup.config.seed), KeyPurpose.INIT)
        stack = stacks.stacked([jax.device_get(setup.space.network.init(widths, key))])
    else:
        stack = stacks.stacked([setup.parent.variables])
    return RunState(
        stage=Stage.PRETRAIN,
        iteration=0,
        round=0,
        bucket=0,
        physical_widths=widths,
        widths=widths,
        stack=stack,
        kept=tuple(np.ones(w, bool) for w in widths),
        server=setup.fleet.init_server(stacks.filled(stack, setup.slots)),
        family=(),
        stop_reason="",
        ledgers=(),
        source=setup.parent.source if setup.parent else None,
    )


def _compacted(setup: Setup, state: RunState) -> RunState:
    """Slices the parent physically when its MACs fell far enough since the last time: a compilation must pay."""
    macs = setup.space.macs
    if macs(state.widths) > (1 - setup.config.search.compact_at) * macs(state.physical_widths):
        return state
    parent = setup.space.slice(stacks.in_slot(state.stack, 0), state.kept)
    setup.tell(event="compact", iteration=state.iteration + 1, physical_widths=list(state.widths))
    kept = tuple(np.ones(w, bool) for w in state.widths)
    return state._replace(physical_widths=state.widths, stack=stacks.stacked([parent]), kept=kept)


def _reason(setup: Setup, state: RunState) -> str:
    """Why the search is over, or nothing."""
    if setup.goal.reached(state.widths):
        return "budget reached"
    return "max_iterations reached" if state.iteration >= setup.config.search.max_iterations else ""


def _after_search(setup: Setup, state: RunState) -> RunState:
    """Moves on to fine-tuning where the search has a reason to stop."""
    if not state.stop_reason:
        return state
    stage, smallest = setup.config.finetune, setup.space.macs(state.widths) / setup.space.macs(setup.space.widths)
    missing = sorted(set(stage.members) - {m.iteration for m in state.family})
    shares = [share for share in stage.shares if share < smallest]
    if missing or shares:
        setup.tell(event="skip", members=missing, shares=shares)
    setup.tell(event="stop", reason=state.stop_reason, iteration=state.iteration)
    return state._replace(stage=Stage.FINETUNE)


def _asked(setup: Setup, family: Sequence[Member]) -> list[Member]:
    """Members to be fine-tuned: those named by iteration and the largest within each share; nothing said: all."""
    stage, macs = setup.config.finetune, setup.space.macs
    if not stage.members and not stage.shares:
        return list(family)
    iterations = set(stage.members)
    for share in stage.shares:
        # MACs fall from iteration to iteration: the first that fits is the largest.
        fits = (m.iteration for m in family if macs(m.widths) <= share * macs(family[0].widths))
        iterations.update(itertools.islice(fits, 1))
    return [m for m in family if m.iteration in iterations]


def _buckets(setup: Setup, state: RunState) -> list[list[Member]]:
    """Members that fine-tune side by side: of one physical shape, whose program exists already, at most K at a time."""
    members = _asked(setup, state.family)
    shapes = dict.fromkeys(m.physical_widths for m in members)
    buckets = []
    for physical_widths in shapes:
        alike = [m for m in members if m.physical_widths == physical_widths]
        buckets += [alike[n : n + setup.slots] for n in range(0, len(alike), setup.slots)]
    return buckets


def _finish(setup: Setup, state: RunState) -> dict[str, Any]:
    """Tests the family, once, and writes the result. A pretrained parent is not tested: searches will do that."""
    searched = setup.config.command == "search"
    members = [m for bucket in _buckets(setup, state) for m in bucket] if searched else []
    tested = dict(
        zip([m.iteration for m in members], results.test_accuracy(setup, members) if members else [], strict=True)
    )
    return hosts.from_first_host(lambda: results.write(setup, state, tested))


def _saved(setup: Setup, state: RunState, name: str | None, spent: list[pa.Table]) -> RunState:
    """Writes the ledger's next file and the checkpoint that knows it; stops here where that was asked for."""
    if name is None or not spent:
        spent = []
    else:
        state = state._replace(ledgers=(*state.ledgers, f"{len(state.ledgers):04d}-{name}.parquet"))
    hosts.from_first_host(lambda: _write_checkpoint(setup, state, spent))
    if setup.should_stop() and state.stage != Stage.TEST:
        raise Interrupted
    return state


def _write_checkpoint(setup: Setup, state: RunState, spent: list[pa.Table]) -> None:
    if spent:
        ledger.write(spent, setup.run.ledger / state.ledgers[-1])
    step = setup.checkpoints.next_step()
    setup.tell(event="checkpoint", stage=state.stage.name.lower(), iteration=state.iteration, step=step)
    about = runstate.record(state) | {"events_size": setup.run.events_size(), "meter": setup.effort()}
    setup.checkpoints.save(step, runstate.arrays(state), about)


def _restored(setup: Setup) -> RunState | None:
    """The state of the latest checkpoint, with everything written after it taken back; None where there is none."""
    found = hosts.from_first_host(lambda: _read_checkpoint(setup))
    if found is None:
        return None
    step, about, arrays, spent = found
    for name, value in about["meter"].items():
        setattr(setup.fleet.meter, name, value)
    state = runstate.restored(about, arrays)
    setup.tell(event="resume", step=step, client_seconds=spent, progress=setup.goal.progress(state.widths))
    return state


def _read_checkpoint(setup: Setup) -> tuple[int, dict[str, Any], dict[str, Any], float] | None:
    """Step, record, arrays and client seconds of the latest checkpoint; what was written after it is taken back."""
    latest = setup.checkpoints.latest()
    if latest is None:
        setup.run.rewind(0, [])
        return None
    step, about = latest
    like = runstate.like(about, setup.space.network, setup.slots, setup.fleet.init_server)
    arrays = setup.checkpoints.restore(step, like)
    setup.run.rewind(about["events_size"], about["ledgers"])
    spent = sum(e["client_seconds"] for e in setup.run.events() if e["event"] in ("round", "parent"))
    return step, about, arrays, spent
