"""Scaled dot-product attention (Vaswani et al. 2017), the one function, and its module.

>>> attention(query, key, value, causal_mask(8))  # (B, N, 8, D)

Libraries' own differ: JAX's casts the softmax to float32 even where all else is float64, masks
mean now "attend" and now "ignore", and a row that may attend to nothing gives NaN, 0 or the mean of
the values. Here True means attend, and such a row gives 0.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import linear


def causal_mask(length: int) -> jax.Array:
    """(T, T), True where a step (row) may attend: to itself and those before it."""
    return jnp.tri(length, dtype=bool)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """query (B, N, T, D), key and value (B, N, S, D) -> (B, N, T, D).

    mask: boolean, broadcastable to (B, N, T, S), True = attend. The softmax is float32 at least.
    """
    scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5  # (B, N, T, S)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is None:
        weights = jax.nn.softmax(scores)
    else:
        # The lowest finite number, for -inf throughout a row has no gradient but NaN. Such a row
        # comes out uniform and is cut to zero; in any other a masked step's weight underflows to 0.
        weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min))
        weights = jnp.where(mask, weights, 0)
    return dropout(weights.astype(value.dtype)) @ value


class MultiHeadAttention(nnx.Module):
    """Self-attention in num_heads subspaces: x (B, T, C) -> (B, T, C).

    Dropout falls on the attention weights and nothing else.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        *,
        dropout_rate: float,
        initializer: str,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        shared = {"initializer": initializer, "dtype": dtype, "rngs": rngs}
        self.query = linear(hidden_dim, hidden_dim, **shared)
        self.key = linear(hidden_dim, hidden_dim, **shared)
        self.value = linear(hidden_dim, hidden_dim, **shared)
        self.dropout = nnx.Dropout(dropout_rate)
        self.output = linear(hidden_dim, hidden_dim, **shared)
        self.num_heads = num_heads

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        query, key, value = (
            project(x).reshape(*x.shape[:2], self.num_heads, -1).swapaxes(1, 2)  # (B, N, T, D)
            for project in (self.query, self.key, self.value)
        )
        dropout = partial(self.dropout, deterministic=not train, rngs=rngs)
        attended = attention(query, key, value, mask, dropout)
        return self.output(attended.swapaxes(1, 2).reshape(x.shape))  # (B, T, N * D)
