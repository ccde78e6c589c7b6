"""Linear regression and the multilayer perceptron: a row of numbers to one number.

>>> MLP(MLPConfig(hidden_dims=(64,), initializer="he-normal"))(inputs)  # (B,)
"""

from itertools import pairwise

import torch
from torch import nn

from jaxmodels.shared.configs import MLPConfig
from torchref.models.layers import ACTIVATIONS, initialize


class MLP(nn.Module):
    """inputs (B, F) -> outputs (B,)."""

    def __init__(self, config: MLPConfig, *, generator: torch.Generator | None = None):
        super().__init__()
        widths = (config.num_features, *config.hidden_dims)
        self.hidden = nn.ModuleList([nn.Linear(*sizes) for sizes in pairwise(widths)])
        self.dropout = nn.Dropout(config.dropout_rate)
        self.linear = nn.Linear(widths[-1], 1)
        self.activation = ACTIVATIONS[config.activation]
        initialize(self, config.initializer, generator)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = inputs
        for layer in self.hidden:
            x = self.activation(layer(x))
            x = self.dropout(x)
        return self.linear(x)[:, 0]
