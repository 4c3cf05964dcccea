"""How the server brings clients' updates together: `train.aggregation`.

A choice is a function of the arguments that stand in the config's text, and gives an `Aggregation`. `mean` and
`clipped_mean` are sums that lanes add to as they finish. The others need all updates of a candidate at once, which the
devices keep until the round's end. Letters: n updates of one candidate, places without one included.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.registries import AGGREGATIONS
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt
from fednas_jax.space.network import RUN_ONCE, Variables

LEAST_NORM, MOST_NORM = 1e-9, 1e9  # that updates are scaled to, as those of `train.update_bound`
EXACT = 1e-6  # share by which float32 may miss a whole number of clients: 0.29 x 100


class Aggregation(NamedTuple):
    """What happens to updates on the way from clients to the server's optimiser. Traced by jax."""

    alone: Callable[[Variables], Variables] | None = None
    """An update -> the update that is averaged in its place."""
    together: Callable[[Variables, jax.Array, jax.Array], Variables] | None = None
    """(updates [n, ...], examples [n] float32, real [n] bool) -> one update; None: their mean, weighted by examples.
    Updates that are not real are 0: a place that no client has, or one that was left out. At least one is real where
    the result is used."""


def mean() -> Aggregation:
    """The mean, weighted by examples: FedAvg."""
    return Aggregation()


def clipped_mean(norm: float = 10.0) -> Aggregation:
    """The mean of updates that are scaled down to a norm, where theirs is larger.

    Args:
      norm: of an update's parameters, all together (Sun et al. 2019, arXiv 1911.07963, section 4.1).

    Raises:
      ConfigError: norm beyond what a float32 takes.
    """
    if not LEAST_NORM <= norm <= MOST_NORM:
        want = f"want above 0, {LEAST_NORM:g} to {MOST_NORM:g}"
        raise ConfigError(f"train.aggregation: got clipped_mean(norm={norm}), {want}")

    def clip(update: Variables) -> Variables:
        factor = norm / jnp.maximum(update_norm(update), norm)
        return jax.tree.map(lambda u: factor * u, update)

    return Aggregation(alone=clip)


def median() -> Aggregation:
    """The median of every coordinate; of an even number the mean of the middle two; examples do not weigh.

    After Yin et al. 2018, arXiv 1803.01498, algorithm 1, option I.
    """

    def together(updates: Variables, examples: jax.Array, real: jax.Array) -> Variables:
        del examples
        number = real.sum()

        def middle(values: jax.Array) -> jax.Array:
            ordered = _ordered(values, real)
            return (ordered[(number - 1) // 2] + ordered[number // 2]) / 2

        return jax.tree.map(middle, updates)

    return Aggregation(together=together)


def trimmed_mean(share: float = 0.1) -> Aggregation:
    """The mean of every coordinate without the `share` of clients at either end; examples do not weigh.

    After Yin et al. 2018, arXiv 1803.01498, algorithm 1, option II.

    Args:
      share: beta; of n values, floor(share x n) are cut off at each end.

    Raises:
      ConfigError: share not from 0 to below a half.
    """
    if not 0 <= share < 0.5:
        raise ConfigError(f"train.aggregation: got trimmed_mean(share={share}), want at least 0 and below 0.5")

    def together(updates: Variables, examples: jax.Array, real: jax.Array) -> Variables:
        del examples
        number = real.sum()
        # Somebody is left, even of a share that float32 rounds to a half.
        cut = jnp.minimum(jnp.floor(share * number * (1 + EXACT)).astype(jnp.int32), (number - 1) // 2)
        rank = jnp.arange(len(real))
        kept = (rank >= cut) & (rank < number - cut)

        def middle(values: jax.Array) -> jax.Array:
            mask = kept.reshape(-1, *[1] * (values.ndim - 1))
            return jnp.where(mask, _ordered(values, real), 0).sum(0) / jnp.maximum(number - 2 * cut, 1)

        return jax.tree.map(middle, updates)

    return Aggregation(together=together)


def krum(malicious: float = 0.2, multi: bool = False) -> Aggregation:
    """The update that lies nearest to its neighbours, or the mean of as many such as are taken to be honest.

    After Blanchard et al. 2017, "Machine learning with adversaries", section 4: of n clients of whom f are malicious,
    an update's score is the sum of its squared distances to the n - f - 2 nearest others, and the smallest score wins;
    Multi-Krum takes the mean of the n - f best. Distances are those of the parameters. Its promise needs n > 2 f + 2.

    Args:
      malicious: share of the clients; f is that share of n, rounded up.
      multi: Multi-Krum.

    Raises:
      ConfigError: malicious not from 0 to below a half.
    """
    if not 0 <= malicious < 0.5:
        raise ConfigError(f"train.aggregation: got krum(malicious={malicious}), want at least 0 and below 0.5")

    def together(updates: Variables, examples: jax.Array, real: jax.Array) -> Variables:
        del examples
        number = real.sum()
        others = jnp.ceil(malicious * number * (1 - EXACT)).astype(jnp.int32)  # f
        distance = sum(map(_distances, jax.tree.leaves(updates.params)))  # [n, n]
        pair = real[:, None] & real[None, :] & ~jnp.eye(len(real), dtype=bool)
        nearest = jnp.sort(jnp.where(pair, distance, jnp.inf), axis=1)
        counted = jnp.arange(len(real)) < jnp.clip(number - others - 2, 1, jnp.maximum(number - 1, 1))
        scores = jnp.where(counted & jnp.isfinite(nearest), nearest, 0).sum(1)
        rank = jnp.argsort(jnp.argsort(jnp.where(real, scores, jnp.inf)))
        chosen = (rank < (jnp.maximum(number - others, 1) if multi else 1)) & real
        share = chosen / jnp.maximum(chosen.sum(), 1)
        return jax.tree.map(lambda u: jnp.tensordot(share.astype(u.dtype), u, 1, precision="highest"), updates)

    return Aggregation(together=together)


def aggregation_of(text: str, update: Variables) -> Aggregation:
    """The aggregation that a config names, tried on an update's shapes.

    Args:
      text: of the config.
      update: abstract.

    Raises:
      ConfigError: there is none such, not with these arguments, or it gives no update; or one of the user's own looks
        at places that hold none.
    """
    what = f"train.aggregation: got {text!r}"
    chosen = AGGREGATIONS.get(text)()
    if not isinstance(chosen, Aggregation):
        raise ConfigError(f"{what}, which gives a {type(chosen).__name__}, want an Aggregation")
    number = 4
    some = jax.tree.map(lambda a: jax.ShapeDtypeStruct((number, *a.shape), a.dtype), update)
    each = (jax.ShapeDtypeStruct((number,), jnp.float32), jax.ShapeDtypeStruct((number,), jnp.bool_))
    calls = ((chosen.alone, (update,)), (chosen.together, (some, *each)))
    for call, arguments in calls:
        if call is not None:
            found: Any = attempt(what, None, functools.partial(jax.eval_shape, call, *arguments))
            if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, update):
                raise ConfigError(f"{what}, whose result has another form, want that of one update")
    if chosen.together is not None and AGGREGATIONS.checksum(text) is not None:
        attempt(what, None, functools.partial(_try, what, chosen.together, update))
    return chosen


def _try(what: str, together: Callable[..., Variables], update: Variables) -> None:
    """Brings three made-up updates together, of few entries, with one place left and with five."""
    rng = np.random.default_rng(0)
    three = jax.tree.map(lambda a: rng.normal(size=(3, *(min(n, 2) for n in a.shape))).astype(a.dtype), update)
    examples = np.array([1, 5, 2], np.float32)

    def among(places: int) -> Variables:
        more = functools.partial(jax.tree.map, lambda a: np.pad(a, ((0, places - 3), *[(0, 0)] * (a.ndim - 1))))
        result: Variables = jax.jit(together, compiler_options=RUN_ONCE)(*more((three, examples, np.ones(3, bool))))
        return result

    pairs = zip(*map(jax.tree.leaves, (among(4), among(8))), strict=True)
    if not all(np.allclose(one, other, rtol=1e-4, atol=1e-6) for one, other in pairs):
        raise ConfigError(f"{what}, whose result depends on places without an update, want what is not real left out")


def update_norm(update: Variables) -> jax.Array:
    """The norm of an update's parameters, all together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(update.params)))


def bytes_kept(update: Variables, places: int, most: int) -> int:
    """Bytes that a device needs to keep updates, and to bring those of one candidate together.

    Args:
      update: abstract.
      places: updates that the device keeps.
      most: updates of a candidate: gathered from all devices, ordered, and what lies between.
    """
    size = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(update))
    return size * (places + 3 * most)


def _ordered(values: jax.Array, real: jax.Array) -> jax.Array:
    """[n, ...] every coordinate's values from small to large, infinity last where there is none."""
    return jnp.sort(jnp.where(real.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.inf), axis=0)


def _distances(values: jax.Array) -> jax.Array:
    """[n, n] squared distances of [n, ...], by differences: products would lose what is small."""
    flat = values.reshape(len(values), -1)
    return jax.lax.map(lambda one: jnp.square(flat - one).sum(1), flat)
