"""Stacked LSTMs for texts and series, which classify an example or every position of it.

The networks of LEAF (arXiv 1812.01097, models/ of its repository) and of adaptive federated optimisation (arXiv
2003.00295). By their layers' sizes `lstm_shakespeare` with 90 tokens and classes has 820,522 parameters,
`lstm_stackoverflow` with 10,004 tokens and classes 4,050,748.
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
from fednas_jax.nets.recurrent import LSTM
from fednas_jax.space.network import Network

WIDTHS = {"embedding": 32, "lstm1": 64, "lstm2": 64}
SENT140 = {"embedding": 100, "lstm1": 100, "lstm2": 100, "dense": 128}
SHAKESPEARE = {"embedding": 8, "lstm1": 256, "lstm2": 256}
STACKOVERFLOW = {"embedding": 96, "lstm1": 670, "dense": 96}


class StackedLSTM(nnx.Module):
    """An embedding of tokens, or a dense layer of features; LSTMs; perhaps a dense layer; the classifier.

    An example is classified by the state after its last step, padding included, as LEAF does. No layer but the LSTMs
    has an activation.
    """

    def __init__(self, widths: Mapping[str, int], inputs: Inputs, classes: int, dropout: float, rngs: nnx.Rngs):
        width = widths["embedding"]
        if inputs.tokens:
            self.embedding: nnx.Module = nnx.Embed(inputs.tokens, width, rngs=rngs)
        else:
            self.embedding = nnx.Linear(inputs.shape[-1], width, rngs=rngs)
        self.layers = [group for group in widths if group.startswith("lstm")]
        for group in self.layers:
            setattr(self, group, LSTM(width, widths[group], rngs))
            width = widths[group]
        self.dense = nnx.Linear(width, widths["dense"], rngs=rngs) if "dense" in widths else None
        width = widths.get("dense", width)
        self.classifier = nnx.Linear(width, classes, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.positions = inputs.positions

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Logits [B, classes], or [B, T, classes], of tokens [B, T] or series [B, T, F]."""
        x = self.embedding(inputs)
        for group in self.layers:
            x = getattr(self, group)(x)
        if not self.positions:
            x = x[:, -1]
        if self.dense is not None:
            x = self.dense(x)
        return self.classifier(self.dropout(x))


def build(widths: Mapping[str, int], inputs: Inputs, classes: int, config: NetConfig) -> Network:
    """The network for texts or series; published without normalisation and dropout."""
    if config.norm not in (None, "none"):
        raise ConfigError(f"net.norm: got {config.norm}, want none: {config.name} has no normalisation")
    dropout = dropout_of(config, 0.0)

    def make(w: Mapping[str, int], rngs: nnx.Rngs) -> nnx.Module:
        return StackedLSTM(w, inputs, classes, dropout, rngs)

    return from_nnx(config.name, make, widths, inputs.shape, tokens=inputs.tokens)
