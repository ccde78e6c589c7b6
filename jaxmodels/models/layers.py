"""The layers that library versions would make differ from torch's; everything else is Flax's own.

`Conv` pads by symmetric integers and `BatchNorm` keeps torch's running statistics; both compute in
`dtype` (None: the parameters' own, so a model cast to float64 is float64 throughout).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.ops import batch_norm, conv2d
from jaxmodels.shared.configs import INITIALIZERS

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "swish": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class Conv(nnx.Module):
    """Square 2-D convolution: x (B, H, W, C_in) -> (B, H', W', C_out), padding on every side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        use_bias: bool = True,
        initializer: str,
        dtype: jnp.dtype | None,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        draw = kernel_initializer(initializer, kernel_size**2 * in_channels)
        self.kernel = nnx.Param(draw(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_channels)) if use_bias else None
        self.stride = stride
        self.padding = padding
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        dtype = self.dtype or kernel.dtype
        x = conv2d(
            x.astype(dtype),
            kernel.astype(dtype),
            strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
        )
        return x if self.bias is None else x + self.bias[...].astype(dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last (Ioffe & Szegedy 2015), by torch's rules.

    Training normalises with the biased batch variance and moves the running variance towards the
    unbiased one; Flax's own layer keeps the biased one. Under jit the batch is the global batch.
    Statistics are float32 at least, whatever the input.
    """

    def __init__(self, num_features: int, *, momentum: float, epsilon: float):
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))
        self.momentum = momentum
        self.epsilon = epsilon

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        scale, bias = self.scale[...], self.bias[...]
        if not train:
            factor = scale * jax.lax.rsqrt(self.var[...] + self.epsilon)
            return ((x - self.mean[...]) * factor + bias).astype(x.dtype)
        count = x.size // x.shape[-1]
        if count < 2:
            raise ValueError(f"BatchNorm needs more than one value a channel, got shape {x.shape}")
        x, mean, variance = batch_norm(x, scale, bias, epsilon=self.epsilon)
        self.mean[...] += self.momentum * (mean - self.mean[...])
        self.var[...] += self.momentum * (variance * (count / (count - 1)) - self.var[...])
        return x


class Embedding(nnx.Module):
    """A table of rows drawn from N(0, deviation^2), by default torch's: ids (...) -> (..., size).

    Flax's own draws at 1 / sqrt(size), and keeps the dtype it was made in: a model cast to float64
    would look up float32. An id outside the table gives NaN.
    """

    def __init__(self, count: int, size: int, *, deviation: float = 1.0, rngs: nnx.Rngs):
        self.embedding = nnx.Param(draw_normal(rngs.params(), (count, size), deviation=deviation))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding[...], ids, axis=0)


def linear(
    in_features: int,
    out_features: int,
    *,
    initializer: str,
    dtype: jnp.dtype | None,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Flax's linear layer with the config's initialiser and a zero bias."""
    return nnx.Linear(
        in_features,
        out_features,
        kernel_init=kernel_initializer(initializer, in_features),
        dtype=dtype,
        rngs=rngs,
    )


def layer_norm(num_features: int, *, epsilon: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Flax's LayerNorm with two-pass statistics (Ba et al. 2016): x (..., C) -> (..., C).

    It computes in its parameters' dtype whatever the input's, as torch's autocast does.
    """
    return nnx.LayerNorm(num_features, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def kernel_initializer(name: str, fan_in: int) -> jax.nn.initializers.Initializer:
    """The normal draw that the config names, for a kernel with that many inputs an output."""
    return partial(draw_normal, deviation=INITIALIZERS[name](fan_in))


def draw_normal(
    key: jax.Array,
    shape: Sequence[int],
    dtype: Any = float,
    out_sharding: Any = None,
    *,
    deviation: float,
) -> jax.Array:
    """From N(0, deviation^2): the same bits by itself as within a program that draws a model."""
    normal = jax.random.normal(key, shape, dtype, out_sharding=out_sharding)
    # Without the barrier a compiler folds this constant into the draw's own and rounds once less.
    return jax.lax.optimization_barrier(normal) * jnp.asarray(deviation, dtype)


def overlapping_max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 3x3 window, two pixels apart: x (B, H, W, C) -> (B, H/2, W/2, C).

    An odd height or width is halved upwards. The border is padded with -inf.
    """
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)
