"""Dense layers, for rows of features above all.

At 28x28x1 with widths 200, 200 and 10 classes: 199,210 parameters, the "2NN" of FedAvg (arXiv 1602.05629, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
from flax import nnx

from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import ConfigError
from fednas_jax.nets.adapters import from_nnx
from fednas_jax.nets.inputs import Inputs
from fednas_jax.nets.layers import dropout_of
from fednas_jax.space.network import Network

WIDTHS = {"dense1": 200, "dense2": 200}


class MLP(nnx.Module):
    """Two dense layers with ReLU, and the classifier, of an example laid flat."""

    def __init__(self, widths: Mapping[str, int], size: int, classes: int, dropout: float, rngs: nnx.Rngs):
        self.dense1 = nnx.Linear(size, widths["dense1"], rngs=rngs)
        self.dense2 = nnx.Linear(widths["dense1"], widths["dense2"], rngs=rngs)
        self.classifier = nnx.Linear(widths["dense2"], classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Logits [B, classes] of inputs [B, ...]."""
        x = nnx.relu(self.dense1(inputs.reshape(len(inputs), -1)))
        return self.classifier(self.dropout(nnx.relu(self.dense2(x))))


def build(widths: Mapping[str, int], inputs: Inputs, classes: int, config: NetConfig) -> Network:
    """The network for inputs of any shape; published without dropout."""
    if inputs.positions:
        raise ConfigError("net.name: mlp gives one label for an example, got one for every position, want lstm")
    if config.norm not in (None, "none"):
        raise ConfigError(f"net.norm: got {config.norm}, want none: mlp has no normalisation")
    dropout = dropout_of(config, 0.0)
    size = 1
    for n in inputs.shape:
        size *= n
    return from_nnx("mlp", lambda w, rngs: MLP(w, size, classes, dropout, rngs), widths, inputs.shape)
