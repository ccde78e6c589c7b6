"""A transformer that forecasts from a window: the plain encoder, or PatchTST (Nie et al. 2023).

>>> TimeSeriesTransformer(TimeSeriesTransformerConfig(), rngs=nnx.Rngs(0))(inputs)  # (B, 3, 3)

PatchTST's own blocks normalise after each sum, by BatchNorm; these do before it, by LayerNorm. It
repeats a window's last value to fill the last patch; here the patches end where the window does,
and the oldest steps that fill none are left out.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.models.layers import Embedding, layer_norm, linear
from jaxmodels.models.transformer import Block, run_blocks
from jaxmodels.shared.configs import TimeSeriesTransformerConfig

Statistics = tuple[jax.Array, jax.Array]  # means and standard deviations, each (B, 1, F)


class InstanceNorm(nnx.Module):
    """Reversible instance normalisation (Kim et al. 2022): x (B, T, F) -> (B, T, F), statistics.

    Each window and feature is normalised by its own mean and standard deviation (ddof 0), then by
    a learned scale and bias; `inverse` takes a forecast back.
    """

    def __init__(self, num_features: int, *, epsilon: float):
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> tuple[jax.Array, Statistics]:
        mean = x.mean(axis=1, keepdims=True)
        deviation = jnp.sqrt(x.var(axis=1, keepdims=True) + self.epsilon)
        return (x - mean) / deviation * self.scale[...] + self.bias[...], (mean, deviation)

    def inverse(self, x: jax.Array, statistics: Statistics) -> jax.Array:
        """A forecast of the first feature in that feature's own units: (B, H, Q) -> (B, H, Q)."""
        mean, deviation = (value[..., :1] for value in statistics)  # (B, 1, 1)
        return (x - self.bias[0]) / self.scale[0] * deviation + mean


def cut(x: jax.Array, length: int, stride: int) -> jax.Array:
    """Patches that overlap where stride < length: x (B, T, F) -> (B, P, length * F)."""
    first = (x.shape[1] - length) % stride
    starts = np.arange(first, x.shape[1] - length + 1, stride)
    patches = x[:, starts[:, None] + np.arange(length)]  # (B, P, length, F)
    return patches.reshape(*patches.shape[:2], -1)


class TimeSeriesTransformer(nnx.Module):
    """inputs (B, T, F), the newest step last -> outputs (B, num_horizons, num_quantiles).

    The quantiles need not ascend.
    """

    def __init__(
        self,
        config: TimeSeriesTransformerConfig,
        *,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        width, num_patches = config.hidden_dim, config.num_patches
        num_channels = config.num_features if config.channel_independent else 1
        features_per_channel = config.num_features // num_channels
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.instance_norm = (
            InstanceNorm(config.num_features, epsilon=config.instance_norm_epsilon)
            if config.instance_norm
            else None
        )
        self.patch_embedding = linear(config.patch_length * features_per_channel, width, **shared)
        self.position_embedding = Embedding(
            num_patches, width, deviation=config.embedding_deviation, rngs=rngs
        )
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.num_layers)]
        )
        self.norm = layer_norm(width, epsilon=config.layer_norm_epsilon, rngs=rngs)
        self.head = linear(
            num_channels * num_patches * width,
            config.num_horizons * len(config.quantiles),
            **shared,
        )
        self.config = config

    def __call__(
        self, inputs: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        config = self.config
        if inputs.shape[1:] != (config.window, config.num_features):
            raise ValueError(
                f"windows of shape {inputs.shape[1:]} do not fit the model's (window, "
                f"num_features), ({config.window}, {config.num_features})"
            )
        if self.instance_norm is None:
            return self._forecast(inputs, train=train, rngs=rngs)
        x, statistics = self.instance_norm(inputs)
        x = self._forecast(x, train=train, rngs=rngs)
        return self.instance_norm.inverse(x, statistics)

    def _forecast(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """x (B, T, F) -> (B, H, Q) in the scale of the first feature."""
        config, batch_size = self.config, len(x)
        if config.channel_independent:
            x = x.swapaxes(1, 2).reshape(-1, config.window, 1)  # (B * F, T, 1)
        x = self.patch_embedding(cut(x, config.patch_length, config.patch_stride))
        x = x + self.position_embedding(jnp.arange(config.num_patches))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x, _, _ = run_blocks(self.blocks, x, None, config, train=train, rngs=rngs)
        x = self.norm(x)  # (B * channels, P, C)
        x = self.head(x.reshape(batch_size, -1))  # (B, H * Q)
        return x.reshape(batch_size, config.num_horizons, -1)
