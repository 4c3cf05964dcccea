"""Ways to deal labelled examples to clients: Dirichlet mixes, shards, a few labels each.

Every function returns example numbers [N] and the client [N] who holds each, and uses every example exactly once.
Letters: C clients, N examples, K different labels.
"""

from __future__ import annotations

import numpy as np

from fednas_jax.data.sizes import apportion
from fednas_jax.errors import DataError

Dealt = tuple[np.ndarray, np.ndarray]

_TRADES = 10  # of each label that a client holds: enough to forget the order in which labels were dealt


def dirichlet(labels: np.ndarray, sizes: np.ndarray, alpha: float, rng: np.random.Generator) -> Dealt:
    """Every client draws a label mix from Dir(alpha * K * overall mix), and its examples by that mix from the stock.

    After Hsu et al. 2019, arXiv 1909.06335. With balanced labels that is the usual symmetric Dir(alpha); with others,
    large alpha tends to the overall mix, which that one cannot. The price of exact sizes is that clients served late
    get what is left. So the order is random, and a mix is tilted towards labels of which more is left than of others:
    without the tilt, the last ten of 100 clients stood out (label distance 0.53, the others 0.36, at alpha 1; with it
    0.40 and 0.36).

    Args:
      labels: [N] class numbers.
      sizes: [C] of clients, together N.
      alpha: above 0; smaller is more heterogeneous.
      rng: where the draws come from.
    """
    order, stock = _by_label(labels, rng)
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
    return order, _owners(held)


def label_dirichlet(labels: np.ndarray, clients: int, least: int, alpha: float, rng: np.random.Generator) -> Dealt:
    """Every label's examples are divided among all clients by shares from the symmetric Dir(alpha); sizes are chance.

    After Yurochkin et al. 2019, arXiv 1905.12022, section 4, and Li et al. 2021, arXiv 2102.02079, section 4.1. They
    draw again until no client has too few, which at small alpha and many clients never ends. Here a client with too few
    is filled up to `least`, by examples drawn from those who have more, from each in proportion to its size.

    Args:
      labels: [N] class numbers, N at least C * least.
      clients: C.
      least: examples that every client holds at least.
      alpha: above 0; smaller is more heterogeneous.
      rng: where the draws come from.
    """
    order, stock = _by_label(labels, rng)
    mixes = _log_mixes(np.full((len(stock), clients), alpha), rng)
    shares = np.exp(mixes - mixes.max(axis=1, keepdims=True))
    ends = np.rint(np.cumsum(shares, axis=1) / shares.sum(axis=1, keepdims=True) * stock[:, None]).astype(np.int64)
    ends[:, -1] = stock
    owners = _owners(np.diff(ends, axis=1, prepend=0).T)
    sizes = np.bincount(owners, minlength=clients)
    want = apportion(sizes, len(labels), least)
    # Each client's examples in random order: those beyond what it keeps go to whoever has too few.
    places = rng.permutation(len(labels))
    places = places[np.argsort(owners[places], kind="stable")]
    within = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    given = rng.permutation(places[within >= want[owners[places]]])
    owners[given] = np.repeat(np.arange(clients), np.maximum(want - sizes, 0))
    return order, owners


def shards(labels: np.ndarray, sizes: np.ndarray, number: int, rng: np.random.Generator) -> Dealt:
    """Examples sorted by label are cut into `number` shards for each client, dealt at random.

    McMahan et al. 2017, arXiv 1602.05629, section 3.

    Args:
      labels: [N] class numbers.
      sizes: [C] of clients, together N.
      number: of a client's shards.
      rng: where the draws come from.

    Raises:
      DataError: a client is too small for so many shards.
    """
    if number > sizes.min():
        raise DataError(f"data.shards_per_client: got {number}, want at most {sizes.min()}, the smallest client's size")
    order, _ = _by_label(labels, rng)
    # A client's shards differ by one example at most and add up to its size: sizes stay exact, nothing is
    # left over.
    lengths = sizes[:, None] // number + (np.arange(number) < (sizes % number)[:, None])
    dealt = rng.permutation(lengths.size)
    return order, np.repeat(dealt // number, lengths.ravel()[dealt])


def classes(labels: np.ndarray, clients: int, least: int, number: int, rng: np.random.Generator) -> Dealt:
    """Every client holds examples of exactly `number` labels; a label's are divided equally among its holders.

    After Li et al. 2021, arXiv 2102.02079, section 4.1 (`#C = k`). There every client draws its labels independently;
    here frequent labels have more holders, in proportion to their examples, so that sizes are as equal as can be, and
    every label has one, so that no example is left over.

    Args:
      labels: [N] class numbers.
      clients: C.
      least: examples that every client must hold at least.
      number: of labels that a client holds.
      rng: where the draws come from.

    Raises:
      DataError: there are fewer labels than that, too few clients to hold all labels, a label with too few examples for
        its holders, or a client would hold fewer than `least`.
    """
    names = np.unique(labels)
    field = f"data.classes_per_client: got {number}"
    if number > len(names):
        raise DataError(f"{field}, want at most {len(names)}, the number of labels in the training examples")
    if number * clients < len(names):
        least_number = -(-len(names) // clients)
        raise DataError(f"{field}, want at least {least_number}: {clients} clients share {len(names)} labels")
    order, stock = _by_label(labels, rng)
    holders = _holders(stock, clients, number)
    if (stock < holders).any():
        few = int(np.argmax(stock < holders))
        why = f"label {names[few]} has {stock[few]} examples, and {holders[few]} of {clients} clients would hold it"
        raise DataError(f"{field}, want fewer: {why}")
    holds = _traded(_matched(holders, clients, number, rng), _TRADES * number, rng)
    # A label's holders in random order: the first ones get what equal parts leave over.
    rank = np.argsort(np.argsort(np.where(holds, rng.random(holds.shape), 2.0), axis=0), axis=0)
    held = holds * (stock // holders + (rank < stock % holders))
    if held.sum(axis=1).min() < least:
        raise DataError(
            f"data.min_examples: got {least}, want at most {held.sum(axis=1).min()}, what the smallest of "
            f"{clients} clients holds with data.classes_per_client={number}"
        )
    return order, _owners(held)


def _by_label(labels: np.ndarray, rng: np.random.Generator) -> Dealt:
    """Example numbers [N] sorted by label, in random order within each; and how many each label has, [K]."""
    order = rng.permutation(len(labels))
    return order[np.argsort(labels[order], kind="stable")], np.unique(labels, return_counts=True)[1]


def _owners(held: np.ndarray) -> np.ndarray:
    """[N] owner of each example in `_by_label`'s order, where client c holds held[c, k] of label k."""
    clients = np.broadcast_to(np.arange(len(held)), held.T.shape)
    return np.repeat(clients.ravel(), held.T.ravel())


def _log_mixes(concentrations: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logarithms of Dirichlet draws, up to a constant in each row; finite however small a concentration is.

    A Dirichlet draw is gammas over their sum, and with a small concentration a all gammas underflow to 0.
    Their logarithms don't: Gamma(a) is Gamma(a + 1) * U^(1/a) (Marsaglia and Tsang 2000).

    Args:
      concentrations: [rows, columns], above 0.
      rng: where the draws come from.
    """
    a = np.clip(concentrations, 1e-300, 1e300)
    uniform = 1 - rng.random(a.shape)  # In (0, 1], so that its logarithm is finite.
    return np.log(rng.standard_gamma(a + 1)) + np.log(uniform) / a


def _holders(stock: np.ndarray, clients: int, number: int) -> np.ndarray:
    """[K] how many clients hold each label: in proportion to its examples, 1 to C, together C * number."""
    holders = np.full(len(stock), clients, np.int64)
    free = np.ones(len(stock), bool)
    while True:
        left = clients * (number - int(np.count_nonzero(~free)))
        shares = apportion(stock[free], left, 1) if free.any() else np.zeros(0, np.int64)
        if not (shares > clients).any():
            holders[free] = shares
            return holders
        free[np.flatnonzero(free)[shares > clients]] = False


def _matched(holders: np.ndarray, clients: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """[C, K] bool: who holds which label, `number` labels a client and holders[k] clients a label.

    Label by label, to the clients who still lack most (Gale 1957, Ryser 1957: that always works out), ties at random.
    """
    holds = np.zeros((clients, len(holders)), bool)
    lacks = np.full(clients, number)
    for label in rng.permutation(len(holders)):
        takers = np.lexsort((rng.random(clients), -lacks))[: holders[label]]
        holds[takers, label] = True
        lacks[takers] -= 1
    return holds


def _traded(holds: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """`holds` after random trades: pairs of clients exchange labels that only one of the two has.

    That keeps every client's and every label's number, and makes all such tables equally likely in the long run (Strona
    et al. 2014, doi 10.1038/ncomms5114), where dealing alone favours some combinations of labels.
    """
    holds = holds.copy()
    pairs = len(holds) // 2
    for _ in range(rounds):
        one, other = rng.permutation(len(holds))[: 2 * pairs].reshape(2, pairs)
        gives, takes = holds[one] & ~holds[other], holds[other] & ~holds[one]  # as many of one as of the other
        draws = rng.random((2, *gives.shape))
        given, taken = np.argmax(np.where([gives, takes], draws, -1.0), axis=2)
        trade = gives.any(axis=1)
        one, other, given, taken = one[trade], other[trade], given[trade], taken[trade]
        holds[one, given] = holds[other, taken] = False
        holds[one, taken] = holds[other, given] = True
    return holds
