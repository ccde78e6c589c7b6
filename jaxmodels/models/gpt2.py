"""GPT-2, a decoder that predicts the next token (Radford et al. 2019).

>>> GPT2(GPT2Config(), rngs=nnx.Rngs(0))(input_ids).logits  # (B, T, V)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.attention import KeysValues, causal_mask
from jaxmodels.models.layers import Embedding, layer_norm
from jaxmodels.models.transformer import Block, run_blocks
from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import check_length


def scale_residual_kernels(blocks: nnx.List[Block]) -> None:
    """Divides the last kernel of every residual branch by the square root of their number.

    Each branch adds to one stream, whose variance would grow with the depth.
    """
    factor = (2 * len(blocks)) ** -0.5
    for block in blocks:
        for last in (block.attention.output, block.linear2):
            # The barrier as in `draw_normal`: by itself or within a program, it rounds alike.
            last.kernel[...] = jax.lax.optimization_barrier(last.kernel[...]) * factor


class GPT2(nnx.Module):
    """input_ids (B, T) -> logits (B, T, V) of the next tokens, through the token embedding.

    attention_mask: (B, T), 0 where a token is padding. With `cache`, a `KeysValues` a block, the T
    tokens go to its places `start` and on, and attention_mask is (B, S), for all of its places.
    position_ids: (B, T); None counts from `start`.
    """

    def __init__(self, config: GPT2Config, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        width, deviation = config.hidden_dim, config.embedding_deviation
        self.token_embedding = Embedding(
            config.vocabulary_size, width, deviation=deviation, rngs=rngs
        )
        self.position_embedding = Embedding(
            config.context_length, width, deviation=deviation, rngs=rngs
        )
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = layer_norm(width, epsilon=config.layer_norm_epsilon, rngs=rngs)
        self.config = config
        self.dtype = dtype
        scale_residual_kernels(self.blocks)

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        position_ids: jax.Array | None = None,
        cache: tuple[KeysValues, ...] | None = None,
        start: jax.Array | int = 0,
        output_attentions: bool = False,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ModelOutput:
        length = input_ids.shape[1]
        check_length(length, self.config.context_length)
        total = length if cache is None else cache[0].key.shape[2]
        mask = causal_mask(length, total, start)
        if attention_mask is not None:
            mask = mask & (attention_mask != 0)[:, None, None]
        if position_ids is None:
            position_ids = start + jnp.arange(length)
        x = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x, attentions, cache = run_blocks(
            self.blocks,
            x,
            mask,
            self.config,
            caches=cache,
            start=start,
            output_attentions=output_attentions,
            train=train,
            rngs=rngs,
        )
        x = self.norm(x)
        logits = self.logits(x) if self.config.head == "language-model" else None
        return ModelOutput(logits, x, attentions=attentions, cache=cache)

    def initial_cache(self, rows: int, length: int) -> tuple[KeysValues, ...]:
        """The cache of B rows before their first token, with `length` places."""
        head_dim = self.config.hidden_dim // self.config.num_heads
        shape = (rows, self.config.num_heads, length, head_dim)
        zeros = jnp.zeros(shape, self.dtype or self.token_embedding.embedding.dtype)
        return tuple(KeysValues(zeros, zeros) for _ in self.blocks)

    def logits(self, x: jax.Array) -> jax.Array:
        """x (B, T, C) -> (B, T, V)."""
        embedding = self.token_embedding.embedding[...]  # (V, C)
        dtype = self.dtype or embedding.dtype
        return x.astype(dtype) @ embedding.astype(dtype).T
