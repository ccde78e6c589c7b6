"""Plain convolutional classifiers: `SimpleCNN` (two convolutions) and `CNN` (VGG-style stages).

>>> SimpleCNN(SimpleCNNConfig())(images)  # (B, 10)
"""

from itertools import pairwise

import torch
from torch import nn

from jaxmodels.shared.configs import CNNConfig, SimpleCNNConfig
from torchref.models.layers import (
    ACTIVATIONS,
    flatten,
    initialize,
    max_pool,
    to_channels_first,
)


class ConvBlock(nn.Module):
    """Convolution, optional BatchNorm, activation: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        config: SimpleCNNConfig | CNNConfig,
        *,
        batch_norm: bool,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            bias=not batch_norm,  # BatchNorm's own bias would make it redundant
        )
        self.norm = (
            nn.BatchNorm2d(
                out_channels,
                momentum=config.batch_norm_momentum,
                eps=config.batch_norm_epsilon,
            )
            if batch_norm
            else None
        )
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)


class SimpleCNN(nn.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: SimpleCNNConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        channels1, channels2 = config.channels
        hidden1, hidden2 = config.hidden_dims
        size, norm = config.kernel_size, config.batch_norm
        num_features = (config.image_size // 4) ** 2 * channels2
        self.block1 = ConvBlock(config.in_channels, channels1, size, config, batch_norm=norm)
        self.block2 = ConvBlock(channels1, channels2, size, config, batch_norm=norm)
        self.linear1 = nn.Linear(num_features, hidden1)
        self.dropout1 = nn.Dropout(config.dropout_rate)
        self.linear2 = nn.Linear(hidden1, hidden2)
        self.dropout2 = nn.Dropout(config.dropout_rate)
        self.linear3 = nn.Linear(hidden2, config.num_classes)
        self.activation = ACTIVATIONS[config.activation]
        initialize(self, config.initializer, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = max_pool(self.block1(to_channels_first(images)))
        x = max_pool(self.block2(x))
        x = flatten(x)  # (B, H/4 * W/4 * C2)
        x = self.activation(self.linear1(x))
        x = self.dropout1(x)
        x = self.activation(self.linear2(x))
        x = self.dropout2(x)
        return self.linear3(x)


class Stage(nn.Module):
    """Convolutions at one width, a 2x2 max-pool, dropout: (B, C, H, W) -> (B, C', H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, config: CNNConfig):
        super().__init__()
        widths = [in_channels] + [out_channels] * config.convolutions_per_stage
        self.blocks = nn.ModuleList(
            [ConvBlock(width, out_channels, 3, config, batch_norm=True) for width in widths[:-1]]
        )
        self.dropout = nn.Dropout(config.stage_dropout_rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.dropout(max_pool(x))


class CNN(nn.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: CNNConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        widths = (config.in_channels, *config.stage_channels)
        final_size = config.image_size // 2 ** len(config.stage_channels)
        self.stages = nn.ModuleList(
            [
                Stage(in_channels, out_channels, config)
                for in_channels, out_channels in pairwise(widths)
            ]
        )
        self.linear1 = nn.Linear(final_size**2 * widths[-1], config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.linear2 = nn.Linear(config.hidden_dim, config.num_classes)
        self.activation = ACTIVATIONS[config.activation]
        initialize(self, config.initializer, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = to_channels_first(images)
        for stage in self.stages:
            x = stage(x)
        x = flatten(x)  # (B, H' * W' * C')
        x = self.activation(self.linear1(x))
        x = self.dropout(x)
        return self.linear2(x)
