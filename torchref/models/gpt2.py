"""GPT-2, a decoder that predicts the next token (Radford et al. 2019).

>>> GPT2(GPT2Config())(input_ids).logits  # (B, T, V)
"""

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import GPT2Config
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import check_length
from torchref.models.attention import KeysValues, causal_mask
from torchref.models.layers import initialize
from torchref.models.transformer import Block, run_blocks


@torch.no_grad()
def scale_residual_kernels(blocks: nn.ModuleList) -> None:
    """Divides the last kernel of every residual branch by the square root of their number.

    Each branch adds to one stream, whose variance would grow with the depth.
    """
    factor = (2 * len(blocks)) ** -0.5
    for block in blocks:
        assert isinstance(block, Block)
        for last in (block.attention.output, block.linear2):
            last.weight *= factor


class GPT2(nn.Module):
    """input_ids (B, T) -> logits (B, T, V) of the next tokens, through the token embedding.

    attention_mask: (B, T), 0 where a token is padding. With `cache`, a `KeysValues` a block, the T
    tokens go to its places `start` and on, and attention_mask is (B, S), for all of its places.
    position_ids: (B, T); None counts from `start`.
    """

    def __init__(self, config: GPT2Config, *, generator: torch.Generator | None = None):
        super().__init__()
        width, deviation = config.hidden_dim, config.embedding_deviation
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.context_length, width)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.config = config
        initialize(self, config.initializer, generator, embedding_deviation=deviation)
        scale_residual_kernels(self.blocks)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        position_ids: torch.Tensor | None = None,
        cache: tuple[KeysValues, ...] | None = None,
        start: int = 0,
        output_attentions: bool = False,
    ) -> ModelOutput:
        length = input_ids.shape[1]
        check_length(length, self.config.context_length)
        total = length if cache is None else cache[0].key.shape[2]
        mask = causal_mask(length, total, start, device=input_ids.device)
        if attention_mask is not None:
            mask = mask & (attention_mask != 0)[:, None, None]
        if position_ids is None:
            position_ids = start + torch.arange(length, device=input_ids.device)
        x = self.token_embedding(input_ids) + self.position_embedding(position_ids)
        x = self.dropout(x)
        x, attentions, cache = run_blocks(
            self.blocks,
            x,
            mask,
            self.config,
            caches=cache,
            start=start,
            output_attentions=output_attentions,
        )
        x = self.norm(x)
        logits = self.logits(x) if self.config.head == "language-model" else None
        return ModelOutput(logits, x, attentions=attentions, cache=cache)

    def initial_cache(self, rows: int, length: int) -> tuple[KeysValues, ...]:
        """The cache of B rows before their first token, with `length` places."""
        head_dim = self.config.hidden_dim // self.config.num_heads
        shape = (rows, self.config.num_heads, length, head_dim)
        zeros = self.token_embedding.weight.new_zeros
        return tuple(KeysValues(zeros(shape), zeros(shape)) for _ in self.blocks)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, C) -> (B, T, V)."""
        return F.linear(x, self.token_embedding.weight)
