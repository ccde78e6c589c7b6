"""CIFAR ResNet of He et al. 2016 ("Deep Residual Learning for Image Recognition", section 4.2).

>>> ResNet(ResNetConfig(depth=20))(images)  # (B, 10)
"""

import torch
import torch.nn.functional as F
from torch import nn

from jaxmodels.shared.configs import ImageNetResNetConfig, ResNetConfig
from torchref.models.layers import initialize, to_channels_first


class ConvNorm(nn.Module):
    """Bias-free convolution, then BatchNorm: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        config: ResNetConfig | ImageNetResNetConfig,
        *,
        stride: int = 1,
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(
            out_channels, momentum=config.batch_norm_momentum, eps=config.batch_norm_epsilon
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C_in, H, W) -> (B, C_out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: ResNetConfig):
        super().__init__()
        self.convnorm1 = ConvNorm(in_channels, out_channels, 3, config, stride=stride)
        self.convnorm2 = ConvNorm(out_channels, out_channels, 3, config)
        projects = config.shortcut == "B" and (stride != 1 or in_channels != out_channels)
        self.projection = (
            ConvNorm(in_channels, out_channels, 1, config, stride=stride) if projects else None
        )
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.convnorm1(x))
        y = self.convnorm2(y)
        return F.relu(y + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        if self.projection is not None:
            return self.projection(x)
        x = x[:, :, :: self.stride, :: self.stride]  # option A: subsample, then zero channels
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))


class ResNet(nn.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: ResNetConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        in_channels = config.stage_channels[0]
        self.stem = ConvNorm(config.in_channels, in_channels, 3, config)
        blocks = []
        for stage, out_channels in enumerate(config.stage_channels):
            for index in range(config.blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(BasicBlock(in_channels, out_channels, stride, config))
                in_channels = out_channels
        self.blocks = nn.ModuleList(blocks)
        self.linear = nn.Linear(in_channels, config.num_classes)
        initialize(self, config.initializer, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(to_channels_first(images)))
        for block in self.blocks:
            x = block(x)
        return self.linear(x.mean(dim=(2, 3)))  # global average pool: (B, C)
