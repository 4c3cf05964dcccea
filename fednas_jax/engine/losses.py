"""What clients minimise: `train.loss`.

A choice is a function of the arguments that stand in the config's text. It gives `loss(logits [B, C] float32, labels
[B] int32) -> [B]`, of which training takes the mean. Where every position has a label, B counts the positions of a
batch, and the mean is over those that have one. Letters: B batch, T positions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fednas_jax.config.registries import LOSSES
from fednas_jax.errors import ConfigError
from fednas_jax.registry import attempt

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def cross_entropy(smoothing: float = 0.0) -> Loss:
    """Cross-entropy, of labels that are smoothed: (1 - smoothing) at the label plus smoothing / C at every class.

    After Szegedy et al. 2016, arXiv 1512.00567, section 7.

    Raises:
      ConfigError: smoothing not from 0 to below 1.
    """
    if not 0 <= smoothing < 1:
        raise ConfigError(f"train.loss: got cross_entropy(smoothing={smoothing}), want at least 0 and below 1")
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        sharp = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        flat = -jax.nn.log_softmax(logits).mean(-1)
        return (1 - smoothing) * sharp + smoothing * flat

    return loss


def focal(gamma: float = 2.0) -> Loss:
    """(1 - p)^gamma x cross-entropy, p the label's probability: easy examples count less; 0 is cross-entropy.

    After Lin et al. 2017, arXiv 1708.02002, equation 4.

    Raises:
      ConfigError: gamma below 0.
    """
    if not gamma >= 0:
        raise ConfigError(f"train.loss: got focal(gamma={gamma}), want at least 0")

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        sharp = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # Kept off 0, where a power below 1 has no slope.
        return jnp.maximum(-jnp.expm1(-sharp), 1e-7) ** gamma * sharp

    return loss


def batch_mean(loss: Loss, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean of a loss over a batch, or over its labelled positions; 0 where none is labelled.

    Args:
      loss: of each example or position.
      logits: [B, C], or [B, T, C].
      labels: [B], or [B, T] with -1 where a position has none.
    """
    if labels.ndim == 1:
        return loss(logits, labels).mean()
    told = labels.reshape(-1)
    each = loss(logits.reshape(-1, logits.shape[-1]), jnp.maximum(told, 0))
    return jnp.where(told >= 0, each, 0).sum() / jnp.maximum((told >= 0).sum(), 1).astype(each.dtype)


def loss_of(text: str) -> Loss:
    """The loss that a config names.

    Raises:
      ConfigError: there is none such, or not with these arguments.
    """
    loss: Loss = LOSSES.get(text)()
    return loss


def check(text: str, classes: int) -> None:
    """Tries a loss on a batch's shapes, before anything is trained.

    Raises:
      ConfigError: as `loss_of`; it cannot be traced, or gives anything but a float for each example.
    """
    loss = loss_of(text)
    logits, labels = jax.ShapeDtypeStruct((3, classes), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.int32)
    found = attempt(f"train.loss: got {text!r}", None, lambda: jax.eval_shape(loss, logits, labels))
    if getattr(found, "shape", None) != (3,) or found.dtype != jnp.float32:
        raise ConfigError(f"train.loss: got {text!r}, which gives {found} for 3 examples, want float32 [3]")
