"""BERT (Devlin et al. 2019), RoBERTa and DistilBERT: an encoder and the heads on it.

>>> BERT(BERTConfig())(input_ids, attention_mask).last_hidden_state  # (B, T, C)
"""

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import BERTConfig
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import check_length
from torchref.models.layers import ACTIVATIONS, initialize
from torchref.models.transformer import PostNormBlock, run_blocks


class MaskedLanguageHead(nn.Module):
    """x (B, T, C), the token embedding (V, C) -> logits (B, T, V)."""

    def __init__(self, config: BERTConfig):
        super().__init__()
        width = config.hidden_dim
        self.linear = nn.Linear(width, width)
        # RoBERTa's is the exact GELU whatever its blocks have.
        self.activation = ACTIVATIONS["gelu" if config.family == "roberta" else config.activation]
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.activation(self.linear(x)))
        return F.linear(x, embedding, self.bias)


class BERT(nn.Module):
    """input_ids (B, T) -> logits (B, num_classes), (B, T, num_classes) or (B, T, V), by the head.

    attention_mask: (B, T), 0 where a token is padding. token_type_ids: (B, T), by default 0.
    """

    def __init__(self, config: BERTConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        width, deviation = config.hidden_dim, config.embedding_deviation
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.context_length, width)
        if config.type_vocabulary_size:
            self.type_embedding = nn.Embedding(config.type_vocabulary_size, width)
        self.embedding_norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.blocks = nn.ModuleList([PostNormBlock(config) for _ in range(config.num_layers)])
        if config.pooled:
            self.pooler_dropout = nn.Dropout(config.classifier_dropout_rate)
            self.pooler = nn.Linear(width, width)
        if config.head == "masked-lm":
            self.masked_lm = MaskedLanguageHead(config)
        elif config.head != "none":
            self.classifier_dropout = nn.Dropout(config.classifier_dropout_rate)
            self.classifier = nn.Linear(width, config.num_classes)
        self.config = config
        initialize(self, config.initializer, generator, embedding_deviation=deviation)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        token_type_ids: torch.Tensor | None = None,
        output_attentions: bool = False,
    ) -> ModelOutput:
        config = self.config
        x = self._embed(input_ids, token_type_ids)
        x = self.dropout(self.embedding_norm(x))
        x, attentions, _ = run_blocks(
            self.blocks,
            x,
            None if attention_mask is None else (attention_mask != 0)[:, None, None],
            config,
            output_attentions=output_attentions,
        )
        logits = pooled = None
        if config.pooled:
            pooled = self._pool(x[:, 0])
        if config.head == "masked-lm":
            logits = self.masked_lm(x, self.token_embedding.weight)
        elif config.head != "none":
            features = x if pooled is None else pooled
            features = self.classifier_dropout(features)
            logits = self.classifier(features)
        return ModelOutput(logits, x, pooled, attentions)

    def _embed(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        """The sum of the embeddings: (B, T) -> (B, T, C)."""
        config, length = self.config, input_ids.shape[1]
        check_length(length, config.context_length - config.first_position)
        positions = torch.arange(length, device=input_ids.device)
        if config.family == "roberta":
            real = input_ids != config.padding_id
            positions = config.padding_id + real.cumsum(dim=1) * real
        x = self.token_embedding(input_ids) + self.position_embedding(positions)
        if config.type_vocabulary_size:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            x = x + self.type_embedding(types)
        return x

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        """The first token of each row: (B, C) -> (B, C)."""
        if self.config.family == "distilbert":
            return F.relu(self.pooler(x))
        if self.config.family == "roberta" and self.config.head != "none":
            x = self.pooler_dropout(x)
        return torch.tanh(self.pooler(x))
