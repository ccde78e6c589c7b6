"""Scaled dot-product attention (Vaswani et al. 2017), the one function, and its module.

>>> attention(query, key, value, causal_mask(8))  # (B, N, 8, D)
"""

from collections.abc import Callable

import torch
from torch import nn


def causal_mask(length: int, device: torch.device | None = None) -> torch.Tensor:
    """(T, T), True where a step (row) may attend: to itself and those before it."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: Callable[[torch.Tensor], torch.Tensor] = lambda weights: weights,
) -> torch.Tensor:
    """query (B, N, T, D), key and value (B, N, S, D) -> (B, N, T, D).

    mask: boolean, broadcastable to (B, N, T, S), True = attend. The softmax is float32 at least.
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5  # (B, N, T, S)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        weights = scores.softmax(dim=-1)
    else:
        # The lowest finite number, for -inf throughout a row has no gradient but NaN. Such a row
        # comes out uniform and is cut to zero; in any other a masked step's weight underflows to 0.
        weights = scores.where(mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
        weights = weights.where(mask, 0)
    return dropout(weights.to(value.dtype)) @ value


class MultiHeadAttention(nn.Module):
    """Self-attention in num_heads subspaces: x (B, T, C) -> (B, T, C).

    Dropout falls on the attention weights and nothing else.
    """

    def __init__(self, hidden_dim: int, num_heads: int, *, dropout_rate: float):
        super().__init__()
        self.query = nn.Linear(hidden_dim, hidden_dim)
        self.key = nn.Linear(hidden_dim, hidden_dim)
        self.value = nn.Linear(hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout_rate)
        self.output = nn.Linear(hidden_dim, hidden_dim)
        self.num_heads = num_heads

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        query, key, value = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, N, T, D)
            for project in (self.query, self.key, self.value)
        )
        attended = attention(query, key, value, mask, self.dropout)
        return self.output(attended.transpose(1, 2).flatten(2))  # (B, T, N * D)
