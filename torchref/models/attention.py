"""Scaled dot-product attention (Vaswani et al. 2017), the one function, and its module.

>>> attended, weights = attention(query, key, value, causal_mask(8))  # (B, N, 8, D), (B, N, 8, 8)
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn


def causal_mask(
    length: int, total: int | None = None, start: int = 0, *, device: torch.device | None = None
) -> torch.Tensor:
    """(T, S), True where a step (row) may attend: to itself and those before it.

    The T steps are the places `start` and on of S; by default they are all.
    """
    steps = start + torch.arange(length, device=device)
    places = torch.arange(length if total is None else total, device=device)
    return places <= steps[:, None]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    dropout: Callable[[torch.Tensor], torch.Tensor] = lambda weights: weights,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query (B, N, T, D), key and value (B, N, S, D) -> (B, N, T, D), the weights (B, N, T, S).

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
    weights = dropout(weights.to(value.dtype))
    return weights @ value, weights


class KeysValues(NamedTuple):
    """One layer's keys and values of all steps so far, in arrays of fixed length S."""

    key: torch.Tensor  # (B, N, S, D)
    value: torch.Tensor


class MultiHeadAttention(nn.Module):
    """Self-attention in num_heads subspaces.

    x (B, T, C) -> (B, T, C), the weights (B, N, T, S), the cache. With a cache the T steps go to
    its places `start` and on, in place, and attend to all S of them that the mask lets through.

    Dropout falls on the attention weights and nothing else. `fused` projects queries, keys and
    values by one kernel (3C, C), as GPT-2's checkpoints have it.
    """

    def __init__(self, hidden_dim: int, num_heads: int, *, fused: bool, dropout_rate: float):
        super().__init__()
        if fused:
            self.query_key_value = nn.Linear(hidden_dim, 3 * hidden_dim)
        else:
            self.query = nn.Linear(hidden_dim, hidden_dim)
            self.key = nn.Linear(hidden_dim, hidden_dim)
            self.value = nn.Linear(hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout_rate)
        self.output = nn.Linear(hidden_dim, hidden_dim)
        self.num_heads = num_heads
        self.fused = fused

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        cache: KeysValues | None = None,
        start: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor, KeysValues | None]:
        if self.fused:
            projected = self.query_key_value(x).chunk(3, dim=-1)
        else:
            projected = (self.query(x), self.key(x), self.value(x))
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, N, T, D)
            for part in projected
        )
        if cache is not None:
            for whole, part in zip(cache, (key, value), strict=True):
                whole[:, :, start : start + x.shape[1]] = part
            key, value = cache
        attended, weights = attention(query, key, value, mask, self.dropout)
        return self.output(attended.transpose(1, 2).flatten(2)), weights, cache
