"""GPT-2, a decoder that predicts the next token (Radford et al. 2019).

>>> GPT2(GPT2Config(), rngs=nnx.Rngs(0))(tokens)  # (B, T, V)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.attention import causal_mask
from jaxmodels.models.layers import Embedding, layer_norm
from jaxmodels.models.transformer import Block
from jaxmodels.shared.configs import GPT2Config


def scale_residual_kernels(blocks: nnx.List[Block]) -> None:
    """Divides the last kernel of every residual branch by the square root of their number.

    Each branch adds to one stream, whose variance would grow with the depth.
    """
    factor = (2 * len(blocks)) ** -0.5
    for block in blocks:
        for last in (block.attention.output, block.linear2):
            last.kernel[...] *= factor


class GPT2(nnx.Module):
    """tokens (B, T) -> logits (B, T, V) of the next tokens, through the token embedding."""

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
        self.context_length = config.context_length
        self.dtype = dtype
        scale_residual_kernels(self.blocks)

    def __call__(
        self, tokens: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens exceed context_length {self.context_length}; "
                f"pass the last {self.context_length} of them"
            )
        x = self.token_embedding(tokens) + self.position_embedding(jnp.arange(length))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        mask = causal_mask(length)
        for block in self.blocks:
            x = block(x, mask, train=train, rngs=rngs)
        x = self.norm(x)
        embedding = self.token_embedding.embedding[...]  # (V, C)
        dtype = self.dtype or embedding.dtype
        return x.astype(dtype) @ embedding.astype(dtype).T
