"""Forecasters of time series: a window of features to quantiles at every horizon.

>>> RecurrentForecaster(RecurrentForecasterConfig())(inputs)  # (B, 3, 3)
"""

import torch
from torch import nn

from jaxmodels.shared.configs import RecurrentForecasterConfig
from torchref.models.layers import initialize
from torchref.models.recurrent import Recurrent


class RecurrentForecaster(nn.Module):
    """inputs (B, T, F), the newest step last -> outputs (B, num_horizons, num_quantiles)."""

    def __init__(
        self, config: RecurrentForecasterConfig, *, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.recurrent = Recurrent(config.num_features, config)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.linear = nn.Linear(config.hidden_dim, config.num_horizons * len(config.quantiles))
        self.num_horizons = config.num_horizons
        initialize(self, config.initializer, generator)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x, _ = self.recurrent(inputs)
        x = x[:, -1]  # (B, hidden_dim): the output of the step that has seen the whole window
        x = self.dropout(x)
        x = self.linear(x)
        return x.reshape(len(x), self.num_horizons, -1)  # (B, H, Q)
