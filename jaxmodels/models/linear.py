"""Logistic regression on raw pixels, the baseline.

>>> LogisticRegression(LogisticRegressionConfig(), rngs=nnx.Rngs(0))(images)  # (B, 10)
"""

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import linear
from jaxmodels.shared.configs import LogisticRegressionConfig


class LogisticRegression(nnx.Module):
    """images (B, H, W, C) -> logits (B, num_classes)."""

    def __init__(
        self, config: LogisticRegressionConfig, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs
    ):
        num_pixels = config.image_size**2 * config.in_channels
        self.linear = linear(
            num_pixels, config.num_classes, initializer=config.initializer, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, images: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        return self.linear(images.reshape(len(images), -1))
