"""What a network's score is: `search.metric`.

A choice is a function of the arguments that stand in the config's text. It gives a `Metric`: counts that clients add
up, and the score that they make. So a client sends counts, never predictions. Where every position has a label, B
counts positions, and those without one are not real. Letters: B batch, C classes, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.registries import METRICS
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt
from fednas_jax.space.network import RUN_ONCE

BINS = 4096  # of the histograms that AUC is computed from


class Metric(NamedTuple):
    """A score in two halves."""

    statistics: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    """(logits [B, C] float32, labels [B] int32, real [B] bool) -> integers of a shape that depends on C alone, which
    add up over examples; those that are not real count nothing. Traced by jax."""
    value: Callable[[np.ndarray], Any]
    """Sums of these [K, ...] int64 -> [K] scores, larger is better. Plain numpy; a division by 0 may give NaN."""


def accuracy() -> Metric:
    """Share of the examples whose largest logit is their label's."""

    def statistics(logits: jax.Array, labels: jax.Array, real: jax.Array) -> jax.Array:
        right = (jnp.argmax(logits, -1) == labels) & real
        return jnp.stack([right.sum(dtype=jnp.int32), real.sum(dtype=jnp.int32)])

    return Metric(statistics, lambda counts: counts[:, 0] / counts[:, 1])


def balanced_accuracy() -> Metric:
    """Mean over the labels that occur of the share of their examples that are recognised."""

    def value(counts: np.ndarray) -> np.ndarray:
        right, labelled, _ = np.moveaxis(counts, 1, 0)
        return _mean(right / np.maximum(labelled, 1), labelled > 0)

    return Metric(_by_class, value)


def macro_f1() -> Metric:
    """Mean over the classes that occur, as a label or a prediction, of F1 = 2 right / (labelled + predicted)."""

    def value(counts: np.ndarray) -> np.ndarray:
        right, labelled, predicted = np.moveaxis(counts, 1, 0)
        either = labelled + predicted
        return _mean(2 * right / np.maximum(either, 1), either > 0)

    return Metric(_by_class, value)


def auc() -> Metric:
    """Probability that an example of class 1 has a larger logit difference than one of class 0; ties count half.

    From a histogram of the difference d for each label, 4,096 bins of equal width in d / (1 + |d|). Examples in one bin
    count as ties, so AUC is wrong by at most half the share of pairs, one of each class, that lie in one bin together.

    Raises:
      ConfigError: there are not two classes.
    """

    def statistics(logits: jax.Array, labels: jax.Array, real: jax.Array) -> jax.Array:
        if logits.shape[-1] != 2:
            raise ConfigError(f"search.metric: got auc with {logits.shape[-1]} classes, want 2")
        difference = logits[:, 1] - logits[:, 0]
        squashed = difference / (1 + jnp.abs(difference))
        bin_ = jnp.clip((squashed + 1) * (BINS / 2), 0, BINS - 1).astype(jnp.int32)
        return jnp.zeros((2, BINS), jnp.int32).at[labels, bin_].add(real.astype(jnp.int32))

    def value(counts: np.ndarray) -> np.ndarray:
        negative, positive = counts[:, 0].astype(float), counts[:, 1].astype(float)  # [K, BINS]
        below = np.cumsum(negative, -1) - negative / 2
        return (positive * below).sum(-1) / (positive.sum(-1) * negative.sum(-1))

    return Metric(statistics, value)


def metric_of(text: str, classes: int) -> Metric:
    """The metric that a config names, tried on a batch's shapes.

    Raises:
      ConfigError: there is none such, not with these arguments, or not of so many classes; or one of the user's own
        counts what is not real, or scores networks otherwise together than alone.
    """
    what, metric = f"search.metric: got {text!r}", METRICS.get(text)()
    if not isinstance(metric, Metric):
        raise ConfigError(f"{what}, which gives a {type(metric).__name__}, want a Metric")
    found = attempt(what, None, lambda: statistics_shape(metric, classes))
    if not hasattr(found, "dtype") or not jnp.issubdtype(found.dtype, jnp.integer):
        raise ConfigError(f"{what}, whose statistics are {found}, want one array of integers")
    if METRICS.checksum(text) is not None:
        attempt(what, None, lambda: _try(text, metric, classes))
    return metric


def scores(text: str, metric: Metric, counts: np.ndarray) -> np.ndarray:
    """[K] the metric's values; NaN where it has none.

    Args:
      text: of the config.
      metric: that it names.
      counts: sums of its statistics [K, ...].

    Raises:
      ConfigError: it gives anything but a number for each network.
    """
    what = f"search.metric: got {text!r}"
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.asarray(attempt(what, None, lambda: metric.value(counts.astype(np.int64))))
    if found.shape != counts.shape[:1] or found.dtype.kind not in "iuf":
        got = f"gives {found.dtype} {list(found.shape)} for the counts of {len(counts)} networks"
        raise ConfigError(f"{what}, which {got}, want {len(counts)} numbers")
    return found.astype(float)


def _try(text: str, metric: Metric, classes: int) -> None:
    """Counts and scores what three made-up networks say of a few examples, of which some are not real."""
    what, rng = f"search.metric: got {text!r}", np.random.default_rng(0)
    logits = rng.normal(size=(3, 8, classes)).astype(np.float32)
    labels, real = rng.integers(0, classes, 8).astype(np.int32), np.arange(8) < 5

    def counted(rows: np.ndarray) -> np.ndarray:
        each = jax.vmap(metric.statistics, (0, None, None))
        return np.asarray(jax.jit(each, compiler_options=RUN_ONCE)(logits[:, rows], labels[rows], real[rows]))

    counts = counted(np.arange(8))
    if not np.array_equal(counts, counted(np.flatnonzero(real))):
        raise ConfigError(f"{what}, whose statistics count what is not real, want it left out")
    together, alone = scores(text, metric, counts), [scores(text, metric, counts[k : k + 1])[0] for k in range(3)]
    if not np.allclose(together, alone, equal_nan=True):
        raise ConfigError(f"{what}, which gives {together.tolist()} for three networks at once, want {alone} as alone")


def statistics_shape(metric: Metric, classes: int) -> jax.ShapeDtypeStruct:
    """Shape and kind of a metric's statistics."""
    shapes = (((3, classes), jnp.float32), ((3,), jnp.int32), ((3,), jnp.bool_))
    found: jax.ShapeDtypeStruct = jax.eval_shape(metric.statistics, *(jax.ShapeDtypeStruct(*s) for s in shapes))
    return found


def _by_class(logits: jax.Array, labels: jax.Array, real: jax.Array) -> jax.Array:
    """[3, C]: how often each class was recognised, was the label, was predicted."""
    predicted = jnp.argmax(logits, -1)
    right = (predicted == labels) & real
    none = jnp.zeros(logits.shape[-1], jnp.int32)
    pairs = ((labels, right), (labels, real), (predicted, real))
    return jnp.stack([none.at[at].add(counted.astype(jnp.int32)) for at, counted in pairs])


def _mean(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[K] mean of values [K, C] over those that are there."""
    return (values * where).sum(-1) / where.sum(-1)
