"""The pre-norm transformer block that every transformer here is made of.

>>> Block(config, dtype=None, rngs=nnx.Rngs(0))(x, causal_mask(8), train=False, rngs=None)  # x's
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.attention import MultiHeadAttention
from jaxmodels.models.layers import ACTIVATIONS, layer_norm, linear
from jaxmodels.shared.configs import TransformerConfig


class Block(nnx.Module):
    """Attention, then two linear layers, each normalised before, added after (Xiong et al. 2020).

    x (B, T, C) -> (B, T, C); mask: boolean, broadcastable to (B, N, T, T), True = attend.
    """

    def __init__(self, config: TransformerConfig, *, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        width, epsilon = config.hidden_dim, config.layer_norm_epsilon
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, epsilon=epsilon, rngs=rngs)
        self.attention = MultiHeadAttention(
            width, config.num_heads, dropout_rate=config.dropout_rate, **shared
        )
        self.dropout1 = nnx.Dropout(config.dropout_rate)
        self.norm2 = layer_norm(width, epsilon=epsilon, rngs=rngs)
        self.linear1 = linear(width, config.mlp_dim, **shared)
        self.linear2 = linear(config.mlp_dim, width, **shared)
        self.dropout2 = nnx.Dropout(config.dropout_rate)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool,
        rngs: nnx.Rngs | None,
    ) -> jax.Array:
        attended = self.attention(self.norm1(x), mask, train=train, rngs=rngs)
        x = x + self.dropout1(attended, deterministic=not train, rngs=rngs)
        mixed = self.linear2(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout2(mixed, deterministic=not train, rngs=rngs)
