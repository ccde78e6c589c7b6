"""jaxmodels.ops against the plain formulations, left to XLA's own differentiation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import ops
from jaxmodels.sharding import make_mesh

EPSILON = 1e-5

# x shape, kernel shape, strides, padding: sizes pairwise distinct, so that no swapped axis goes
# unseen. Padding reaches beyond the fourth kernel, and its strides leave remainders; the last batch
# does not divide into chunks, and takes the plain path.
CONVOLUTIONS = [
    ((8, 11, 9, 3), (3, 5, 3, 7), (1, 1), (1, 2)),
    ((16, 12, 10, 5), (3, 3, 5, 6), (2, 2), (1, 1)),
    ((4, 13, 10, 2), (5, 3, 2, 6), (3, 2), (0, 1)),
    ((12, 9, 14, 5), (2, 4, 5, 3), (2, 3), (3, 0)),
    ((8, 10, 7, 6), (1, 1, 6, 5), (2, 1), (0, 0)),
    ((5, 8, 6, 3), (3, 2, 3, 4), (1, 2), (1, 1)),
]


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def as_float64(inputs):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), inputs)


def relative(actual, expected):
    actual, expected = (np.asarray(a, np.float64) for a in (actual, expected))
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def value_and_gradients(function, arguments, cotangent):
    def run(arguments, cotangent):
        value, pullback = jax.vjp(function, *arguments)
        return jax.tree.leaves((value, pullback(cotangent)))

    return jax.jit(run)(arguments, cotangent)


def both_convolutions(case, dtype):
    x_shape, kernel_shape, strides, padding = case
    arguments = jnp.asarray(draw(0, *x_shape), dtype), jnp.asarray(draw(1, *kernel_shape), dtype)
    options = {"strides": strides, "padding": padding}
    shape = ops.plain_conv2d(*arguments, **options).shape
    cotangent = jnp.asarray(draw(2, *shape), dtype)
    return [
        value_and_gradients(lambda x, k, f=f: f(x, k, **options), arguments, cotangent)
        for f in (ops.conv2d, ops.plain_conv2d)
    ]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d_float64(case):
    with jax.enable_x64(True):
        for actual, expected in zip(*both_convolutions(case, jnp.float64), strict=True):
            assert actual.dtype == jnp.float64
            assert relative(actual, expected) <= 1e-13


def test_conv2d_float32_error():
    shapes = (32, 16, 14, 8), (3, 3, 8, 12), (32, 16, 14, 12)  # x, kernel, output
    inputs = [draw(i, *shape).astype("f") for i, shape in enumerate(shapes)]

    def run(function, x, kernel, cotangent):
        padded = functools.partial(function, padding=(1, 1))
        return value_and_gradients(padded, (x, kernel), cotangent)

    with jax.enable_x64(True):
        truth = run(ops.plain_conv2d, *as_float64(inputs))
        actual, plain = (run(f, *inputs) for f in (ops.conv2d, ops.plain_conv2d))
    for a, p, t in zip(actual, plain, truth, strict=True):
        assert relative(a, t) <= 2 * relative(p, t)


@pytest.mark.parametrize("case", CONVOLUTIONS[:2])
def test_conv2d_bfloat16(case):
    for actual, expected in zip(*both_convolutions(case, jnp.bfloat16), strict=True):
        assert actual.dtype == jnp.bfloat16
        assert relative(actual, expected) <= 1e-2


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("function", [ops.max_pool, ops._max_pool_gradient])
def test_max_pool_is_xlas_own_and_takes_the_first_of_ties(function, ties):
    x, dy = draw(0, 3, 6, 8, 5), draw(1, 3, 3, 4, 5)
    if ties:
        x = np.round(x)
    with jax.enable_x64(True):
        y, dx = value_and_gradients(ops.plain_max_pool, (x,), dy)
        if function is ops.max_pool:
            found, gradient = value_and_gradients(function, (x,), dy)
            np.testing.assert_array_equal(found, y)
        else:
            gradient = function(jnp.asarray(x), dy)
        np.testing.assert_array_equal(gradient, dx)
    windows = x.reshape(3, 3, 2, 4, 2, 5).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 4)
    assert ties == any(np.sum(w == w.max()) > 1 for w in windows)


def test_max_pool_finds_its_maxima_where_a_mesh_computes_its_input_twice():
    """On four devices XLA normalises anew for the gradient, and rounds otherwise than before."""
    arrays = [draw(n, *s) for n, s in enumerate([(12, 8, 8, 4), (3, 3, 4, 6), (6,), (6,)])]
    second = draw(4, 3, 3, 6, 5)

    def loss(x, kernel, scale, bias):
        normal = ops.plain_batch_norm(ops.conv2d(x, kernel), scale, bias, epsilon=EPSILON)[0]
        return jnp.sin(ops.conv2d(ops.max_pool(jax.nn.relu(normal)), jnp.asarray(second))).sum()

    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        mesh = make_mesh({"data": 4}, jax.devices()[:4])
        rows = jax.NamedSharding(mesh, jax.P("data"))
        whole = jax.NamedSharding(mesh, jax.P())
        on_mesh = gradient(
            jax.device_put(arrays[0], rows), *(jax.device_put(a, whole) for a in arrays[1:])
        )
        for one, found in zip(gradient(*map(jnp.asarray, arrays)), on_mesh, strict=True):
            assert relative(found, one) <= 1e-12


def test_max_pool_refuses_an_odd_size():
    with pytest.raises(ValueError, match="even height and width"):
        ops.max_pool(jnp.zeros((1, 4, 5, 2)))


def normalise(function, x, scale, bias, cotangents):
    return value_and_gradients(
        lambda *a: function(*a, epsilon=EPSILON), (x, scale, bias), cotangents
    )


def normalisation_inputs(shape, offset):
    """x, scale, bias and the cotangents of y, mean and variance, in float32."""
    c = shape[-1]
    x, *rest = (
        draw(i, *s).astype("f") for i, s in enumerate((shape, (c,), (c,), shape, (c,), (c,)))
    )
    return x + np.float32(offset), rest[0], rest[1], tuple(rest[2:])


@pytest.mark.parametrize("shape", [(7, 5, 6, 3), (19, 4)])
def test_batch_norm_float64(shape):
    with jax.enable_x64(True):
        inputs = as_float64(normalisation_inputs(shape, 1))
        actual, expected = (normalise(f, *inputs) for f in (ops.batch_norm, ops.plain_batch_norm))
        for a, e in zip(actual, expected, strict=True):
            assert a.dtype == jnp.float64
            assert relative(a, e) <= 1e-13


def test_batch_norm_bfloat16():
    x, scale, bias, cotangents = normalisation_inputs((7, 5, 6, 3), 1)
    x, dy = (jnp.asarray(a, jnp.bfloat16) for a in (x, cotangents[0]))
    inputs = x, scale, bias, (dy, *cotangents[1:])
    actual, expected = (normalise(f, *inputs) for f in (ops.batch_norm, ops.plain_batch_norm))
    dtypes = ["bfloat16", "float32", "float32"]  # of y, mean, variance as of dx, dscale, dbias
    assert [a.dtype.name for a in actual] == 2 * dtypes
    for a, e in zip(actual, expected, strict=True):
        assert relative(a, e) <= 1e-2


def one_pass_batch_norm(x, scale, bias, *, epsilon):
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    variance = (x * x).mean(axes) - mean * mean
    return (x - mean) * (jax.lax.rsqrt(variance + epsilon) * scale) + bias, mean, variance


def float32_error_ratios(function, offset):
    """Error of each output and gradient, relative to that of the plain two-pass formulation."""
    with jax.enable_x64(True):
        inputs = normalisation_inputs((32, 16, 14, 8), offset)
        truth = normalise(ops.plain_batch_norm, *as_float64(inputs))
        actual, plain = (normalise(f, *inputs) for f in (function, ops.plain_batch_norm))
    return [relative(a, t) / relative(p, t) for a, p, t in zip(actual, plain, truth, strict=True)]


@pytest.mark.parametrize("offset", [0, 100])
def test_batch_norm_float32_error(offset):
    assert max(float32_error_ratios(ops.batch_norm, offset)) <= 2


def test_one_pass_variance_would_fail():
    """Negative control: the bound above rejects the numerics it is there to reject."""
    assert max(float32_error_ratios(one_pass_batch_norm, 100)) > 10
