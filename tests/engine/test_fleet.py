"""The fast engine equals the readable oracle, for any number of lanes and devices, and wastes no step."""

import dataclasses
import functools
import threading
from types import SimpleNamespace

import jax
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rounds import (
    CONFIG,
    MOMENT,
    NAMES,
    TASKS,
    WIDTHS,
    assert_close,
    assert_equal,
    fleet,
    one_round,
    round_key,
    scored,
    stacked,
    trained_and_scored,
    with_config,
)

from fednas_jax.config.schema import AugmentConfig, DataConfig, EngineConfig, TrainConfig
from fednas_jax.data import Examples, chunks, pack, partition, read_columns, write_columns
from fednas_jax.engine import feed, local, training
from fednas_jax.engine import lane_plan as schedule
from fednas_jax.engine.compiling import Size
from fednas_jax.engine.fleet_spec import FleetSpec, choice_of
from fednas_jax.engine.loading import Parts
from fednas_jax.engine.mesh import layout_of, mesh_of
from fednas_jax.engine.programs import Room
from fednas_jax.engine.tasks import Tasks
from fednas_jax.errors import ConfigError, DeviceError
from fednas_jax.space.network import Variables
from fednas_jax.space.probing import probe


@pytest.fixture(scope="module")
def expected(network, dataset, packed, candidates):
    pairs = list(zip(TASKS.candidate.tolist(), TASKS.client.tolist(), strict=True))
    mean, std = dataset.mean, dataset.std
    return oracle.train_round(network, WIDTHS, candidates, packed, mean, std, CONFIG, pairs, round_key(), NAMES)


def kinds_of_programs(engine):
    """The kind of each program that a fleet has, whoever compiled it."""
    return sorted(kind for kind, _ in engine.compiled.kept)


WHOLE = ["round", "scored"]  # all tasks in one part
PARTS = ["count", "score", "serve", "train", "zeros"]


def long_form(*cases):
    """Cases of lanes and devices for the long form."""
    return [pytest.param(*case, marks=pytest.mark.exhaustive) for case in cases]


@pytest.mark.parametrize(("lanes", "devices"), [(3, 1), (1, 8), *long_form((1, 1), (8, 1), (3, 8), (8, 8))])
def test_a_round_equals_the_oracle_on_any_lanes_and_devices(
    network, dataset, packed, candidates, expected, lanes, devices
):
    assert packed.train_count.min() < CONFIG.batch_size < packed.train_count.max()
    engine = fleet(network, dataset, packed, lanes, devices)
    trained = one_round(engine, candidates, TASKS)
    for k in range(3):
        for ours, theirs in zip(jax.tree.leaves(trained[k]), jax.tree.leaves(expected[k]), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    moved = np.abs(trained[0].params["conv/kernel"] - candidates[0].params["conv/kernel"]).max()
    assert moved > 1e-3
    untouched = zip(jax.tree.leaves(trained[1]), jax.tree.leaves(candidates[1]), strict=True)
    assert all(np.array_equal(a, b) for a, b in untouched)

    tally = engine.evaluate(WIDTHS, stacked(trained), TASKS)
    for k in (0, 2):
        clients = TASKS.client[TASKS.candidate == k]
        right, count = oracle.accuracy(network, WIDTHS, trained[k], packed, clients, dataset.mean, dataset.std)
        assert (tally.correct[k], tally.total[k]) == (right, count)
    assert np.isnan(tally.accuracy[1])  # nobody scored it
    assert engine.effort.steps == local.local_steps(packed.train_count, CONFIG)[TASKS.client].sum()


@pytest.mark.cold
def test_the_users_default_generator_changes_nothing(network, dataset, packed, candidates, expected):
    """Keys of 'rbg' draw other numbers side by side than one after another."""
    with jax.default_prng_impl("rbg"):
        trained = one_round(fleet(network, dataset, packed, 3, 1), candidates, TASKS)
    assert_close(trained, expected)


AUGMENTED = dataclasses.replace(CONFIG, augment=AugmentConfig(crop=2, flip=True, cutout=3))


@pytest.fixture(scope="module")
def expected_augmented(network, dataset, packed, candidates):
    pairs = list(zip(TASKS.candidate.tolist(), TASKS.client.tolist(), strict=True))
    mean, std = dataset.mean, dataset.std
    return oracle.train_round(network, WIDTHS, candidates, packed, mean, std, AUGMENTED, pairs, round_key(), NAMES)


@pytest.mark.parametrize(("lanes", "devices"), [(3, 1), *long_form((1, 8))])
def test_augmented_training_equals_the_oracle_on_any_lanes_and_devices(
    network, dataset, packed, candidates, expected, expected_augmented, lanes, devices
):
    engine = fleet(network, dataset, packed, lanes, devices, AUGMENTED)
    trained, tally = trained_and_scored(engine, candidates, config=AUGMENTED)
    assert_close(trained, expected_augmented)
    plain, images = (one[0].params["conv/kernel"] for one in (expected, expected_augmented))
    assert np.abs(plain - images).max() > 1e-3
    for k in (0, 2):  # scored on images as they are
        clients = TASKS.client[TASKS.candidate == k]
        right, count = oracle.accuracy(network, WIDTHS, trained[k], packed, clients, dataset.mean, dataset.std)
        assert (tally.correct[k], tally.total[k]) == (right, count)


def test_a_crop_larger_than_the_images_is_refused(network, dataset, packed):
    with pytest.raises(ConfigError, match=r"^train\.augment\.crop: got 9, want at most 8, the images' smaller side$"):
        fleet(network, dataset, packed, 1, 1, with_config(augment=AugmentConfig(crop=9)))


@pytest.mark.cold
@pytest.mark.parametrize(
    ("devices", "share"), [(2, 0.25), pytest.param(1, 0.0, marks=pytest.mark.exhaustive)], ids=["resident", "streamed"]
)
def test_stacks_of_other_shapes_compile_in_threads_and_equal_the_oracle(
    network, dataset, packed, candidates, devices, share, monkeypatch
):
    """Two candidates, each in a stack of its own, one of them at fewer channels."""
    engine = fleet(network, dataset, packed, 1, devices, data_share=share)
    assert engine.streams == (not share)
    widths, space = {0: WIDTHS, 2: (2, 4)}, probe(network, (2,), check=False)
    start = {k: space.slice(candidates[k], [np.arange(n) for n in w]) for k, w in widths.items()}
    compiled, threads = engine.compiled.compile, []

    def recorded(kind, size, args):
        threads.append((kind, size, threading.current_thread().name.startswith("fednas-compile")))
        return compiled(kind, size, args)

    monkeypatch.setattr(engine.compiled, "compile", recorded)
    shapes = [(w, 1) for w in widths.values()]
    with engine.compiling("train", shapes):
        for k, w in widths.items():
            client, stack = TASKS.client[TASKS.candidate == k], stacked([start[k]])
            own, server = Tasks(np.zeros_like(client), client), engine.init_server(stack)
            got = engine.train(w, stack, server, own, MOMENT, [NAMES[k]], CONFIG.learning_rate).stack
            pairs = [(0, c) for c in client.tolist()]
            facts = (packed, dataset.mean, dataset.std, CONFIG, pairs, round_key(), [NAMES[k]])
            (want,) = oracle.train_round(network, w, [start[k]], *facts)
            assert_close(jax.tree.map(lambda a: a[0], got), want)
    trains = "train" if engine.streams else "round"
    assert {(size.physical_widths, own) for kind, size, own in threads if kind == trains} == {
        (WIDTHS, True),
        ((2, 4), True),
    }
    assert not any(own for kind, _, own in threads if kind != trains)


def test_many_short_calls_equal_one_long_one(network, dataset, packed, candidates, expected, monkeypatch):
    monkeypatch.setattr("fednas_jax.engine.lane_plan.TASKS_PER_LANE", 1)
    trained = one_round(fleet(network, dataset, packed, 3, 1), candidates, TASKS)
    np.testing.assert_allclose(trained[0].params["conv/kernel"], expected[0].params["conv/kernel"], atol=1e-5)


@pytest.fixture
def parts_of(monkeypatch):
    """How many parts each round or evaluation was cut into, in order."""
    numbers = []
    cut = schedule.parts

    def counted(*args):
        found = cut(*args)
        numbers.append(len(found))
        return found

    monkeypatch.setattr(schedule, "parts", counted)
    return numbers


@pytest.mark.parametrize(("lanes", "devices"), [(1, 8), *long_form((3, 1))])
def test_streaming_equals_data_on_the_devices_bit_for_bit(
    network, dataset, packed, candidates, parts_of, lanes, devices
):
    resident = fleet(network, dataset, packed, lanes, devices)
    streaming = fleet(network, dataset, packed, lanes, devices, data_share=0.0)
    assert (resident.streams, streaming.streams) == (False, True)
    there, sent = (trained_and_scored(engine, candidates) for engine in (resident, streaming))
    assert parts_of == [1, 1, 1, 1], "plans can be equal only where all is one part"
    assert_equal(there, sent)
    assert resident.effort.lane_steps == streaming.effort.lane_steps


@pytest.mark.parametrize(("lanes", "devices"), [(3, 1), *long_form((1, 8))])
def test_streaming_part_by_part_equals_data_on_the_devices(
    network, dataset, packed, candidates, expected, parts_of, monkeypatch, lanes, devices
):
    monkeypatch.setattr(schedule, "TASKS_PER_LANE", 1)
    monkeypatch.setattr(feed, "BUFFER_BYTES", 1)  # room for the largest client alone
    streaming = fleet(network, dataset, packed, lanes, devices, data_share=0.0)
    trained, tally = trained_and_scored(streaming, candidates)
    assert min(parts_of) > 1, "training and evaluation, both in several parts"
    assert_close(trained, expected)
    assert_equal(tally, scored(fleet(network, dataset, packed, lanes, devices), trained))
    assert streaming.effort.steps == streaming.steps[TASKS.client].sum()
    assert kinds_of_programs(streaming) == PARTS


@pytest.mark.cold
@pytest.mark.parametrize("data_share", [0.25, pytest.param(0.0, marks=pytest.mark.exhaustive)])
def test_no_cohort_and_no_number_of_parts_needs_another_program(
    network, dataset, packed, candidates, parts_of, monkeypatch, data_share
):
    monkeypatch.setattr(schedule, "TASKS_PER_LANE", 2)
    engine = fleet(network, dataset, packed, 2, 2, data_share=data_share)
    clients = np.arange(packed.clients)
    for alive, cohort in (
        ([0, 1, 2], clients),
        ([2], clients[3:5]),
        ([0, 1], clients[::-1]),
        ([], clients),
        ([1], clients),
    ):
        tasks = Tasks(np.repeat(alive, len(cohort)).astype(int), np.tile(cohort, len(alive)))
        _, tally = trained_and_scored(engine, candidates, tasks)
        assert np.array_equal(np.isfinite(tally.accuracy), np.isin(range(3), alive))
    assert len(set(parts_of)) > 2
    assert kinds_of_programs(engine) == PARTS
    assert engine.effort.compilations == 1


@pytest.mark.exhaustive
def test_data_on_disk_trains_as_the_same_data_in_memory(network, dataset, candidates, tmp_path):
    sizes = np.array([5, 40, 22, 9, 31, 16])
    train = Examples(dataset.train.inputs[: sizes.sum()], dataset.train.labels[: sizes.sum()])
    write_columns(tmp_path / "columns", "digits", [(train, sizes)], dataset.test, dataset.classes)
    read = read_columns(tmp_path / "columns")
    config = DataConfig(source="columns", partition="natural", clients=0, min_examples=2)
    divided = partition(read.train.labels, config, 1, read.natural)
    disk, memory = (pack(examples, divided, 0.3, 1) for examples in (read.train, train))
    assert (disk.on_disk, memory.on_disk) == (True, False)
    engines = [fleet(network, dataset, data, 3, 1) for data in (disk, memory)]
    assert [engine.streams for engine in engines] == [True, False]
    tasks = Tasks(np.repeat([0, 2], disk.clients), np.tile(np.arange(disk.clients), 2))
    from_disk, from_memory = (trained_and_scored(engine, candidates, tasks) for engine in engines)
    assert_equal(from_disk, from_memory)
    assert from_disk[1].total[0] == disk.val_count.sum()


@pytest.mark.parametrize("wrong", [0, 2])
def test_what_goes_wrong_in_loading_reaches_the_caller_and_leaves_no_thread(
    network, dataset, packed, candidates, monkeypatch, wrong
):
    monkeypatch.setattr(schedule, "TASKS_PER_LANE", 1)
    engine = fleet(network, dataset, packed, 3, 1, data_share=0.0)
    calls = []

    def gather(self, share, client, gather=feed.Feed.gather):
        calls.append(threading.current_thread().name)
        if len(calls) > wrong:
            raise OSError("the disk went away")
        return gather(self, share, client)

    with monkeypatch.context() as broken:
        broken.setattr(feed.Feed, "gather", gather)
        with pytest.raises(OSError, match="the disk went away"):
            one_round(engine, candidates, TASKS)
    assert len(calls) == wrong + 1
    assert calls[0].startswith("fednas-feed"), "else the name below says nothing"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fednas-feed")]
    trained = one_round(engine, candidates, TASKS)  # and the fleet can be used again
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))


def test_what_goes_wrong_in_a_part_ends_its_loading_thread():
    loaded = []

    def load(part):
        loaded.append(part)
        return part, None, 0

    def work():
        with Parts(range(100), load) as parts:
            for part, _ in parts:
                if part == 2:
                    raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        work()
    assert len(loaded) <= 4, "one part is loaded ahead, not all of them"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fednas-feed")]


@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_parts_come_in_order_with_their_steps_counted(number):
    with Parts(range(number), lambda part: (part, None, 10**part)) as parts:
        assert [part for part, _ in parts] == list(range(number))
    assert parts.lane_steps == sum(10**part for part in range(number))


def test_hosts_with_different_numbers_of_devices_are_refused():
    def devices(*numbers):
        return [SimpleNamespace(process_index=h, id=10 * h + d) for h, n in enumerate(numbers) for d in range(n)]

    with pytest.raises(DeviceError, match=r"^devices: got \[2, 3\] of the hosts \[0, 1\], want as many of each host$"):
        mesh_of(devices(2, 3))


def test_a_mesh_has_a_row_of_devices_for_each_host_in_their_order():
    mesh = mesh_of(jax.devices()[::-1])
    assert mesh.axis_names == ("hosts", "devices")
    assert mesh.devices.tolist() == [jax.devices()]


def test_half_the_candidates_take_half_the_steps_and_no_other_program(network, dataset, packed, candidates):
    engine = fleet(network, dataset, packed, 1, 1)
    clients = np.arange(packed.clients)
    both = Tasks(np.repeat([0, 2], len(clients)), np.tile(clients, 2))
    one_round(engine, candidates, both)
    whole, lane_steps = engine.effort.steps, engine.effort.lane_steps
    one_round(engine, candidates, Tasks(np.zeros(len(clients), int), clients))
    assert engine.effort.steps - whole == whole / 2
    assert engine.effort.lane_steps - lane_steps == lane_steps / 2
    assert kinds_of_programs(engine) == ["round"]


def test_a_diverged_candidate_scores_nan_and_harms_no_other(network, dataset, packed, candidates):
    broken = jax.tree.map(np.copy, candidates[0])
    broken.params["classifier/bias"][:] = np.nan
    engine = fleet(network, dataset, packed, 3, 1)
    stack = [broken, candidates[1], candidates[2]]
    trained = one_round(engine, stack, TASKS)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained[2]))
    tally = engine.evaluate(WIDTHS, stacked(trained), TASKS)
    assert np.isnan(tally.accuracy[0])
    assert np.isfinite(tally.accuracy[2])


@pytest.mark.parametrize("data_share", [0.25, 0.0])
def test_a_diverged_candidate_harms_none_that_shares_its_lanes(network, dataset, packed, candidates, data_share):
    """Every lane takes up healthy tasks after broken ones and beside them, over several boundaries."""
    everyone = Tasks(np.tile([0, 1, 2], packed.clients), np.repeat(np.arange(packed.clients), 3))
    engine = fleet(network, dataset, packed, 4, 1, data_share=data_share)
    plan = schedule.segments(engine.steps[everyone.client], 4)
    of = np.where(plan.task >= 0, everyone.candidate[plan.task], -1)[: plan.number]
    assert plan.number > 4
    assert ((of[1:] != 0) & (of[:-1] == 0)).any(axis=0).all()
    healthy, scored = trained_and_scored(engine, candidates, everyone)
    broken = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), candidates[0])
    trained, tally = trained_and_scored(engine, [broken, *candidates[1:]], everyone)
    assert_equal(trained[1:], healthy[1:])
    assert np.isnan(trained[0].params["conv/kernel"]).all()
    assert np.array_equal(tally.correct[1:], scored.correct[1:])
    assert tally.finite.tolist() == [False, True, True]


def test_bfloat16_computes_coarsely_and_keeps_everything_in_float32(network, dataset, packed, candidates):
    config = with_config(precision="bfloat16")
    engine = fleet(network, dataset, packed, 3, 1, config)
    trained = one_round(engine, candidates, TASKS, config)
    exact = one_round(fleet(network, dataset, packed, 3, 1), candidates, TASKS)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(trained))
    sums = jax.eval_shape(functools.partial(training.zeros, engine.compiled.recipe, Room()), stacked(candidates))
    counts = jax.tree.leaves(sums.left_out)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(sums._replace(left_out=())))
    assert all(leaf.dtype == np.int32 for leaf in counts)
    for k in (0, 2):
        moves = [
            np.concatenate(
                [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (one[k], candidates[k])), strict=True)]
            )
            for one in (trained, exact)
        ]
        assert not np.array_equal(*moves)
        assert np.linalg.norm(moves[0] - moves[1]) < 0.1 * np.linalg.norm(moves[1])
    text = engine.compiled.kept["round", Size(WIDTHS, 3)].as_text()
    assert "bf16[" in text
    tally = engine.evaluate(WIDTHS, stacked(trained), TASKS)
    exactly = fleet(network, dataset, packed, 3, 1).evaluate(WIDTHS, stacked(exact), TASKS)
    assert np.abs(tally.correct - exactly.correct).max() <= 0.2 * tally.total.max()


def test_logits_and_statistics_are_float32_though_products_are_bfloat16(network, candidates):
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 1)).astype(np.float32)
    results = []
    for precision in ("float32", "bfloat16"):
        forward = local.make_forward(network, WIDTHS, with_config(precision=precision))
        logits, stats = forward(candidates[0], images, train=True)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves((logits, stats)))
        results.append((logits, stats))
    assert_close(*results, atol=0.05)
    assert not np.array_equal(results[0][0], results[1][0])
    # A running mean moves by a tenth of the batch's: in bfloat16 small moves would be lost.
    old, new = (np.float32(3.0) + np.zeros(4, np.float32), results[1][1]["norm/mean"])
    assert not np.array_equal(new, new.astype(jax.numpy.bfloat16).astype(np.float32))
    kept = candidates[0]._replace(stats={**candidates[0].stats, "norm/mean": old})
    _, moved = local.make_forward(network, WIDTHS, with_config(precision="bfloat16"))(kept, images, train=True)
    np.testing.assert_allclose(moved["norm/mean"], 0.9 * old + new - 0.9 * candidates[0].stats["norm/mean"], atol=1e-5)


@pytest.mark.parametrize("wanted", ["default", "highest"])
def test_the_wanted_precision_of_products_reaches_every_product(network, dataset, packed, candidates, wanted):
    config = with_config(matmul_precision=wanted)
    engine = fleet(network, dataset, packed, 3, 1, config)
    trained = one_round(engine, candidates, TASKS, config)
    engine.evaluate(WIDTHS, stacked(trained), TASKS)
    for kind in WHOLE:
        products = [
            line for line in engine.compiled.kept[kind, Size(WIDTHS, 3)].as_text().splitlines() if " dot(" in line
        ]
        assert products
        assert all(("operand_precision={highest,highest}" in line) == (wanted == "highest") for line in products)


@pytest.mark.parametrize(("weight_decay", "proximal"), [(0.1, 0.0), (0.0, 0.0)])
def test_clients_without_momentum_equal_the_oracle(network, dataset, packed, candidates, weight_decay, proximal):
    config = with_config(momentum=0.0, weight_decay=weight_decay, proximal=proximal)
    tasks = Tasks(np.array([0, 0, 2]), np.array([3, 8, 4]))
    trained = one_round(fleet(network, dataset, packed, 3, 1, config), candidates, tasks, config)
    pairs = list(zip(tasks.candidate.tolist(), tasks.client.tolist(), strict=True))
    mean, std, key = dataset.mean, dataset.std, round_key()
    assert_close(trained, oracle.train_round(network, WIDTHS, candidates, packed, mean, std, config, pairs, key, NAMES))


def test_test_examples_are_each_counted_once(network, dataset, candidates):
    split = chunks(dataset.test, 50)
    engine = fleet(network, dataset, split, 3, 2)
    clients = np.arange(split.clients)
    tally = engine.evaluate(WIDTHS, stacked(candidates), Tasks(np.zeros(len(clients), int), clients))
    assert tally.total[0] == len(dataset.test.labels)


@pytest.mark.parametrize(
    ("lanes", "batch", "size", "want"), [(0, 100, 100, 1), (1, 100, 100, 1), (64, 100, 100, 5), (64, 100, 3, 64)]
)
def test_no_more_test_examples_are_on_a_device_at_once_than_in_training(network, dataset, lanes, batch, size, want):
    """Of lanes that training fills to a device's memory, with 8 examples each."""
    engine = EngineConfig(lanes=lanes, eval_batch=batch)
    split = chunks(dataset.test, size)
    spec = FleetSpec(network, split, dataset.mean, dataset.std, 10, CONFIG, engine, 0, 3, jax.devices()[:1])
    assert CONFIG.batch_size == 8
    assert choice_of(spec, layout_of(spec.devices), np.zeros(3, int)).lanes == want


@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("momentum", "yogi", "adagrad"))]
)
def test_a_server_optimiser_sees_the_averaged_update_as_its_descent(name, network, dataset, packed, candidates):
    """Two rounds by hand: the first moments and rates of FedOpt's algorithm 2 on what plain averaging would add."""
    plain = fleet(network, dataset, packed, 3, 1)
    rate = 0.1
    adaptive = TrainConfig(**{**vars(CONFIG), "server_optimizer": name, "server_learning_rate": rate})
    engine = fleet(network, dataset, packed, 3, 1, adaptive)
    stack = stacked(candidates)
    averaged = plain.train(WIDTHS, stack, plain.init_server(stack), TASKS, MOMENT, NAMES, 0.05).stack
    server = engine.init_server(stack)
    moved = engine.train(WIDTHS, stack, server, TASKS, MOMENT, NAMES, 0.05).stack
    path = "conv/kernel"
    update = np.asarray(averaged.params[path][0]) - candidates[0].params[path]
    first = {
        "momentum": update,
        "adam": update / (np.abs(update) + 1e-3),
        "yogi": update / (np.sqrt(np.square(update) + 1e-6 / 0.01) + 1e-3),  # optax starts its v at 1e-6
        "adagrad": update / np.sqrt(np.square(update) + 1e-3),
    }[name]
    step = np.asarray(moved.params[path][0]) - candidates[0].params[path]
    np.testing.assert_allclose(step, rate * first, rtol=0.02, atol=2e-4)
    np.testing.assert_allclose(moved.stats["norm/mean"][0], averaged.stats["norm/mean"][0], atol=1e-6)
    assert np.array_equal(moved.params[path][1], candidates[1].params[path])


def test_the_proximal_term_pulls_towards_the_start(network, dataset, packed, candidates):
    def distance(mu):
        config = with_config(proximal=mu)
        trained = one_round(fleet(network, dataset, packed, 3, 1, config), candidates, TASKS, config)
        return sum(np.square(trained[0].params[p] - candidates[0].params[p]).sum() for p in candidates[0].params)

    assert distance(3.0) < 0.9 * distance(CONFIG.proximal)


STREAM = jax.jit(local.stream, static_argnums=2)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_stream_is_fresh_permutations_and_its_start_ignores_the_capacity(count, extra, seed):
    key = jax.random.key(seed)
    epochs = 3
    order = np.asarray(STREAM(key, np.int32(count), 120 + 5 * 40))
    for epoch in range(epochs):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
    longer = np.asarray(STREAM(key, np.int32(count), 120 + (5 + 1) * 40))
    assert np.array_equal(order[: epochs * count], longer[: epochs * count])
    assert np.array_equal(order[: epochs * count], oracle.batch_stream(key, count, epochs * count))


def test_shuffles_of_different_epochs_differ():
    order = np.asarray(local.stream(jax.random.key(0), np.int32(50), 200))
    assert not np.array_equal(order[:50], order[50:100])


def test_dropout_is_of_other_numbers_than_the_order_of_examples():
    key, many = jax.random.key(3), 100
    order = {int(n) for n in jax.random.bits(key, (many,), np.uint32)}

    def seen(root):
        """How many steps' keys, both words taken together, are numbers that the order is made of."""
        words = jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(root, n)))(np.arange(many))
        return len(order & {int(n) for n in words[:, 0] ^ words[:, 1]})

    assert seen(key) == many, "else folding the key itself would do"
    assert seen(local.dropout_key(key)) == 0


def test_local_steps_are_full_batches_of_the_epochs():
    config = TrainConfig(local_epochs=1.5, batch_size=8)
    counts = np.array([1, 5, 6, 16, 17])
    # ceil(1.5 n / 8)
    assert local.local_steps(counts, config).tolist() == [1, 1, 2, 3, 4]
    thirds = TrainConfig(local_epochs=0.1, batch_size=1)
    assert local.local_steps(np.array([30]), thirds).tolist() == [3]  # not 4 for 0.1 x 30 = 3.0000000000000004
    least = TrainConfig(local_epochs=1e-6, batch_size=10_000)
    assert local.local_steps(np.array([0, 9]), least).tolist() == [0, 1]


@pytest.mark.parametrize("batch_size", [1, 20, 30_000])
def test_room_for_more_examples_than_32_bits_count_is_told_as_it_is(batch_size):
    config = TrainConfig(local_epochs=10_000, batch_size=batch_size)
    assert local.stream_capacity(np.array([300_000, 3], np.int32), config) == 3_000_000_000


def test_masked_candidates_stay_masked_through_a_round(network, dataset, packed, candidates):
    found = probe(network, (2,), check=False)
    keep = (np.array([True, False, True, False]), np.array([False, True, True, False, True, True]))
    masked = found.mask(candidates[0], keep)
    trained = one_round(fleet(network, dataset, packed, 3, 1), [masked] * 3, TASKS)[0]
    inverse = tuple(~k for k in keep)
    for path, leaf in {**trained.params, **trained.stats}.items():
        for axis, dim in enumerate(found.labels[path]):
            if dim is not None:
                removed = np.compress(np.tile(inverse[dim.group], dim.repeat), leaf, axis=axis)
                assert not removed.any(), path
    assert isinstance(trained, Variables)
