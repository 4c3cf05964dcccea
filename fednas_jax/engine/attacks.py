"""Malicious clients, simulated: who they are, and what they do to labels and updates. For research on aggregation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fednas_jax.config.schema import ParticipationConfig
from fednas_jax.seeds import Purpose, generator
from fednas_jax.space.network import Variables


def malicious_clients(config: ParticipationConfig, clients: int, seed: int) -> np.ndarray:
    """[C] bool: who attacks, a share of the clients that is drawn once.

    Args:
      config: its `malicious` is the share; the number is rounded to the nearest.
      clients: C.
      seed: the run's.
    """
    found = np.zeros(clients, bool)
    if config.malicious:
        rng = generator(seed, Purpose.MALICIOUS)
        found[rng.choice(clients, round(config.malicious * clients), replace=False)] = True
    return found


def attacked_labels(config: ParticipationConfig, malicious: jax.Array, labels: jax.Array, classes: int) -> jax.Array:
    """Labels [L, B, ...] that a client trains on: the opposite ones, classes - 1 - label, where it is malicious [L].

    -1, no label, stays.
    """
    if config.attack != "label_flip":
        return labels
    attacks = malicious.reshape(-1, *[1] * (labels.ndim - 1)) > 0
    return jnp.where(attacks & (labels >= 0), classes - 1 - labels, labels)


def attacked_update(config: ParticipationConfig, malicious: jax.Array, update: Variables) -> Variables:
    """The update that a client sends, where it is malicious (a number above 0): its opposite, or many times it.

    Statistics are sent as they are: a variance below 0 would be no attack but an error.
    """
    if config.attack == "label_flip":
        return update
    factor = jnp.where(malicious > 0, -1.0 if config.attack == "sign_flip" else config.attack_scale, 1.0)
    return update._replace(params=jax.tree.map(lambda u: factor.astype(u.dtype) * u, update.params))
