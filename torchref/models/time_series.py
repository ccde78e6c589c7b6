"""A transformer that forecasts from a window: the plain encoder, or PatchTST (Nie et al. 2023).

>>> TimeSeriesTransformer(TimeSeriesTransformerConfig())(inputs)  # (B, 3, 3)
"""

import torch
from torch import nn

from jaxmodels.shared.configs import TimeSeriesTransformerConfig
from torchref.models.layers import initialize
from torchref.models.transformer import Block, run_blocks

Statistics = tuple[torch.Tensor, torch.Tensor]  # means and standard deviations, each (B, 1, F)


class InstanceNorm(nn.Module):
    """Reversible instance normalisation (Kim et al. 2022): x (B, T, F) -> (B, T, F), statistics.

    Each window and feature is normalised by its own mean and standard deviation (ddof 0), then by
    a learned scale and bias; `inverse` takes a forecast back.
    """

    def __init__(self, num_features: int, *, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.epsilon = epsilon

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Statistics]:
        mean = x.mean(dim=1, keepdim=True)
        deviation = torch.sqrt(x.var(dim=1, correction=0, keepdim=True) + self.epsilon)
        return (x - mean) / deviation * self.weight + self.bias, (mean, deviation)

    def inverse(self, x: torch.Tensor, statistics: Statistics) -> torch.Tensor:
        """A forecast of the first feature in that feature's own units: (B, H, Q) -> (B, H, Q)."""
        mean, deviation = (value[..., :1] for value in statistics)  # (B, 1, 1)
        return (x - self.bias[0]) / self.weight[0] * deviation + mean


def cut(x: torch.Tensor, length: int, stride: int) -> torch.Tensor:
    """Patches that overlap where stride < length: x (B, T, F) -> (B, P, length * F)."""
    first = (x.shape[1] - length) % stride
    patches = x[:, first:].unfold(1, length, stride)  # (B, P, F, length)
    return patches.transpose(2, 3).flatten(2)


class TimeSeriesTransformer(nn.Module):
    """inputs (B, T, F), the newest step last -> outputs (B, num_horizons, num_quantiles).

    The quantiles need not ascend.
    """

    def __init__(
        self, config: TimeSeriesTransformerConfig, *, generator: torch.Generator | None = None
    ):
        super().__init__()
        width, num_patches = config.hidden_dim, config.num_patches
        num_channels = config.num_features if config.channel_independent else 1
        features_per_channel = config.num_features // num_channels
        self.instance_norm = (
            InstanceNorm(config.num_features, epsilon=config.instance_norm_epsilon)
            if config.instance_norm
            else None
        )
        self.patch_embedding = nn.Linear(config.patch_length * features_per_channel, width)
        self.position_embedding = nn.Embedding(num_patches, width)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_epsilon)
        self.head = nn.Linear(
            num_channels * num_patches * width,
            config.num_horizons * len(config.quantiles),
        )
        self.config = config
        initialize(
            self,
            config.initializer,
            generator,
            embedding_deviation=config.embedding_deviation,
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        config = self.config
        if inputs.shape[1:] != (config.window, config.num_features):
            raise ValueError(
                f"windows of shape {tuple(inputs.shape[1:])} do not fit the model's (window, "
                f"num_features), ({config.window}, {config.num_features})"
            )
        if self.instance_norm is None:
            return self._forecast(inputs)
        x, statistics = self.instance_norm(inputs)
        x = self._forecast(x)
        return self.instance_norm.inverse(x, statistics)

    def _forecast(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, F) -> (B, H, Q) in the scale of the first feature."""
        config, batch_size = self.config, len(x)
        if config.channel_independent:
            x = x.transpose(1, 2).reshape(-1, config.window, 1)  # (B * F, T, 1)
        x = self.patch_embedding(cut(x, config.patch_length, config.patch_stride))
        x = x + self.position_embedding(torch.arange(config.num_patches, device=x.device))
        x = self.dropout(x)
        x, _, _ = run_blocks(self.blocks, x, None, config)
        x = self.norm(x)  # (B * channels, P, C)
        x = self.head(x.reshape(batch_size, -1))  # (B, H * Q)
        return x.reshape(batch_size, config.num_horizons, -1)
