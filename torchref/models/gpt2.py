"""GPT-2, a decoder that predicts the next token (Radford et al. 2019).

>>> GPT2(GPT2Config())(tokens)  # (B, T, V)
"""

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import GPT2Config
from torchref.models.attention import causal_mask
from torchref.models.layers import initialize
from torchref.models.transformer import Block


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
    """tokens (B, T) -> logits (B, T, V) of the next tokens, through the token embedding."""

    def __init__(self, config: GPT2Config, *, generator: torch.Generator | None = None):
        super().__init__()
        width, deviation = config.hidden_dim, config.embedding_deviation
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.position_embedding = nn.Embedding(config.context_length, width)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.context_length = config.context_length
        initialize(self, config.initializer, generator, embedding_deviation=deviation)
        scale_residual_kernels(self.blocks)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        if length > self.context_length:
            raise ValueError(
                f"{length} tokens exceed context_length {self.context_length}; "
                f"pass the last {self.context_length} of them"
            )
        positions = torch.arange(length, device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        x = self.dropout(x)
        mask = causal_mask(length, tokens.device)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        return F.linear(x, self.token_embedding.weight)
