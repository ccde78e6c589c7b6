"""The transformer blocks, and how a stack of them runs.

>>> x, weights, cache = Block(config)(x, causal_mask(8))  # x's shape, (B, N, T, S), None
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from jaxmodels.shared.configs import TransformerConfig
from torchref.models.attention import KeysValues, MultiHeadAttention
from torchref.models.layers import ACTIVATIONS


class Block(nn.Module):
    """Attention, then two linear layers, each normalised before, added after (Xiong et al. 2020).

    x (B, T, C) -> (B, T, C), the attention's weights and cache; mask: boolean, broadcastable to
    (B, N, T, S), True = attend.
    """

    fused_attention = True

    def __init__(self, config: TransformerConfig):
        super().__init__()
        width, epsilon = config.hidden_dim, config.layer_norm_epsilon
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attention = MultiHeadAttention(
            width,
            config.num_heads,
            fused=self.fused_attention,
            dropout_rate=config.attention_dropout_rate,
        )
        self.dropout1 = nn.Dropout(config.dropout_rate)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.linear1 = nn.Linear(width, config.mlp_dim)
        self.linear2 = nn.Linear(config.mlp_dim, width)
        self.dropout2 = nn.Dropout(config.dropout_rate)
        self.activation = ACTIVATIONS[config.activation]

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        cache: KeysValues | None = None,
        start: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor, KeysValues | None]:
        attended, weights, cache = self.attention(self.norm1(x), mask, cache=cache, start=start)
        x = x + self.dropout1(attended)
        mixed = self.linear2(self.activation(self.linear1(self.norm2(x))))
        return x + self.dropout2(mixed), weights, cache


class PostNormBlock(Block):
    """The block of Vaswani et al. 2017 and BERT: what each half adds is normalised with the sum."""

    fused_attention = False

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        *,
        cache: KeysValues | None = None,
        start: int = 0,
    ) -> tuple[torch.Tensor, torch.Tensor, KeysValues | None]:
        attended, weights, cache = self.attention(x, mask, cache=cache, start=start)
        x = self.norm1(x + self.dropout1(attended))
        mixed = self.linear2(self.activation(self.linear1(x)))
        return self.norm2(x + self.dropout2(mixed)), weights, cache


def run_blocks(
    blocks: Iterable[nn.Module],
    x: torch.Tensor,
    mask: torch.Tensor | None,
    config: TransformerConfig,
    *,
    caches: Sequence[KeysValues] | None = None,
    start: int = 0,
    output_attentions: bool = False,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None, tuple[KeysValues, ...] | None]:
    """x (B, T, C) through all blocks -> x, every block's weights if asked for, their caches.

    `config.gradient_checkpointing` computes a block's inside anew in the backward pass, and keeps
    its input alone (Chen et al. 2016). `config.scan_layers` shortens what JAX compiles, and means
    nothing here.
    """
    attentions = []
    for layer, block in enumerate(blocks):
        cache = None if caches is None else caches[layer]
        run = partial(block, mask=mask, cache=cache, start=start)
        if config.gradient_checkpointing and torch.is_grad_enabled():
            x, weights, _ = checkpoint(run, x, use_reentrant=False)  # type: ignore[misc]
        else:
            x, weights, _ = run(x)
        if output_attentions:
            attentions.append(weights)
    # A cache is written to in place.
    return x, tuple(attentions) or None, None if caches is None else tuple(caches)
