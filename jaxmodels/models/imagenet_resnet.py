"""ImageNet ResNet of He et al. 2016 ("Deep Residual Learning for Image Recognition", section 4.1).

>>> ImageNetResNet(SIZES["resnet-18"], rngs=nnx.Rngs(0))(images).logits  # (B, 1000)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import ACTIVATIONS, linear, overlapping_max_pool
from jaxmodels.models.resnet import ConvNorm
from jaxmodels.shared.configs import ImageNetResNetConfig
from jaxmodels.shared.model_output import ModelOutput
from jaxmodels.shared.shapes import channels_first


class ResidualBlock(nnx.Module):
    """Two or three convolutions and a shortcut: (B, H, W, C_in) -> (B, H/stride, W/stride, C_out).

    An odd height or width is halved upwards.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        config: ImageNetResNetConfig,
        *,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        if config.block == "basic":
            widths, kernel_sizes, strides = [out_channels] * 2, (3, 3), (stride, 1)
        else:
            widths, kernel_sizes = [out_channels // 4] * 2 + [out_channels], (1, 3, 1)
            strides = (stride, 1, 1) if config.downsample_in_bottleneck else (1, stride, 1)
        self.convnorms = nnx.List(
            [
                ConvNorm(before, after, size, config, stride=step, dtype=dtype, rngs=rngs)
                for before, after, size, step in zip(
                    [in_channels, *widths[:-1]], widths, kernel_sizes, strides, strict=True
                )
            ]
        )
        self.projection = (
            ConvNorm(in_channels, out_channels, 1, config, stride=stride, dtype=dtype, rngs=rngs)
            if stride != 1 or in_channels != out_channels
            else None
        )
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        *inner, last = self.convnorms
        y = x
        for convnorm in inner:
            y = jax.nn.relu(convnorm(y, train=train))  # whatever the activation, as on the Hub
        shortcut = x if self.projection is None else self.projection(x, train=train)
        return self.activation(last(y, train=train) + shortcut)


class ImageNetResNet(nnx.Module):
    """images (B, H, W, C), or the Hub's (B, C, H, W) -> logits (B, num_classes)."""

    def __init__(
        self, config: ImageNetResNetConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs
    ):
        self.stem = ConvNorm(
            config.in_channels,
            config.embedding_channels,
            7,
            config,
            stride=2,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [
                ResidualBlock(in_channels, out_channels, stride, config, dtype=dtype, rngs=rngs)
                for in_channels, out_channels, stride in config.blocks
            ]
        )
        self.linear = linear(
            config.stage_channels[-1],
            config.num_classes,
            initializer=config.initializer,
            dtype=dtype,
            rngs=rngs,
        )
        self.activation = ACTIVATIONS[config.activation]
        self.in_channels = config.in_channels

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> ModelOutput:
        if channels_first(images.shape, self.in_channels):
            images = images.transpose(0, 2, 3, 1)
        x = self.activation(self.stem(images, train=train))  # (B, H/2, W/2, C)
        x = overlapping_max_pool(x)  # (B, H/4, W/4, C)
        for block in self.blocks:
            x = block(x, train=train)
        return ModelOutput(self.linear(x.mean(axis=(1, 2))), x)  # global average pool: (B, C)
