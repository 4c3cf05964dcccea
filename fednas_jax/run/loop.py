"""A whole run: pretrain the parent, search iteration by iteration, fine-tune the family, test it once.

A run's state is one record; a step takes it and returns the next, and the session writes down what happened. Where
several hosts work on a run, each goes through all of this; the first alone reads and writes the run's folder.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from fednas_jax import data
from fednas_jax.config.methods import resolve
from fednas_jax.config.schema import Config
from fednas_jax.engine.fleet import Fleet
from fednas_jax.errors import RunError
from fednas_jax.files import make_folder, write_json
from fednas_jax.phones import ledger
from fednas_jax.run import events, manifest, parents, results, stages, verifying
from fednas_jax.run.checkpoint import Refused, Saved
from fednas_jax.run.folder import RunDir
from fednas_jax.run.lock import Lock
from fednas_jax.run.model_files import load_member
from fednas_jax.run.problem import Fleets, Problem, code_of, prepare, same_config
from fednas_jax.run.session import Session, Step, saving
from fednas_jax.run.state import Likeness, RunState, Stage, unpack
from fednas_jax.runtime import hosts
from fednas_jax.space.network import Variables


class Machine(NamedTuple):
    """What a run works on."""

    fleets: Fleets
    worked: Callable[[], float]  # seconds that it has worked on this run


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
      devices: those to train on; all of all hosts by default. `use_all_cores` makes each core of a processor one.
      dataset: data of your own (`from_arrays`) instead of `config.data.source`, the same on every host. The recorded
        source is then a checksum of it, so that no run goes on with other data.

    Raises:
      FednasError: one line in the user's words: config, data, network or folder cannot be used, or training diverged.
      Interrupted: `should_stop` said so; the same call goes on.
    """
    began = time.perf_counter()
    machine = Machine(Fleet, lambda: time.perf_counter() - began)
    return run_on(machine, config, out, observe, should_stop, devices, dataset)


def run_on(
    machine: Machine,
    config: Config,
    out: Path,
    observe: Callable[[dict[str, Any]], None],
    should_stop: Callable[[], bool],
    devices: Sequence[jax.Device] | None = None,
    dataset: data.Dataset | None = None,
) -> dict[str, Any]:
    """`run_search`, on fleets and a clock of the caller's."""
    if dataset is not None:
        given = dataclasses.replace(config.data, source=f"{data.GIVEN}{data.fingerprint(dataset)}")
        config = dataclasses.replace(config, data=given)
    config = resolve(config)
    same_config(config)
    run = RunDir(out)
    with Lock(run.path) as lock:
        finished = hosts.from_first_host(lambda: _looked_at(run, config, lock))
        if finished is not None:
            return finished
        code = hosts.run_on_all(lambda: code_of(config))
        hosts.from_first_host(lambda: run.check_inputs(config))
        hosts.from_first_host(lambda: run.check_code(code))
        kind = (devices or jax.devices())[0].device_kind
        # A resumed run goes on with the lanes and lowering it was begun with, so that sums are added in the same order.
        lanes, lowering = hosts.from_first_host(lambda: (run.lanes(kind), run.lowering(kind)))
        lanes = config.engine.lanes or lanes
        lowering = lowering if config.engine.lowering == "auto" else config.engine.lowering
        problem = prepare(config, lanes, lowering, devices, dataset, machine.fleets)
        hosts.from_first_host(lambda: run.check_data(problem.fingerprint))
        stop, every = functools.partial(_stops, should_stop), config.engine.checkpoint_rounds
        later = _work_aside(problem)
        session = Session(run, problem.space.network, observe, stop, every, machine.worked, later)
        parent = hosts.from_first_host(lambda: _parent(problem, session))

        def create() -> dict[str, Any] | None:
            make_folder(run.path)
            done = None if lock.held else _looked_at(run, config, lock)
            if done is None:
                with saving(run.path):
                    fleet = problem.fleet
                    run.create(config, fleet.lanes, fleet.lowering, kind, code, problem.fingerprint)
            return done

        finished = hosts.from_first_host(create)
        if finished is not None:  # by another process, while this one made ready
            return finished
        return _run(problem, session, parent)


def _looked_at(run: RunDir, config: Config, lock: Lock) -> dict[str, Any] | None:
    """The result of a finished run; else holds the folder, where there is one, until the end."""
    run.check(config)
    finished = run.result()
    if finished is not None or not run.path.is_dir():
        return finished
    lock.acquire()
    run.check(config)  # another process may have written since
    return run.result()


def _work_aside(problem: Problem) -> bool:
    """Whether the devices leave the host free, as accelerators do. A processor's programs take its own time."""
    return any(device.platform != "cpu" for device in problem.fleet.mesh.devices.flat)


def _stops(should_stop: Callable[[], bool]) -> bool:
    return hosts.agree(should_stop())


def _run(problem: Problem, session: Session, parent: parents.Parent | None) -> dict[str, Any]:
    """Steps until the family can be tested."""
    try:
        state = _restored(problem, session) or _begun(problem, session, parent)
        while state.stage != Stage.TEST:
            missing = stages.needs_members(problem, state)
            if missing:
                found = [load_member(session.run, session.network, member) for member in missing]
                state = stages.with_members(problem, state, missing, found)
            try:
                collect = stages.begin(problem, state)
            finally:
                session.catch_up()  # while the devices work
            state = session.commit(collect())
        return _finish(problem, session, state)
    finally:
        session.close()


def _begun(problem: Problem, session: Session, parent: parents.Parent | None) -> RunState:
    """The first state of a run; nothing of an earlier try stays."""

    def anew() -> None:
        with saving(session.run.path):
            session.run.rewind(0, set())

    hosts.from_first_host(anew)
    given: tuple[Variables | None, dict[str, Any] | None] = (
        (parent.variables, parent.source) if parent else (None, None)
    )
    state = stages.first_state(problem, *given)
    session.tell(
        events.Start(
            clients=problem.clients,
            examples=int(problem.fleet.train_count.sum() + problem.fleet.val_count.sum()),
            heterogeneity=problem.heterogeneity._asdict(),
            label_mix=problem.label_mix,
            network=problem.space.network.name,
            macs=problem.space.macs(state.widths),
            params=problem.space.params(state.widths),
            devices=", ".join(sorted({d.device_kind for d in problem.fleet.mesh.devices.flat})),
        )
    )
    if problem.sliced:
        session.tell(events.Sliced(problem.space.inexact or "search.candidates asks for it"))
    if state.source is not None:
        session.tell(events.Load(state.source["path"]))
    listed = hosts.from_first_host(lambda: manifest.files(session.run.path, grown=False))
    return session.commit(Step(state._replace(files=tuple(listed)), boundary=False))


def _restored(problem: Problem, session: Session) -> RunState | None:
    """The state of the newest checkpoint that can be believed; what was written after it is taken back."""
    found = hosts.from_first_host(lambda: _newest(session))
    if found is None:
        return None
    saved, refused = found
    state = unpack(saved.record, saved.arrays, _likeness(problem, saved))
    session.goes_on(saved.record["wall_seconds"])
    for step, reason in refused:
        session.tell(events.Fallback(step, reason))
    progress = problem.goal.progress(state.widths)
    session.tell(events.Resume(saved.step, state.spent.client_seconds, progress))
    others = hosts.from_first_host(session.run.other_versions)
    warning = f"it went on with other versions, which may add in another order: {'; '.join(others)}"
    if others and warning not in state.warnings:
        session.tell(events.Warned(warning))
        state = state._replace(warnings=(*state.warnings, warning))
    return state


def _newest(session: Session) -> tuple[Saved, list[Refused]] | None:
    """The newest believable checkpoint and those refused; the folder is as it was then.

    Raises:
      RunError: there are checkpoints, but none can be believed.
    """
    saved, refused = session.checkpoints.newest(functools.partial(verifying.believe, session.run))
    if saved is None:
        if refused:
            raise RunError(
                f"{session.run.path}: none of its {len(refused)} checkpoints can be believed, want one intact; "
                f"the newest: {refused[0].reason}"
            )
        return None
    with saving(session.run.path):
        session.checkpoints.discard([step for step, _ in refused])
        session.run.rewind(saved.record["events"]["bytes"], {entry["path"] for entry in saved.record["files"]})
    return saved, refused


def _likeness(problem: Problem, saved: Saved) -> Likeness:
    """Shapes and types of the arrays that a checkpoint of this run has."""
    record = saved.record

    def stacked(physical_widths: Sequence[int], count: int) -> Variables:
        one = problem.space.network.abstract(tuple(physical_widths))
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), one)

    def server(physical_widths: Sequence[int], count: int) -> Any:
        slots = count if problem.sliced else problem.slots
        return jax.eval_shape(problem.fleet.init_server, stacked(physical_widths, slots)) if record["training"] else ()

    shapes = [(physical, len(numbers)) for physical, numbers in record["stacks"]]
    policy: Any = ()
    if record["trial"] is not None:
        table = problem.policy.table(record["iteration"] + 1, len(record["trial"]))
        alive, resource = (jax.numpy.zeros(problem.slots, kind) for kind in (bool, "float32"))
        policy = jax.eval_shape(lambda: problem.policy.init(table, alive, resource))
    return Likeness([stacked(*shape) for shape in shapes], [server(*shape) for shape in shapes], policy)


def _parent(problem: Problem, session: Session) -> parents.Parent | None:
    """The parent that the config names; none where the run goes on and has its weights in a checkpoint."""
    config = problem.config
    if config.parent is None or session.checkpoints.begun():
        return None
    return parents.load(config.parent, problem.space)


def _finish(problem: Problem, session: Session, state: RunState) -> dict[str, Any]:
    """Tests the family, once, and writes the result. A pretrained parent is not tested: searches will do that."""
    members = []
    if problem.config.command == "search":
        members = [member for bucket in stages.buckets(problem, state) for member in bucket]
    tested: list[results.Tested] = []
    if members:
        tested, effort = results.test(
            problem, members, lambda member: load_member(session.run, session.network, member, "finetuned")
        )
        state = state._replace(effort=state.effort + effort)
    warnings = []
    for member, found in zip(members, tested, strict=True):
        if found.accuracy is None:
            session.tell(events.Diverged("finetune", member.iteration))
            warnings.append(f"iteration {member.iteration}: its fine-tuning diverged, so that it has no test accuracy")
        elif found.score is None:
            metric = problem.config.search.metric
            warnings.append(f"iteration {member.iteration}: {metric} has no value on the test split")
    for warning in warnings:
        session.tell(events.Warned(warning))
    state = state._replace(warnings=(*state.warnings, *warnings))

    def write() -> dict[str, Any]:
        run = session.run
        listed = [*state.files, run.events_entry()]
        manifest.verify_files(run.path, listed)  # what is summed up must be what was written
        of = dict(zip([m.iteration for m in members], tested, strict=True))
        result = results.summary(problem, state, of, ledger.read(run.ledger), session.wall_seconds())
        with saving(run.result_file):
            manifest.write(run.path, listed)
            write_json(run.result_file, result)
        return result

    session.tell(events.Finished(state.stop_reason))
    return hosts.from_first_host(write)
