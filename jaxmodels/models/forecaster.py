"""Forecasters of time series: a window of features to quantiles at every horizon.

>>> RecurrentForecaster(RecurrentForecasterConfig(), rngs=nnx.Rngs(0))(inputs)  # (B, 3, 3)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import linear
from jaxmodels.models.recurrent import Recurrent
from jaxmodels.shared.configs import RecurrentForecasterConfig


class RecurrentForecaster(nnx.Module):
    """inputs (B, T, F), the newest step last -> outputs (B, num_horizons, num_quantiles)."""

    def __init__(
        self, config: RecurrentForecasterConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs
    ):
        self.recurrent = Recurrent(config.num_features, config, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.linear = linear(
            config.hidden_dim,
            config.num_horizons * len(config.quantiles),
            initializer=config.initializer,
            dtype=dtype,
            rngs=rngs,
        )
        self.num_horizons = config.num_horizons

    def __call__(
        self, inputs: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x, _ = self.recurrent(inputs, train=train, rngs=rngs)
        x = x[:, -1]  # (B, hidden_dim): the output of the step that has seen the whole window
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x = self.linear(x)
        return x.reshape(len(x), self.num_horizons, -1)  # (B, H, Q)
