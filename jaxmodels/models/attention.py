"""Scaled dot-product attention (Vaswani et al. 2017), the one function, and its module.

>>> attended, weights = attention(query, key, value, causal_mask(8))  # (B, N, 8, D), (B, N, 8, 8)

Libraries' own differ: JAX's casts the softmax to float32 even where all else is float64, masks
mean now "attend" and now "ignore", and a row that may attend to nothing gives NaN, 0 or the mean of
the values. Here True means attend, and such a row gives 0.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import linear


def causal_mask(length: int, total: int | None = None, start: jax.Array | int = 0) -> jax.Array:
    """(T, S), True where a step (row) may attend: to itself and those before it.

    The T steps are the places `start` and on of S; by default they are all.
    """
    steps = start + jnp.arange(length)
    return jnp.arange(length if total is None else total) <= steps[:, None]


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None = None,
    dropout: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> tuple[jax.Array, jax.Array]:
    """query (B, N, T, D), key and value (B, N, S, D) -> (B, N, T, D), the weights (B, N, T, S).

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
    weights = dropout(weights.astype(value.dtype))
    return weights @ value, weights


class KeysValues(NamedTuple):
    """One layer's keys and values of all steps so far, in arrays of fixed length S."""

    key: jax.Array  # (B, N, S, D)
    value: jax.Array


class MultiHeadAttention(nnx.Module):
    """Self-attention in num_heads subspaces.

    x (B, T, C) -> (B, T, C), the weights (B, N, T, S), the cache. With a cache the T steps go to
    its places `start` and on, and attend to all S of them that the mask lets through.

    Dropout falls on the attention weights and nothing else. `fused` projects queries, keys and
    values by one kernel (C, 3C), as GPT-2's checkpoints have it.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        *,
        fused: bool,
        dropout_rate: float,
        initializer: str,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        shared = {"initializer": initializer, "dtype": dtype, "rngs": rngs}
        if fused:
            self.query_key_value = linear(hidden_dim, 3 * hidden_dim, **shared)
        else:
            self.query = linear(hidden_dim, hidden_dim, **shared)
            self.key = linear(hidden_dim, hidden_dim, **shared)
            self.value = linear(hidden_dim, hidden_dim, **shared)
        self.dropout = nnx.Dropout(dropout_rate)
        self.output = linear(hidden_dim, hidden_dim, **shared)
        self.num_heads = num_heads
        self.fused = fused

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        cache: KeysValues | None = None,
        start: jax.Array | int = 0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array, KeysValues | None]:
        if self.fused:
            projected = jnp.split(self.query_key_value(x), 3, axis=-1)
        else:
            projected = (self.query(x), self.key(x), self.value(x))
        query, key, value = (
            part.reshape(*part.shape[:2], self.num_heads, -1).swapaxes(1, 2)  # (B, N, T, D)
            for part in projected
        )
        if cache is not None:
            update = partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=2)
            cache = KeysValues(update(cache.key, key), update(cache.value, value))
            key, value = cache
        dropout = partial(self.dropout, deterministic=not train, rngs=rngs)
        attended, weights = attention(query, key, value, mask, dropout)
        return self.output(attended.swapaxes(1, 2).reshape(x.shape)), weights, cache
