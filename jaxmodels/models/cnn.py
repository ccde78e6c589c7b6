"""Plain convolutional classifiers: `SimpleCNN` (two convolutions) and `CNN` (VGG-style stages).

>>> SimpleCNN(SimpleCNNConfig(), rngs=nnx.Rngs(0))(images)  # (B, 10)
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import ACTIVATIONS, BatchNorm, Conv, linear
from jaxmodels.ops import max_pool
from jaxmodels.shared.configs import CNNConfig, SimpleCNNConfig


class ConvBlock(nnx.Module):
    """Convolution, optional BatchNorm, activation: (B, H, W, C_in) -> (B, H, W, C_out)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        config: SimpleCNNConfig | CNNConfig,
        *,
        batch_norm: bool,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            use_bias=not batch_norm,  # BatchNorm's own bias would make it redundant
            initializer=config.initializer,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = (
            BatchNorm(
                out_channels,
                momentum=config.batch_norm_momentum,
                epsilon=config.batch_norm_epsilon,
            )
            if batch_norm
            else None
        )
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x, train=train)
        return self.activation(x)


class SimpleCNN(nnx.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: SimpleCNNConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        channels1, channels2 = config.channels
        hidden1, hidden2 = config.hidden_dims
        size, norm = config.kernel_size, config.batch_norm
        num_features = (config.image_size // 4) ** 2 * channels2
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.block1 = ConvBlock(
            config.in_channels, channels1, size, config, batch_norm=norm, dtype=dtype, rngs=rngs
        )
        self.block2 = ConvBlock(
            channels1, channels2, size, config, batch_norm=norm, dtype=dtype, rngs=rngs
        )
        self.linear1 = linear(num_features, hidden1, **shared)
        self.dropout1 = nnx.Dropout(config.dropout_rate)
        self.linear2 = linear(hidden1, hidden2, **shared)
        self.dropout2 = nnx.Dropout(config.dropout_rate)
        self.linear3 = linear(hidden2, config.num_classes, **shared)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = max_pool(self.block1(images, train=train))
        x = max_pool(self.block2(x, train=train))
        x = x.reshape(len(x), -1)  # (B, H/4 * W/4 * C2)
        x = self.activation(self.linear1(x))
        x = self.dropout1(x, deterministic=not train, rngs=rngs)
        x = self.activation(self.linear2(x))
        x = self.dropout2(x, deterministic=not train, rngs=rngs)
        return self.linear3(x)


class Stage(nnx.Module):
    """Convolutions at one width, a 2x2 max-pool, dropout: (B, H, W, C) -> (B, H/2, W/2, C')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: CNNConfig,
        *,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        widths = [in_channels] + [out_channels] * config.convolutions_per_stage
        self.blocks = nnx.List(
            [
                ConvBlock(width, out_channels, 3, config, batch_norm=True, dtype=dtype, rngs=rngs)
                for width in widths[:-1]
            ]
        )
        self.dropout = nnx.Dropout(config.stage_dropout_rate)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        for block in self.blocks:
            x = block(x, train=train)
        return self.dropout(max_pool(x), deterministic=not train, rngs=rngs)


class CNN(nnx.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: CNNConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        widths = (config.in_channels, *config.stage_channels)
        final_size = config.image_size // 2 ** len(config.stage_channels)
        shared = {"initializer": config.initializer, "dtype": dtype, "rngs": rngs}
        self.stages = nnx.List(
            [
                Stage(in_channels, out_channels, config, dtype=dtype, rngs=rngs)
                for in_channels, out_channels in pairwise(widths)
            ]
        )
        self.linear1 = linear(final_size**2 * widths[-1], config.hidden_dim, **shared)
        self.dropout = nnx.Dropout(config.dropout_rate)
        self.linear2 = linear(config.hidden_dim, config.num_classes, **shared)
        self.activation = ACTIVATIONS[config.activation]

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = images
        for stage in self.stages:
            x = stage(x, train=train, rngs=rngs)
        x = x.reshape(len(x), -1)  # (B, H' * W' * C')
        x = self.activation(self.linear1(x))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.linear2(x)
