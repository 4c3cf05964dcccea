"""A layer of long short-term memory (Hochreiter and Schmidhuber 1997), over all steps of a sequence.

Letters: B batch, T steps, H width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from fednas_jax.nets.dense import dot_general


class LSTM(nnx.Module):
    """[B, T, width_in] to the hidden states [B, T, width].

    What the inputs add to the gates is one product for all steps; a step multiplies the hidden state alone. All four
    gates share a kernel: its columns are input, forget, cell and output gate, each as wide as the layer. A channel
    whose weights are 0 has cell and hidden state 0 at every step, since the cell gate's tanh maps 0 to 0: so masks are
    exact.
    """

    def __init__(self, width_in: int, width: int, rngs: nnx.Rngs):
        draw = nnx.initializers.lecun_normal()
        self.inputs = nnx.Param(draw(rngs.params(), (width_in, 4 * width), jnp.float32))
        self.hidden = nnx.Param(draw(rngs.params(), (width, 4 * width), jnp.float32))
        # Forget gates begin open (Jozefowicz et al. 2015), as in the networks of LEAF and TFF.
        self.bias = nnx.Param(jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0], jnp.float32), width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Hidden states [B, T, width] of a sequence [B, T, width_in]."""
        kernel, bias = self.hidden[...], self.bias[...]
        gates = _product(x, self.inputs[...]) + bias.reshape(1, 1, -1)

        def step(state: tuple[jax.Array, jax.Array], gates: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            hidden, cell = state
            enter, keep, new, out = jnp.split(gates + _product(hidden, kernel), 4, axis=-1)
            cell = nnx.sigmoid(keep) * cell + nnx.sigmoid(enter) * jnp.tanh(new)
            hidden = nnx.sigmoid(out) * jnp.tanh(cell)
            return (hidden, cell), hidden

        nothing = jnp.zeros((len(x), kernel.shape[0]), gates.dtype)
        _, states = lax.scan(step, (nothing, nothing), jnp.moveaxis(gates, 1, 0))
        return jnp.moveaxis(states, 0, 1)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
