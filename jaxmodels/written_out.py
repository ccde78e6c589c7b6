"""Convolution and linear layer from slices, products and sums alone, for whoever wants to see them.

`written_out(model)` computes with them what the model's own layers compute.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.layers import Conv
from jaxmodels.modules import named_modules, replace_call


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """x (..., I), kernel (I, O), bias (O,) -> (..., O)."""
    y = (x[..., :, None] * kernel).sum(-2)
    return y if bias is None else y + bias


def convolution(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
) -> jax.Array:
    """x (B, H, W, I), kernel (K, K, I, O), bias (O,) -> (B, H', W', O): a cross-correlation.

    A sum over the kernel's places of a linear layer on the pixels that lie under each.
    """
    size = kernel.shape[0]
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height, width = ((length - size) // stride + 1 for length in x.shape[1:3])
    y = sum(
        linear(
            x[:, row : row + stride * height : stride, column : column + stride * width : stride],
            kernel[row, column],
        )
        for row in range(size)
        for column in range(size)
    )
    assert isinstance(y, jax.Array)
    return y if bias is None else y + bias


def written_out(model: nnx.Module) -> nnx.Module:
    """A copy whose convolutions and linear layers are computed by the above."""
    model = nnx.merge(*nnx.split(model))
    for _, module in named_modules(model):
        if isinstance(module, Conv):
            replace_call(module, _call_convolution)
        elif isinstance(module, nnx.Linear):
            replace_call(module, _call_linear)
    return model


def _call_convolution(self: Any, x: jax.Array) -> jax.Array:
    bias = None if self.bias is None else self.bias[...]
    return convolution(x, self.kernel[...], bias, stride=self.stride, padding=self.padding)


def _call_linear(self: Any, x: jax.Array) -> jax.Array:
    return linear(x, self.kernel[...], None if self.bias is None else self.bias[...])
