"""How much clients differ: in range whatever the partition, and as counted by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.data import heterogeneity, label_counts, sampled_mix


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=1, max_size=9))
def test_heterogeneity_stays_in_its_ranges_and_counts_count_each_example_once(held: list[list[int]]) -> None:
    labels = np.concatenate([np.asarray(client) for client in held])
    offsets = np.append(0, np.cumsum([len(client) for client in held]))
    distance, gini = heterogeneity(labels, offsets)
    assert 0 <= distance < 1
    assert -1e-12 <= gini < 1
    counted = [[client.count(label) for label in range(6)] for client in held]
    assert label_counts(labels, offsets, 6).tolist() == counted


def test_heterogeneity_of_a_hand_made_partition() -> None:
    labels = np.array([0, 0, 0, 1])
    # Mixes (1, 0) and (0, 1) from (3/4, 1/4): distances 1/4 and 3/4. Sizes 3 and 1: Gini 1/4.
    assert heterogeneity(labels, np.array([0, 3, 4])) == (0.5, 0.25)


def test_clients_whose_positions_all_have_no_label_are_like_nobody() -> None:
    labels = np.array([[-1, -1], [0, 1]])
    assert heterogeneity(labels, np.array([0, 1, 2])) == (0.25, 0)
    assert heterogeneity(labels[:1], np.array([0, 1])) == (0, 0)


def test_many_clients_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, offsets = rng.integers(0, 7, 500), np.append(0, np.sort(rng.choice(np.arange(1, 501), 40, replace=False)))
    labels = labels[: offsets[-1]]
    whole = heterogeneity(labels, offsets)
    monkeypatch.setattr(sys.modules["fednas_jax.data.label_mixes"], "_BLOCK", 7)  # the name is a function's too
    np.testing.assert_allclose(heterogeneity(labels, offsets), whole, rtol=1e-12)


def test_a_sampled_mix_is_of_clients_evenly_from_large_to_small() -> None:
    sizes = np.arange(1, 1001)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    labels = np.random.default_rng(0).integers(0, 10, offsets[-1])
    found = sampled_mix(labels, offsets, 10)
    assert len(found["sizes"]) == len(found["counts"]) == 200
    assert (found["sizes"][0], found["sizes"][-1]) == (1000, 1)
    assert [sum(row) for row in found["counts"]] == found["sizes"] == sorted(found["sizes"], reverse=True)
    own = labels[offsets[999] : offsets[1000]]
    assert found["counts"][0] == np.bincount(own, minlength=10).tolist()
    assert len(sampled_mix(labels, offsets, 1000)["counts"]) == 4
    assert sampled_mix(labels, offsets, 5000)["counts"] == []
