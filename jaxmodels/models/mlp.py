"""Linear regression and the multilayer perceptron: a row of numbers to one number.

>>> MLP(MLPConfig(hidden_dims=(64,), initializer="he-normal"), rngs=nnx.Rngs(0))(inputs)  # (B,)
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import ACTIVATIONS, linear
from jaxmodels.shared.configs import MLPConfig


class MLP(nnx.Module):
    """inputs (B, F) -> outputs (B,)."""

    def __init__(self, config: MLPConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        widths = (config.num_features, *config.hidden_dims)
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.hidden = nnx.List([linear(*sizes, **shared) for sizes in pairwise(widths)])
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.linear = linear(widths[-1], 1, **shared)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(
        self, inputs: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = inputs
        for layer in self.hidden:
            x = self.activation(layer(x))
            x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.linear(x)[:, 0]
