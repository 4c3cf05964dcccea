"""Which client holds which examples: iid, by Dirichlet label mixes, by shards or as they came; and how uneven that is.

Letters: C clients, N examples, K different labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fednas_jax.config import DataConfig
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator


class Partition(NamedTuple):
    """The examples of every client; no example is held twice, no client is empty."""

    rows: np.ndarray
    """[N] int64 example numbers, client after client."""
    offsets: np.ndarray
    """[C + 1] int64: client c holds rows[offsets[c]:offsets[c + 1]]."""


class Heterogeneity(NamedTuple):
    """How much clients differ."""

    label_distance: float
    """Mean total-variation distance of clients' label mixes from the overall one: 0 (all alike) to 1."""
    size_gini: float
    """Gini coefficient of client sizes: 0 (all equal) to nearly 1 (one client holds almost everything)."""


def partition(labels: np.ndarray, config: DataConfig, seed: int, natural: np.ndarray | None = None) -> Partition:
    """Divides all examples among `config.clients` clients, or takes as many of the clients that the data came from.

    Where they are divided, first come the sizes: equal to within one, or lognormal (`size_sigma`) with at least
    `min_examples` each. They are exact and add up to N, whatever the method:

    - iid: examples in random order.
    - dirichlet: each client draws a label mix from Dir(alpha * K * overall mix) and its examples by that mix
      from what is left in stock (after Hsu et al. 2019, arXiv 1909.06335). With balanced labels that is the
      usual symmetric Dir(alpha); with others, large alpha tends to the overall mix, which that one cannot.
      Dividing every label among clients instead, as is also done, leaves sizes to chance and clients empty at
      small alpha. The price is that clients served late get what is left. So the order is random, and a mix
      is tilted towards labels of which more is left than of others: without the tilt, the last ten of 100
      clients stood out (label distance 0.53, the others 0.36, at alpha 1; with it 0.40 and 0.36).
    - shards: examples sorted by label are cut into `shards_per_client` shards for each client, dealt at
      random (McMahan et al. 2017, arXiv 1602.05629, section 3).

    And the one that divides nothing:

    - natural: the clients that the data came from, with their own examples; `clients` of them, drawn at random
      without replacement from those who hold at least `min_examples`, or all of those (0), in the data's order.

    Args:
      labels: [N] class numbers.
      config: clients, partition, alpha, shards_per_client, size_sigma, min_examples; validated.
      seed: of the run; the same seed gives the same partition on every machine.
      natural: [clients + 1] int64 `Dataset.natural`: where the rows of the clients that the data came from begin.

    Returns:
      A partition which uses every example exactly once; natural, every example of the clients taken.

    Raises:
      DataError: when there are too few examples or too few natural clients, or an unknown method; names the
        field, the value got and wanted.
    """
    rng = generator(seed, Purpose.PARTITION)
    if config.partition == "natural":
        return _natural(natural, config, rng)
    sizes = _sizes(len(labels), config, rng)
    if config.partition == "iid":
        order, owners = rng.permutation(len(labels)), np.repeat(np.arange(len(sizes)), sizes)
    elif config.partition == "dirichlet":
        order, owners = _dirichlet(labels, sizes, config.alpha, rng)
    elif config.partition == "shards":
        order, owners = _shards(labels, sizes, config.shards_per_client, rng)
    else:
        raise DataError(f"data.partition: got {config.partition!r}, want iid, dirichlet, shards or natural")
    rows = order[np.argsort(owners, kind="stable")]
    return Partition(rows.astype(np.int64), _offsets(sizes))


def heterogeneity(divided: Partition, labels: np.ndarray) -> Heterogeneity:
    """Measures how much clients differ in label mix and in size.

    Args:
      divided: a partition of the examples (all of them, or some).
      labels: [N] class numbers of all examples.
    """
    sizes = np.diff(divided.offsets)
    names, found = np.unique(labels[divided.rows], return_inverse=True)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(owners * len(names) + found, minlength=len(sizes) * len(names))
    mixes = counts.reshape(len(sizes), len(names)) / sizes[:, None]
    overall = np.bincount(found) / len(found)
    distance = 0.5 * np.abs(mixes - overall).sum(axis=1)
    # G = sum_i (2i - C - 1) x_i / (C sum x), x ascending, i from 1.
    weights = 2 * np.arange(1, len(sizes) + 1) - len(sizes) - 1
    return Heterogeneity(float(distance.mean()), float(weights @ np.sort(sizes) / (len(sizes) * sizes.sum())))


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """[C + 1] int64: where clients of these sizes [C] begin, and where the last ends."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _natural(natural: np.ndarray | None, config: DataConfig, rng: np.random.Generator) -> Partition:
    """The data's own clients: those who hold enough, as many as asked for, in the data's order."""
    if natural is None:
        raise DataError(
            f"data.partition: got 'natural', want iid, dirichlet or shards: "
            f"data.source={config.source} names no clients of its own"
        )
    sizes = np.diff(natural)
    able = np.flatnonzero(sizes >= max(1, config.min_examples))
    if not len(able) or not 0 <= config.clients <= len(able):
        raise DataError(
            f"data.clients: got {config.clients}, want 0 (all) to {len(able)}: of the data's {len(sizes)} clients "
            f"{len(able)} hold at least data.min_examples, which is {config.min_examples}"
        )
    taken = able[np.sort(rng.permutation(len(able))[: config.clients])] if config.clients else able
    offsets = _offsets(sizes[taken])
    rows = np.repeat(natural[taken] - offsets[:-1], sizes[taken])
    rows += np.arange(len(rows))
    return Partition(rows, offsets)


def _sizes(examples: int, config: DataConfig, rng: np.random.Generator) -> np.ndarray:
    """[C] int64 client sizes: each at least `min_examples` (and 1), together exactly `examples`."""
    clients, least = config.clients, max(1, config.min_examples)
    if not 1 <= clients <= examples // least:
        raise DataError(
            f"data.clients: got {clients}, want 1 to {examples // least}: "
            f"there are {examples} training examples and data.min_examples is {config.min_examples}"
        )
    if config.size_sigma == 0 or examples == clients * least:
        return examples // clients + (np.arange(clients) < examples % clients).astype(np.int64)
    normal = rng.standard_normal(clients)
    # Relative to the largest, and bounded: no exponent overflows, however large sigma is.
    weights = np.exp(min(config.size_sigma, 1e300) * (normal - normal.max()))
    # Sizes in proportion to the weights, but `least` where that is more. Raising some takes from the others,
    # which may then fall below in turn: repeat until none does. The largest client never falls below, since
    # here there is more to give than the least sizes.
    raised = np.zeros(clients, bool)
    while True:
        left = examples - least * np.count_nonzero(raised)
        shares = np.where(raised, least, left * (weights / weights[~raised].sum()))
        low = shares < least
        if not low.any():
            break
        raised |= low
    sizes = np.floor(shares).astype(np.int64)
    # Whole numbers by the largest remainder.
    largest = np.argsort(sizes - shares, kind="stable")[: examples - sizes.sum()]
    sizes[largest] += 1
    assert sizes.sum() == examples
    return sizes


def _dirichlet(
    labels: np.ndarray, sizes: np.ndarray, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Example numbers [N] and the client [N] who holds each, drawn by every client's label mix."""
    order = rng.permutation(len(labels))
    _, kinds, stock = np.unique(labels[order], return_inverse=True, return_counts=True)
    order = order[np.argsort(kinds, kind="stable")]
    mixes = _log_mixes(np.tile(alpha * stock / stock.mean(), (len(sizes), 1)), rng)
    held = np.zeros((len(sizes), len(stock)), np.int64)
    at_first = stock.copy()
    for client in rng.permutation(len(sizes)):
        # Every pass fills the client or uses up the stock of a label, so there are at most K passes.
        while missing := sizes[client] - held[client].sum():
            tilted = mixes[client] + np.log(np.maximum(stock, 1) / at_first)
            tilted[stock == 0] = -np.inf
            mix = np.exp(tilted - tilted.max())
            drawn = np.minimum(rng.multinomial(missing, mix / mix.sum()), stock)
            held[client] += drawn
            stock -= drawn
    clients = np.broadcast_to(np.arange(len(sizes)), held.T.shape)
    return order, np.repeat(clients.ravel(), held.T.ravel())


def _log_mixes(concentrations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logarithms of Dirichlet draws, up to a constant in each row; finite however small a concentration is.

    A Dirichlet draw is gammas over their sum, and with a small concentration a all gammas underflow to 0.
    Their logarithms don't: Gamma(a) is Gamma(a + 1) * U^(1/a) (Marsaglia and Tsang 2000).

    Args:
      concentrations: [C, K], above 0.
      rng: where the draws come from.
    """
    a = np.clip(concentrations, 1e-300, 1e300)
    uniform = 1 - rng.random(a.shape)  # In (0, 1], so that its logarithm is finite.
    return np.log(rng.standard_gamma(a + 1)) + np.log(uniform) / a


def _shards(
    labels: np.ndarray, sizes: np.ndarray, shards: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Example numbers [N] in label order and the client [N] who holds each: shards, dealt at random."""
    if shards > sizes.min():
        raise DataError(f"data.shards_per_client: got {shards}, want at most {sizes.min()}, the smallest client's size")
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    # A client's shards differ by one example at most and add up to its size: sizes stay exact, nothing is
    # left over.
    lengths = sizes[:, None] // shards + (np.arange(shards) < (sizes % shards)[:, None])
    dealt = rng.permutation(lengths.size)
    return order, np.repeat(dealt // shards, lengths.ravel()[dealt])
