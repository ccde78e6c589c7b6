"""The pre-norm transformer block that every transformer here is made of.

>>> Block(config)(x, causal_mask(8))  # x's shape
"""

import torch
from torch import nn

from jaxmodels.shared.configs import TransformerConfig
from torchref.models.attention import MultiHeadAttention
from torchref.models.layers import ACTIVATIONS


class Block(nn.Module):
    """Attention, then two linear layers, each normalised before, added after (Xiong et al. 2020).

    x (B, T, C) -> (B, T, C); mask: boolean, broadcastable to (B, N, T, T), True = attend.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, epsilon = config.hidden_dim, config.layer_norm_epsilon
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attention = MultiHeadAttention(
            width, config.num_heads, dropout_rate=config.dropout_rate
        )
        self.dropout1 = nn.Dropout(config.dropout_rate)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.linear1 = nn.Linear(width, config.mlp_dim)
        self.linear2 = nn.Linear(config.mlp_dim, width)
        self.dropout2 = nn.Dropout(config.dropout_rate)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        attended = self.attention(self.norm1(x), mask)
        x = x + self.dropout1(attended)
        mixed = self.linear2(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout2(mixed)
