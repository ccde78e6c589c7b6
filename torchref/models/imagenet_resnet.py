"""ImageNet ResNet of He et al. 2016 ("Deep Residual Learning for Image Recognition", section 4.1).

>>> ImageNetResNet(SIZES["resnet-18"])(images).logits  # (B, 1000)
"""

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import ImageNetResNetConfig
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import channels_first
from torchref.models.layers import ACTIVATIONS, initialize, overlapping_max_pool, to_channels_first
from torchref.models.resnet import ConvNorm


class ResidualBlock(nn.Module):
    """Two or three convolutions and a shortcut: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride).

    An odd height or width is halved upwards.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, config: ImageNetResNetConfig
    ):
        super().__init__()
        if config.block == "basic":
            widths, kernel_sizes, strides = [out_channels] * 2, (3, 3), (stride, 1)
        else:
            widths, kernel_sizes = [out_channels // 4] * 2 + [out_channels], (1, 3, 1)
            strides = (stride, 1, 1) if config.downsample_in_bottleneck else (1, stride, 1)
        self.convnorms = nn.ModuleList(
            ConvNorm(before, after, size, config, stride=step)
            for before, after, size, step in zip(
                [in_channels, *widths[:-1]], widths, kernel_sizes, strides, strict=True
            )
        )
        self.projection = (
            ConvNorm(in_channels, out_channels, 1, config, stride=stride)
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *inner, last = self.convnorms
        y = x
        for convnorm in inner:
            y = F.relu(convnorm(y))  # whatever the activation, as on the Hub
        shortcut = x if self.projection is None else self.projection(x)
        return self.activation(last(y) + shortcut)


class ImageNetResNet(nn.Module):
    """images (B, H, W, C), or the Hub's (B, C, H, W) -> logits (B, num_classes)."""

    def __init__(self, config: ImageNetResNetConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        self.stem = ConvNorm(config.in_channels, config.embedding_channels, 7, config, stride=2)
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels, out_channels, stride, config)
            for in_channels, out_channels, stride in config.blocks
        )
        self.linear = nn.Linear(config.stage_channels[-1], config.num_classes)
        self.activation = ACTIVATIONS[config.activation]
        self.in_channels = config.in_channels
        initialize(self, config.initializer, generator)

    def forward(self, images: torch.Tensor) -> ModelOutput:
        if not channels_first(images.shape, self.in_channels):
            images = to_channels_first(images)
        x = self.activation(self.stem(images))  # (B, C, H/2, W/2)
        x = overlapping_max_pool(x)  # (B, C, H/4, W/4)
        for block in self.blocks:
            x = block(x)
        logits = self.linear(x.mean(dim=(2, 3)))  # global average pool: (B, C)
        return ModelOutput(logits, x.permute(0, 2, 3, 1))
