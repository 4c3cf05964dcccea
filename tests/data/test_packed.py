"""Packed clients: training and validation are disjoint and complete, however clients are merged or cut."""

from __future__ import annotations

import hashlib

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax.config.schema import DataConfig
from fednas_jax.data import Examples, PackedClients, Partition, chunks, merge, normalise, pack, partition
from fednas_jax.errors import DataError

# Labels of the test below, as first recorded: a change changes every recorded run.
GOLDEN = "41dff73de4f6ecab"


def numbered(total: int) -> Examples:
    """Examples whose label is their number, and whose image holds the same number."""
    numbers = np.arange(total)
    images = np.stack([numbers % 256, numbers // 256], axis=1).astype(np.uint8)[:, :, None, None]
    return Examples(images, numbers.astype(np.int32))


def parts(packed: PackedClients) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every client's labels for training and for validation."""
    starts = zip(packed.offsets, packed.offsets[1:], packed.train_count, strict=False)
    return [(packed.labels[a : a + t], packed.labels[a + t : b]) for a, b, t in starts]


@st.composite
def divided(draw: st.DrawFn) -> tuple[Examples, Partition, float, int]:
    clients = draw(st.integers(1, 20))
    examples = numbered(2 * clients + draw(st.integers(0, 200)))
    config = DataConfig(clients=clients, min_examples=2, size_sigma=draw(st.sampled_from([0, 1.5])))
    seed = draw(st.integers(0, 1000))
    validation = draw(st.floats(0.001, 0.999))
    return examples, partition(examples.labels, config, seed), validation, seed


@settings(max_examples=100, deadline=None)
@given(divided())
def test_each_client_keeps_its_own_examples_divided_in_two(
    case: tuple[Examples, Partition, float, int],
) -> None:
    examples, owned, validation, seed = case
    packed = pack(examples, owned, validation, seed)
    assert packed.offsets.dtype == np.int64
    assert packed.train_count.dtype == packed.val_count.dtype == np.int32
    assert packed.clients == len(owned.offsets) - 1
    for client, (train, held_out) in enumerate(parts(packed)):
        mine = owned.rows[owned.offsets[client] : owned.offsets[client + 1]]
        np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.sort(mine))
        assert min(len(train), len(held_out)) >= 1
        assert len(held_out) == np.clip(round(len(mine) * validation), 1, len(mine) - 1)
        assert len(held_out) == packed.val_count[client]


@settings(max_examples=50, deadline=None)
@given(divided())
def test_images_stay_with_their_labels(case: tuple[Examples, Partition, float, int]) -> None:
    packed = pack(*case)
    for clients in (packed, merge(packed), chunks(Examples(packed.inputs, packed.labels), 7)):
        np.testing.assert_array_equal(
            clients.inputs[:, 0, 0, 0] + 256 * clients.inputs[:, 1, 0, 0].astype(int), clients.labels
        )


@settings(max_examples=50, deadline=None)
@given(divided())
def test_the_merged_client_has_exactly_the_division_of_the_clients(
    case: tuple[Examples, Partition, float, int],
) -> None:
    packed = pack(*case)
    merged = merge(packed)
    assert merged.clients == 1
    (train, held_out) = parts(merged)[0]
    each = parts(packed)
    np.testing.assert_array_equal(train, np.concatenate([t for t, _ in each]))
    np.testing.assert_array_equal(held_out, np.concatenate([v for _, v in each]))
    again = merge(merged)
    np.testing.assert_array_equal(again.labels, merged.labels)


def test_a_clients_division_is_random_by_seed_and_reproducible() -> None:
    examples = numbered(200)
    owned = partition(examples.labels, DataConfig(clients=5), seed=0)
    one, same, other = (pack(examples, owned, 0.2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.labels, same.labels)
    assert not np.array_equal(one.labels, other.labels)
    assert hashlib.sha256(one.labels.astype("<i4").tobytes()).hexdigest()[:16] == GOLDEN


def test_packing_takes_only_the_examples_of_the_partition() -> None:
    packed = pack(numbered(10), Partition(np.array([7, 3, 9, 1]), np.array([0, 2, 4])), 0.5, seed=0)
    assert sorted(packed.labels[:2]) == [3, 7]
    assert sorted(packed.labels[2:]) == [1, 9]


def test_a_client_with_one_example_is_refused_by_number() -> None:
    with pytest.raises(DataError, match=r"data\.min_examples: client 1 holds 1 examples, want at least 2"):
        pack(numbered(3), Partition(np.arange(3), np.array([0, 2, 3])), 0.5, seed=0)


@pytest.mark.parametrize(
    ("total", "size", "offsets"),
    [(10, 4, [0, 4, 8, 10]), (8, 4, [0, 4, 8]), (3, 4, [0, 3]), (1, 1, [0, 1])],
)
def test_a_test_split_is_cut_into_clients_that_only_validate(total: int, size: int, offsets: list[int]) -> None:
    examples = numbered(total)
    cut = chunks(examples, size)
    np.testing.assert_array_equal(cut.offsets, offsets)
    np.testing.assert_array_equal(cut.train_count, [0] * (len(offsets) - 1))
    assert cut.val_count.sum() == total
    np.testing.assert_array_equal(cut.inputs, examples.inputs)


def test_chunks_of_no_size_are_refused() -> None:
    with pytest.raises(DataError, match="chunks: got size 0, want at least 1"):
        chunks(numbered(3), 0)


def test_normalised_training_images_have_mean_zero_and_deviation_one_in_every_channel() -> None:
    images = np.random.default_rng(0).integers(0, 200, (50, 4, 4, 3), dtype=np.uint8)
    scaled = images / 255
    mean, std = (tuple(f(axis=(0, 1, 2)).tolist()) for f in (scaled.mean, scaled.std))
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        out = jax.jit(normalise, static_argnums=(1, 2))(images, mean, std)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, (scaled - mean) / std, atol=1e-5)
    np.testing.assert_allclose(np.asarray(out).mean(axis=(0, 1, 2)), 0, atol=1e-5)
