"""The transformer blocks, and how a stack of them runs.

>>> block = Block(config, dtype=None, rngs=nnx.Rngs(0))
>>> x, weights, cache = block(x, causal_mask(8))  # x's shape, (B, N, T, S), None
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.attention import KeysValues, MultiHeadAttention
from jaxmodels.models.layers import ACTIVATIONS, layer_norm, linear
from jaxmodels.shared.configs import TransformerConfig


class Block(nnx.Module):
    """Attention, then two linear layers, each normalised before, added after (Xiong et al. 2020).

    x (B, T, C) -> (B, T, C), the attention's weights and cache; mask: boolean, broadcastable to
    (B, N, T, S), True = attend.
    """

    fused_attention = True

    def __init__(self, config: TransformerConfig, *, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        width, epsilon = config.hidden_dim, config.layer_norm_epsilon
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.norm1 = layer_norm(width, epsilon=epsilon, rngs=rngs)
        self.attention = MultiHeadAttention(
            width,
            config.num_heads,
            fused=self.fused_attention,
            dropout_rate=config.attention_dropout_rate,
            **shared,
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
        cache: KeysValues | None = None,
        start: jax.Array | int = 0,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, jax.Array, KeysValues | None]:
        options = {"cache": cache, "start": start, "train": train, "rngs": rngs}
        attended, weights, cache = self.attention(self.norm1(x), mask, **options)
        x = x + self.dropout1(attended, deterministic=not train, rngs=rngs)
        mixed = self.linear2(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout2(mixed, deterministic=not train, rngs=rngs), weights, cache


class PostNormBlock(Block):
    """The block of Vaswani et al. 2017 and BERT: what each half adds is normalised with the sum."""

    fused_attention = False

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
        options = {"cache": cache, "start": start, "train": train, "rngs": rngs}
        attended, weights, cache = self.attention(x, mask, **options)
        x = self.norm1(x + self.dropout1(attended, deterministic=not train, rngs=rngs))
        mixed = self.linear2(self.activation(self.linear1(x)))
        x = self.norm2(x + self.dropout2(mixed, deterministic=not train, rngs=rngs))
        return x, weights, cache


def run_blocks(
    blocks: Sequence[Block],
    x: jax.Array,
    mask: jax.Array | None,
    config: TransformerConfig,
    *,
    caches: Sequence[KeysValues] | None = None,
    start: jax.Array | int = 0,
    output_attentions: bool = False,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...] | None, tuple[KeysValues, ...] | None]:
    """x (B, T, C) through all blocks -> x, every block's weights if asked for, their caches.

    `config.gradient_checkpointing` computes a block's inside anew in the backward pass, and keeps
    its input alone (Chen et al. 2016); `config.scan_layers` compiles one block for all of them,
    with the parameters stacked on the way. Neither changes the function or a dropout mask.
    """
    layers = range(len(blocks))
    keys = [None for _ in layers]
    if rngs is not None:
        keys = list(jax.random.split(rngs.dropout(), len(blocks)))
    old = [None for _ in layers] if caches is None else caches
    graphdefs, states = zip(*(nnx.split(block) for block in blocks), strict=True)

    def run(
        layer: int,
        x: jax.Array,
        state: nnx.State,
        key: jax.Array | None,
        cache: KeysValues | None,
    ):
        block = nnx.merge(graphdefs[layer], state)
        rngs = None if key is None else nnx.Rngs(dropout=key)
        x, weights, cache = block(x, mask, cache=cache, start=start, train=train, rngs=rngs)
        return x, (weights if output_attentions else None, cache)

    if config.gradient_checkpointing:
        run = jax.checkpoint(run, static_argnums=0)
    if config.scan_layers:
        stacked = jax.tree.map(
            lambda *parts: jnp.stack(parts), *zip(states, keys, old, strict=True)
        )
        x, stacked = jax.lax.scan(lambda x, layer: run(0, x, *layer), x, stacked)
        results = [jax.tree.map(lambda part: part[layer], stacked) for layer in layers]  # noqa: B023
    else:
        results = []
        for layer in layers:
            x, result = run(layer, x, states[layer], keys[layer], old[layer])
            results.append(result)
    weights, new = zip(*results, strict=True)
    return x, weights if output_attentions else None, None if caches is None else new
