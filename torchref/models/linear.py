"""Logistic regression on raw pixels, the baseline.

>>> LogisticRegression(LogisticRegressionConfig())(images)  # (B, 10)
"""

import torch
from torch import nn

from jaxmodels.shared.configs import LogisticRegressionConfig
from torchref.models.layers import initialize


class LogisticRegression(nn.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(
        self, config: LogisticRegressionConfig, *, generator: torch.Generator | None = None
    ):
        super().__init__()
        num_pixels = config.image_size**2 * config.in_channels
        self.linear = nn.Linear(num_pixels, config.num_classes)
        initialize(self, config.initializer, generator)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(images.flatten(1))
