"""CIFAR ResNet of He et al. 2016 ("Deep Residual Learning for Image Recognition", section 4.2).

>>> ResNet(ResNetConfig(depth=20), rngs=nnx.Rngs(0))(images)  # (B, 10)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import BatchNorm, Conv, linear
from jaxmodels.shared.configs import ImageNetResNetConfig, ResNetConfig


class ConvNorm(nnx.Module):
    """Bias-free convolution, then BatchNorm: (B, H, W, C_in) -> (B, H/stride, W/stride, C_out)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        config: ResNetConfig | ImageNetResNetConfig,
        *,
        stride: int = 1,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        self.conv = Conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            use_bias=False,
            initializer=config.initializer,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(
            out_channels, momentum=config.batch_norm_momentum, epsilon=config.batch_norm_epsilon
        )

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return self.norm(self.conv(x), train=train)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut: (B, H, W, C_in) -> (B, H/stride, W/stride, C_out)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        config: ResNetConfig,
        *,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        self.convnorm1 = ConvNorm(
            in_channels, out_channels, 3, config, stride=stride, dtype=dtype, rngs=rngs
        )
        self.convnorm2 = ConvNorm(out_channels, out_channels, 3, config, dtype=dtype, rngs=rngs)
        projects = config.shortcut == "B" and (stride != 1 or in_channels != out_channels)
        self.projection = (
            ConvNorm(in_channels, out_channels, 1, config, stride=stride, dtype=dtype, rngs=rngs)
            if projects
            else None
        )
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = jax.nn.relu(self.convnorm1(x, train=train))
        y = self.convnorm2(y, train=train)
        return jax.nn.relu(y + self.shortcut(x, train=train))

    def shortcut(self, x: jax.Array, *, train: bool) -> jax.Array:
        if self.projection is not None:
            return self.projection(x, train=train)
        x = x[:, :: self.stride, :: self.stride]  # option A: subsample, then zero channels
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.extra_channels)))


class ResNet(nnx.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(self, config: ResNetConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        in_channels = config.stage_channels[0]
        self.stem = ConvNorm(config.in_channels, in_channels, 3, config, dtype=dtype, rngs=rngs)
        blocks = []
        for stage, out_channels in enumerate(config.stage_channels):
            for index in range(config.blocks_per_stage):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(
                    BasicBlock(in_channels, out_channels, stride, config, dtype=dtype, rngs=rngs)
                )
                in_channels = out_channels
        self.blocks = nnx.List(blocks)
        self.linear = linear(
            in_channels, config.num_classes, initializer=config.initializer, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = jax.nn.relu(self.stem(images, train=train))
        for block in self.blocks:
            x = block(x, train=train)
        return self.linear(x.mean(axis=(1, 2)))  # global average pool: (B, C)
