"""Convolution, max-pooling and batch normalisation with gradients that are fast on a CPU.

Differentiated automatically, a small CNN spends most of a training step on XLA's CPU backend in

* the kernel gradient: a convolution whose "channels" are the batch, which transposes both operands
  to (C, H, W, B) and recomputes what led to them, inside a badly strided loop. `conv2d` takes one
  matrix product per few images instead.
* the gradient of a max-pool: a scalar loop over windows that scatters. `max_pool` compares.
* batch normalisation: more passes over the activations than it needs. `batch_norm` states the
  closed form, in two.

`python scripts/benchmark.py --ops` times each against its plain form. Off the CPU the gradients of
the first two are XLA's own. All are `jax.custom_vjp`, hence reverse mode only: `jax.grad` and
`jax.vjp`, not `jax.jvp`.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[jax.Array, jax.Array, jax.Array]

# Images per matrix product: 4 keep the expanded operands of a CIFAR-sized layer within a core's L2
# cache. Allocating (page-faulting) them for the whole batch would cost more than the product.
_CHUNK = 4


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> jax.Array:
    """Cross-correlates x (B, H, W, Cin) with kernel (kh, kw, Cin, Cout) -> (B, H', W', Cout).

    `padding` is symmetric, as in torch.
    """
    return _conv2d(x, kernel, tuple(strides), tuple(padding))


def plain_conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> jax.Array:
    """The same convolution with XLA's own gradients."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=[(p, p) for p in padding],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of each 2x2 window: x (B, H, W, C), H and W even -> (B, H/2, W/2, C).

    The gradient goes to the first of equal maxima, in torch as here.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"max_pool needs an even height and width, got shape {x.shape}")
    return _max_pool(x)


def plain_max_pool(x: jax.Array) -> jax.Array:
    """The same maximum with XLA's own gradient."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float) -> Triple:
    """Normalises x over all axes but the last; returns (y, mean, biased variance).

    y has x's dtype. So have the statistics, but never one narrower than float32. All three are
    differentiable in x, and y also in scale and bias.
    """
    return _batch_norm(x, scale, bias, epsilon)


def plain_batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float) -> Triple:
    """The same normalisation, left to automatic differentiation."""
    centre, residual, variance = _statistics(x)
    centred = x.astype(centre.dtype) - centre - residual
    y = centred * (lax.rsqrt(variance + epsilon) * scale) + bias
    return y.astype(x.dtype), centre + residual, variance


def _statistics(x: jax.Array) -> Triple:
    """A mean in two parts, centre + residual, and the biased variance, each (C,).

    This is the corrected two-pass algorithm (Chan, Golub & LeVeque 1983, "Algorithms for computing
    the sample variance"). E[x^2] - E[x]^2 cancels catastrophically when |mean| >> std (and saves
    only 3% of a step). Even a mean rounded to float32 is then off by more than the normalised
    values can bear, hence the residual.
    """
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(_accumulator(x.dtype))
    centre = wide.mean(axes)
    residual = (wide - centre).mean(axes)
    variance = jnp.square(wide - centre).mean(axes) - jnp.square(residual)
    return centre, residual, variance


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


# --- Convolution ----------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv2d(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: tuple[int, ...]
) -> jax.Array:
    return plain_conv2d(x, kernel, strides=strides, padding=padding)


def _conv2d_forward(x, kernel, strides, padding):
    return _conv2d(x, kernel, strides, padding), (x, kernel)


def _conv2d_backward(strides, padding, residuals, dy):
    x, kernel = residuals
    conv = functools.partial(plain_conv2d, strides=strides, padding=padding)

    def plain(x, dy):
        return jax.vjp(lambda k: conv(x, k), kernel)[1](dy)[0]

    def chunked(x, dy):
        return _kernel_gradient(x, dy, kernel.shape, strides, padding).astype(kernel.dtype)

    # XLA's input gradient, a convolution with the flipped kernel, is as fast as the forward pass.
    (dx,) = jax.vjp(lambda x: conv(x, kernel), x)[1](dy)
    if (
        _chunk_size(len(x)) < _CHUNK or not dy.size
    ):  # too many small products to pay, or nothing to do
        return dx, plain(x, dy)
    return dx, lax.platform_dependent(x, dy, cpu=chunked, default=plain)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _chunk_size(batch: int) -> int:
    return math.gcd(batch, _CHUNK)


def _kernel_gradient(x, dy, kernel_shape, strides, padding):
    """Sums the kernel gradient over chunks of the batch."""
    size = _chunk_size(len(x))

    def add_chunk(i, total):
        # Slicing here, rather than scanning over a reshaped batch, keeps XLA from fusing (that is,
        # repeating) the computation of x and dy into the reshape: 11% of a ResNet-20 step.
        chunk_x = lax.dynamic_slice_in_dim(x, i * size, size)
        chunk_dy = lax.dynamic_slice_in_dim(dy, i * size, size)
        return total + _chunk_gradient(chunk_x, chunk_dy, kernel_shape, strides, padding)

    zeros = jnp.zeros(kernel_shape, _accumulator(x.dtype))
    return lax.fori_loop(0, len(x) // size, add_chunk, zeros)


def _chunk_gradient(x, dy, kernel_shape, strides, padding):
    """dkernel[a, b, i, o] = sum over n, q, r of x[n, s q + a - p, s r + b - p, i] dy[n, q, r, o].

    The shift by a is made on dy and the shift by b on x, so that one product, of a matrix with
    kw Cin columns and one with kh Cout, covers all taps: it copies kw + kh planes where im2col
    would copy kw kh.
    """
    kh, kw, cin, cout = kernel_shape
    height = x.shape[1]
    rows, columns = dy.shape[1:3]
    zero = jnp.zeros((), x.dtype)

    low, high = kh - 1 - padding[0], height - 1 + padding[0] - strides[0] * (rows - 1)
    spread = lax.pad(dy, zero, ((0, 0, 0), (low, high, strides[0] - 1), (0, 0, 0), (0, 0, 0)))
    padded = lax.pad(x, zero, ((0, 0, 0), (0, 0, 0), (padding[1], padding[1], 0), (0, 0, 0)))
    # Fused into the concatenation, the padding would be decided anew for each copied element; the
    # barrier leaves plain copies of whole pixels, which halves the time at 16 channels.
    spread, padded = lax.optimization_barrier((spread, padded))

    def rows_of_dy(a):
        """dy on the rows of x that tap row a reads: result[:, s q + a - p] = dy[:, q], else 0."""
        return lax.slice_in_dim(spread, kh - 1 - a, kh - 1 - a + height, axis=1)

    def columns_of_x(b):
        """The columns that tap column b reads."""
        return lax.slice_in_dim(padded, b, b + strides[1] * (columns - 1) + 1, strides[1], axis=2)

    left = jnp.concatenate([columns_of_x(b) for b in range(kw)], axis=-1).reshape(-1, kw * cin)
    right = jnp.concatenate([rows_of_dy(a) for a in range(kh)], axis=-1).reshape(-1, kh * cout)
    product = lax.dot_general(
        left, right, (((0,), (0,)), ((), ())), preferred_element_type=_accumulator(x.dtype)
    )
    return product.reshape(kw, cin, kh, cout).transpose(2, 0, 1, 3)


# --- Maximum pooling ------------------------------------------------------------------------------


@jax.custom_vjp
def _max_pool(x: jax.Array) -> jax.Array:
    upper_left, upper_right, lower_left, lower_right = _corners(x)
    return jnp.maximum(jnp.maximum(upper_left, upper_right), jnp.maximum(lower_left, lower_right))


def _corners(x):
    """The four elements of every 2x2 window, row by row, each (B, H/2, W/2, C)."""
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return [windows[:, :, row, :, column] for row in range(2) for column in range(2)]


def _max_pool_forward(x):
    return _max_pool(x), x


def _max_pool_backward(x, dy):
    def plain(x, dy):
        return jax.vjp(plain_max_pool, x)[1](dy)[0]

    return (lax.platform_dependent(x, dy, cpu=_max_pool_gradient, default=plain),)


def _max_pool_gradient(x, dy):
    """Comparisons of the four, where XLA's CPU backend loops over windows and scatters.

    Not with the maximum, which may be none of them: XLA may compute x anew for this, and round it
    otherwise than where the maximum was taken, as it does on a mesh.
    """
    corners = _corners(x)
    taken = jnp.zeros(dy.shape, bool)
    parts = []
    for number, corner in enumerate(corners[:3]):
        first = ~taken
        for later in corners[number + 1 :]:
            first &= corner >= later
        parts.append(jnp.where(first, dy, 0))
        taken |= first
    parts.append(jnp.where(taken, 0, dy))
    rows = [jnp.stack(parts[:2], axis=3), jnp.stack(parts[2:], axis=3)]  # (B, H/2, W/2, 2, C)
    return jnp.stack(rows, axis=2).reshape(x.shape)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


# --- Batch normalisation --------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Triple:
    return plain_batch_norm(x, scale, bias, epsilon=epsilon)


def _batch_norm_forward(x, scale, bias, epsilon):
    return _batch_norm(x, scale, bias, epsilon), (x, scale, bias, *_statistics(x))


def _batch_norm_backward(epsilon, residuals, cotangents):
    x, scale, bias, centre, residual, variance = residuals
    dy, dmean, dvariance = cotangents
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    inverse = lax.rsqrt(variance + epsilon)
    centred = x.astype(centre.dtype) - centre - residual
    dy = dy.astype(centre.dtype)

    dbias = dy.sum(axes)
    dscale = (dy * centred).sum(axes) * inverse
    # A rounded mean(dy) is off by the same amount for all elements of a channel and adds up in the
    # next sums, so it too gets a residual; torch takes these means in float64.
    mean_dy = dbias / count
    dy = dy - mean_dy
    dx = scale * inverse * (dy - dy.mean(axes) - centred * (inverse * dscale / count))
    dx += dmean / count + centred * (2 * dvariance / count)  # what reaches x through the statistics
    return dx.astype(x.dtype), dscale.astype(scale.dtype), dbias.astype(bias.dtype)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
