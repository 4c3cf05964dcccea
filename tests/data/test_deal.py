"""Dealing by labels: as many a client as asked for, each divided as drawn, and refusals that name the field."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Partition, heterogeneity, label_counts, partition
from fednas_jax.data.deal import label_dirichlet
from fednas_jax.errors import DataError

BALANCED = np.arange(6000, dtype=np.int32) % 10


def by_classes(labels: np.ndarray, clients: int, number: int, seed: int = 0, least: int = 2) -> Partition:
    config = DataConfig(partition="classes", clients=clients, classes_per_client=number, min_examples=least)
    return partition(labels, config, seed)


def counted(divided: Partition, labels: np.ndarray) -> np.ndarray:
    return label_counts(labels[divided.rows], divided.offsets)


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 20), st.integers(1, 12), st.integers(0, 999)
)
def test_every_client_holds_exactly_so_many_labels_or_the_field_is_named(
    stock: list[int], clients: int, number: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(3 * np.arange(len(stock)), stock))
    try:
        divided = by_classes(labels, clients, number, seed)
    except DataError as error:
        message = str(error)
        assert message.startswith(("data.classes_per_client: got ", "data.min_examples: got ", "data.clients: got "))
        assert ", want " in message
        assert "\n" not in message
        return
    np.testing.assert_array_equal(np.sort(divided.rows), np.arange(len(labels)))
    counts = counted(divided, labels)
    assert (np.count_nonzero(counts, axis=1) == number).all()
    assert counts.sum(axis=1).min() >= 2
    for label in counts.T:  # divided equally among its holders
        assert not label.any() or np.ptp(label[label > 0]) <= 1
    np.testing.assert_array_equal(by_classes(labels, clients, number, seed).rows, divided.rows)


@pytest.mark.parametrize("number", [1, 2, 3, 10])
def test_balanced_labels_give_equal_sizes(number: int) -> None:
    divided = by_classes(BALANCED, 20, number)
    assert np.ptp(np.diff(divided.offsets)) <= number
    assert heterogeneity(BALANCED[divided.rows], divided.offsets).label_distance == pytest.approx(
        1 - number / 10, abs=0.01
    )


def test_frequent_labels_have_more_holders_so_that_sizes_stay_alike() -> None:
    labels = np.repeat([0, 1, 2, 3], [4000, 1000, 500, 500])
    counts = counted(by_classes(labels, 60, 1), labels)
    assert np.count_nonzero(counts, axis=0).tolist() == [40, 10, 5, 5]
    assert set(counts.sum(axis=1).tolist()) == {100}


def test_every_pair_of_labels_is_as_likely() -> None:
    """1,000 clients of two of ten labels: each of 45 pairs 22 times in the mean, with a standard deviation below 5."""
    counts = counted(by_classes(BALANCED, 1000, 2), BALANCED)
    pairs = Counter(tuple(np.flatnonzero(row)) for row in counts)
    assert len(pairs) == 45
    assert max(pairs.values()) - min(pairs.values()) < 30


@pytest.mark.parametrize(
    ("clients", "number", "least", "message"),
    [
        (5, 11, 2, "data.classes_per_client: got 11, want at most 10, the number of labels in the training examples"),
        (4, 2, 2, "data.classes_per_client: got 2, want at least 3: 4 clients share 10 labels"),
        (1500, 1, 5, "data.clients: got 1500, want 1 to 1200: there are 6000 training examples"),
        (7, 2, 800, "data.min_examples: got 800, want at most "),
    ],
)
def test_what_labels_do_not_allow_is_refused_by_field(clients: int, number: int, least: int, message: str) -> None:
    with pytest.raises(DataError) as error:
        by_classes(BALANCED, clients, number, least=least)
    assert str(error.value).startswith(message)


def test_a_label_with_too_few_examples_for_its_holders_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^data\.classes_per_client: got 2, want fewer: label 1 has 9 examples, and 20"
    ):
        by_classes(np.repeat([0, 1], [991, 9]), 20, 2)


def test_shares_of_each_label_follow_the_dirichlet_distribution() -> None:
    """Var of a share of Dir(a) over C clients is (1/C)(1 - 1/C) / (C a + 1); rounding is too fine to show."""
    labels = np.arange(400_000) % 40
    order, owners = label_dirichlet(labels, 20, 1, 0.5, np.random.default_rng(0))
    shares = np.bincount(labels[order] * 20 + owners).reshape(40, 20) / 10_000
    assert shares.var() == pytest.approx(0.05 * 0.95 / 11, rel=0.15)


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 0.1])
def test_clients_with_too_few_are_filled_up_by_those_who_have_more(alpha: float) -> None:
    config = DataConfig(partition="label_dirichlet", clients=300, alpha=alpha, min_examples=9)
    sizes = np.diff(partition(BALANCED, config, 3).offsets)
    assert sizes.min() == 9
    assert sizes.sum() == 6000
    assert sizes.max() > 100
