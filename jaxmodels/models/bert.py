"""BERT (Devlin et al. 2019), RoBERTa and DistilBERT: an encoder and the heads on it.

>>> BERT(BERTConfig(), rngs=nnx.Rngs(0))(input_ids, attention_mask).last_hidden_state  # (B, T, C)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import ACTIVATIONS, Embedding, layer_norm, linear
from jaxmodels.models.transformer import PostNormBlock, run_blocks
from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import check_length


class MaskedLanguageHead(nnx.Module):
    """x (B, T, C), the token embedding (V, C) -> logits (B, T, V)."""

    def __init__(self, config: BERTConfig, *, dtype: jnp.dtype | None, rngs: nnx.Rngs):
        width = config.hidden_dim
        self.linear = linear(width, width, initializer=config.initializer, dtype=dtype, rngs=rngs)
        # RoBERTa's is the exact GELU whatever its blocks have.
        self.activation = ACTIVATIONS["gelu" if config.family == "roberta" else config.activation]
        self.norm = layer_norm(width, epsilon=config.layer_norm_epsilon, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocabulary_size))
        self.dtype = dtype

    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        x = self.norm(self.activation(self.linear(x)))
        dtype = self.dtype or embedding.dtype
        return x.astype(dtype) @ embedding.astype(dtype).T + self.bias[...].astype(dtype)


class BERT(nnx.Module):
    """input_ids (B, T) -> logits (B, num_classes), (B, T, num_classes) or (B, T, V), by the head.

    attention_mask: (B, T), 0 where a token is padding. token_type_ids: (B, T), by default 0.
    """

    def __init__(self, config: BERTConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        width, deviation = config.hidden_dim, config.embedding_deviation
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.token_embedding = Embedding(
            config.vocabulary_size, width, deviation=deviation, rngs=rngs
        )
        self.position_embedding = Embedding(
            config.context_length, width, deviation=deviation, rngs=rngs
        )
        if config.type_vocabulary_size:
            self.type_embedding = Embedding(
                config.type_vocabulary_size, width, deviation=deviation, rngs=rngs
            )
        self.embedding_norm = layer_norm(width, epsilon=config.layer_norm_epsilon, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.blocks = nnx.List(
            [PostNormBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        if config.pooled:
            self.pooler_dropout = nnx.Dropout(config.classifier_dropout_rate)
            self.pooler = linear(width, width, **shared)
        if config.head == "masked-lm":
            self.masked_lm = MaskedLanguageHead(config, dtype=dtype, rngs=rngs)
        elif config.head != "none":
            self.classifier_dropout = nnx.Dropout(config.classifier_dropout_rate)
            self.classifier = linear(width, config.num_classes, **shared)
        self.config = config

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        token_type_ids: jax.Array | None = None,
        output_attentions: bool = False,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ModelOutput:
        config = self.config
        x = self._embed(input_ids, token_type_ids)
        x = self.dropout(self.embedding_norm(x), deterministic=not train, rngs=rngs)
        x, attentions, _ = run_blocks(
            self.blocks,
            x,
            None if attention_mask is None else (attention_mask != 0)[:, None, None],
            config,
            output_attentions=output_attentions,
            train=train,
            rngs=rngs,
        )
        logits = pooled = None
        if config.pooled:
            pooled = self._pool(x[:, 0], train=train, rngs=rngs)
        if config.head == "masked-lm":
            logits = self.masked_lm(x, self.token_embedding.embedding[...])
        elif config.head != "none":
            features = x if pooled is None else pooled
            features = self.classifier_dropout(features, deterministic=not train, rngs=rngs)
            logits = self.classifier(features)
        return ModelOutput(logits, x, pooled, attentions)

    def _embed(self, input_ids: jax.Array, token_type_ids: jax.Array | None) -> jax.Array:
        """The sum of the embeddings: (B, T) -> (B, T, C)."""
        config, length = self.config, input_ids.shape[1]
        check_length(length, config.context_length - config.first_position)
        positions = jnp.arange(length)
        if config.family == "roberta":
            real = input_ids != config.padding_id
            positions = config.padding_id + jnp.cumsum(real, axis=1) * real
        x = self.token_embedding(input_ids) + self.position_embedding(positions)
        if config.type_vocabulary_size:
            types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + self.type_embedding(types)
        return x

    def _pool(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """The first token of each row: (B, C) -> (B, C)."""
        if self.config.family == "distilbert":
            return jax.nn.relu(self.pooler(x))
        if self.config.family == "roberta" and self.config.head != "none":
            x = self.pooler_dropout(x, deterministic=not train, rngs=rngs)
        return jnp.tanh(self.pooler(x))
