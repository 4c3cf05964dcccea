"""Partitions: every example once, no client empty, sizes exact, and the same from the same seed."""

from __future__ import annotations

import hashlib
import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Heterogeneity, Partition, heterogeneity, partition
from fednas_jax.errors import DataError, FednasError

SIZED = ("iid", "dirichlet", "shards")
METHODS = (*SIZED, "label_dirichlet", "classes")
BALANCED = np.arange(6000, dtype=np.int32) % 10
# Method and size_sigma -> hash, as first recorded: a change changes every recorded run.
GOLDEN = {
    ("iid", 0.0): "4f7758397d7ea41e",
    ("iid", 1.0): "148c1d29e5def4b7",
    ("dirichlet", 0.0): "1b0948dd1ef3e88b",
    ("dirichlet", 1.0): "cfc8900536ba290f",
    ("shards", 0.0): "8d47575d498a730f",
    ("shards", 1.0): "b20faaf2fcda9c65",
    ("label_dirichlet", 0.0): "fd1be73afa5a370b",
    ("classes", 0.0): "9cd30523c9b8d7ab",
}


def divide(labels: np.ndarray, seed: int = 0, **fields: Any) -> Partition:
    return partition(labels, DataConfig(**fields), seed)


def differs(divided: Partition, labels: np.ndarray) -> Heterogeneity:
    return heterogeneity(labels[divided.rows], divided.offsets)


@st.composite
def feasible(draw: st.DrawFn) -> tuple[np.ndarray, DataConfig, int]:
    """Labels (skewed, with gaps between class numbers), a config that fits them, and a seed."""
    clients = draw(st.integers(1, 30))
    least = draw(st.integers(1, 6))
    examples = clients * least + draw(st.one_of(st.just(0), st.integers(0, 300)))
    kinds = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**40))
    labels = (kinds * np.random.default_rng(seed).random(examples) ** 3).astype(np.int32) * 3
    config = DataConfig(
        clients=clients,
        partition=draw(st.sampled_from((*SIZED, "label_dirichlet"))),
        alpha=draw(st.sampled_from([1e-300, 1e-6, 1e-2, 0.5, 10, 1e6, 1e300])),
        shards_per_client=draw(st.integers(1, least)),
        **{draw(st.sampled_from(["size_sigma", "size_power"])): draw(st.sampled_from([0, 1e-17, 0.3, 2, 50, 1e308]))},
        min_examples=least,
    )
    return labels, config, seed


@settings(max_examples=200, deadline=None)
@given(feasible())
def test_every_example_is_held_exactly_once_and_no_client_holds_too_few(
    case: tuple[np.ndarray, DataConfig, int],
) -> None:
    labels, config, seed = case
    with np.errstate(invalid="raise", divide="raise"):
        rows, offsets = partition(labels, config, seed)
    assert rows.dtype == offsets.dtype == np.int64
    assert (offsets[0], offsets[-1], len(offsets)) == (0, len(labels), config.clients + 1)
    assert np.diff(offsets).min() >= config.min_examples
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(labels)))
    if config.size_sigma == config.size_power == 0 and config.partition in SIZED:
        assert np.ptp(np.diff(offsets)) <= 1


@settings(max_examples=50, deadline=None)
@given(feasible())
def test_the_same_seed_gives_the_same_partition(case: tuple[np.ndarray, DataConfig, int]) -> None:
    one, two = partition(*case), partition(*case)
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.offsets, two.offsets)


@pytest.mark.parametrize(("method", "sigma"), GOLDEN)
def test_partitions_are_those_recorded(method: str, sigma: float) -> None:
    divided = divide(BALANCED, seed=5, clients=37, partition=method, size_sigma=sigma)
    content = divided.rows.astype("<i8").tobytes() + divided.offsets.astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest()[:16] == GOLDEN[method, sigma]


@pytest.mark.parametrize("method", METHODS)
def test_another_seed_gives_another_partition(method: str) -> None:
    one, two = (divide(BALANCED, seed, partition=method) for seed in (0, 1))
    assert not np.array_equal(one.rows, two.rows)


def test_smaller_alpha_makes_clients_more_different() -> None:
    distances = [
        differs(divide(BALANCED, partition="dirichlet", alpha=alpha), BALANCED).label_distance
        for alpha in (1e6, 10, 1, 0.1, 1e-6)
    ]
    assert distances == sorted(distances)
    assert distances[-1] > 0.85


@pytest.mark.parametrize("labels", [BALANCED, np.repeat([0, 1, 2], [5000, 900, 100])])
def test_huge_alpha_is_as_even_as_iid(labels: np.ndarray) -> None:
    even = differs(divide(labels, partition="iid"), labels).label_distance
    dirichlet = differs(divide(labels, partition="dirichlet", alpha=1e6), labels).label_distance
    assert dirichlet == pytest.approx(even, rel=0.2)


def test_label_mixes_follow_the_dirichlet_distribution() -> None:
    # Var q = a(K a - a) / ((K a)^2 (K a + 1)) = (1/K)(1 - 1/K) / (K a + 1) for the symmetric Dir(a), plus the
    # sampling noise of n examples, which is q(1 - q) / n.
    labels = np.arange(200_000) % 10
    rows, _ = divide(labels, clients=1000, partition="dirichlet", alpha=0.5)
    mixes = np.stack([(labels[rows].reshape(1000, 200) == label).mean(axis=1) for label in range(10)])
    dirichlet = 0.09 / 6
    noise = (0.09 - dirichlet) / 200
    assert mixes.var() == pytest.approx(dirichlet + noise, rel=0.1)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_clients_hold_few_labels_when_dealt_shards(shards: int) -> None:
    rows, offsets = divide(BALANCED, clients=20, partition="shards", shards_per_client=shards)
    # A shard is shorter than a label's stretch, so it straddles two labels at most.
    kinds = [len(np.unique(BALANCED[rows[a:b]])) for a, b in itertools.pairwise(offsets)]
    assert max(kinds) <= 2 * shards


def test_shards_that_fit_the_labels_hold_one_label_each() -> None:
    rows, offsets = divide(BALANCED, clients=10, partition="shards", shards_per_client=1)
    assert all(len(np.unique(BALANCED[rows[a:b]])) == 1 for a, b in itertools.pairwise(offsets))


@pytest.mark.parametrize("method", SIZED)
def test_sizes_spread_as_the_lognormal_says(method: str) -> None:
    labels = np.arange(500_000) % 10
    divided = divide(labels, clients=2000, partition=method, size_sigma=0.8)
    assert np.log(np.diff(divided.offsets)).std() == pytest.approx(0.8, rel=0.1)
    # The Gini coefficient of a lognormal is erf(sigma / 2).
    assert differs(divided, labels).size_gini == pytest.approx(0.4284, rel=0.1)


@pytest.mark.parametrize("method", SIZED)
def test_sizes_follow_the_power_law_in_random_order(method: str) -> None:
    sizes = np.diff(divide(BALANCED, clients=30, partition=method, size_power=1.0).offsets)
    harmonic = (1 / np.arange(1, 31)).sum()
    np.testing.assert_allclose(np.sort(sizes)[::-1], 6000 / harmonic / np.arange(1, 31), atol=1)
    assert not np.array_equal(sizes, np.sort(sizes)[::-1])


def test_the_least_size_is_kept_when_the_spread_is_extreme() -> None:
    for spread in ({"size_sigma": 20}, {"size_power": 20}):
        sizes = np.diff(divide(BALANCED, clients=100, min_examples=7, **spread).offsets)
        assert sizes.sum() == 6000
        assert (np.median(sizes), sizes.min()) == (7, 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clients": 1501}, "data.clients: got 1501, want 1 to 1500: there are 6000 training examples"),
        ({"clients": 0}, "data.clients: got 0, want 1 to 1500"),
        ({"clients": 10, "min_examples": 601}, "data.clients: got 10, want 1 to 9.*data.min_examples is 601"),
        (
            {"partition": "alphabetic"},
            "data.partition: got 'alphabetic', want one of iid, dirichlet, label_dirichlet, shards, classes, natural",
        ),
        (
            {"partition": "shards", "shards_per_client": 151},
            "data.shards_per_client: got 151, want at most 150",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused_by_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(FednasError, match=f"^{message}"):
        divide(BALANCED, **fields)


def test_no_examples_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="there are 0 training examples"):
        divide(BALANCED[:0])


@st.composite
def came_from_clients(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """Offsets of natural clients of whom some hold enough, the least size and a number of clients to take."""
    sizes = np.array(draw(st.lists(st.integers(0, 12), min_size=1, max_size=30)))
    least = draw(st.integers(1, max(1, sizes.max())))
    able = np.count_nonzero(sizes >= least)
    assume(able)
    return np.append(0, np.cumsum(sizes)), least, draw(st.integers(0, able))


@settings(max_examples=200, deadline=None)
@given(came_from_clients(), st.integers(0, 1000))
def test_natural_clients_keep_their_own_examples(case: tuple[np.ndarray, int, int], seed: int) -> None:
    natural, least, clients = case
    config = DataConfig(partition="natural", clients=clients, min_examples=least)
    rows, offsets = partition(np.zeros(natural[-1], np.int32), config, seed, natural)
    assert rows.dtype == offsets.dtype == np.int64
    able = {(a, b) for a, b in itertools.pairwise(natural) if b - a >= least}
    taken = [(rows[a], rows[b - 1] + 1) for a, b in itertools.pairwise(offsets)]
    assert len(set(taken)) == len(taken) == (clients or len(able))
    assert set(taken) <= able
    assert taken == sorted(taken)
    np.testing.assert_array_equal(rows, np.concatenate([np.arange(a, b) for a, b in taken]))


def test_natural_clients_are_drawn_by_seed_each_as_likely() -> None:
    natural = np.arange(0, 81, 4)
    config = DataConfig(partition="natural", clients=5)
    drawn = [partition(BALANCED[:80], config, seed, natural).rows[::4] // 4 for seed in range(2000)]
    np.testing.assert_array_equal(drawn[3], partition(BALANCED[:80], config, 3, natural).rows[::4] // 4)
    # Each of 20 clients is drawn 500 times in the mean, with a standard deviation of 19.
    assert np.abs(np.bincount(np.concatenate(drawn), minlength=20) - 500).max() < 5 * 19


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"clients": 4},
            "data.clients: got 4, want 0 (all) to 2: of the data's 3 clients 2 hold at least data.min_examples, "
            "which is 4",
        ),
        ({"clients": 0, "min_examples": 9}, "data.min_examples: got 9, want at most 7, the most that one of the"),
        ({"clients": -1}, "data.clients: got -1, want 0 (all) to 2"),
    ],
)
def test_natural_clients_that_are_not_there_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        partition(BALANCED[:14], DataConfig(partition="natural", **fields), 0, np.array([0, 3, 7, 14]))
    assert str(error.value).startswith(message)


def test_a_source_without_clients_of_its_own_says_so() -> None:
    with pytest.raises(
        DataError, match=r"^data\.partition: got 'natural', want .*: data.source=digits names no clients"
    ):
        divide(BALANCED, partition="natural")


def test_a_million_natural_clients_are_taken_in_seconds() -> None:
    natural = np.arange(0, 4_000_001, 4)
    labels = np.zeros(4_000_000, np.int32)
    start = time.process_time()
    for clients in (0, 999_999):
        divided = partition(labels, DataConfig(partition="natural", clients=clients), 0, natural)
        assert len(divided.offsets) - 1 == (clients or 1_000_000)
    assert time.process_time() - start < 10


@pytest.mark.parametrize("method", METHODS)
def test_a_million_examples_go_to_ten_thousand_clients_in_seconds(method: str) -> None:
    labels = np.arange(1_000_000, dtype=np.int32) % 10
    start = time.process_time()
    divide(labels, clients=10_000, partition=method, size_sigma=0.5 if method in SIZED else 0.0)
    assert time.process_time() - start < 10
