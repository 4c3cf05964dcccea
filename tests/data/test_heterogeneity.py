"""How much clients differ: in range whatever the partition, and as counted by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.data import Partition, heterogeneity, label_counts


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=9))
def test_heterogeneity_stays_in_its_ranges_and_counts_count_each_example_once(held: list[list[int]]) -> None:
    labels = np.concatenate([np.asarray(client) for client in held])[::-1]
    offsets = np.append(0, np.cumsum([len(client) for client in held]))
    divided = Partition(np.arange(len(labels))[::-1], offsets)
    distance, gini = heterogeneity(divided, labels)
    assert 0 <= distance < 1
    assert -1e-12 <= gini < 1
    names = np.unique(labels)
    assert label_counts(divided, labels).tolist() == [[client.count(name) for name in names] for client in held]


def test_heterogeneity_of_a_hand_made_partition() -> None:
    labels = np.array([0, 0, 0, 1])
    divided = Partition(np.array([0, 1, 2, 3]), np.array([0, 3, 4]))
    # Mixes (1, 0) and (0, 1) from (3/4, 1/4): distances 1/4 and 3/4. Sizes 3 and 1: Gini 1/4.
    assert heterogeneity(divided, labels) == (0.5, 0.25)
